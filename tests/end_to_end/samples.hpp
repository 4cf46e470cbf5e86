#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/places.hpp"

namespace baton {

inline const std::filesystem::path source = BATON_SOURCE_DIR;
inline const std::string quickstart = (source / "configs/quickstart.yaml").string();
inline const std::string many_processes = (source / "configs/processes.yaml").string();

inline nlohmann::json json_of(const std::filesystem::path& file) { return nlohmann::json::parse(std::ifstream(file)); }

/// Without the space that the demo model writes in front of a word.
inline std::string stripped(std::string text) {
  const auto first = text.find_first_not_of(' ');
  return first == std::string::npos ? "" : text.substr(first);
}

inline std::string text_of(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// A sample document with a question that full attention answers right.
struct sample {
  std::string document;
  std::string question;
  std::string answer;
};

inline std::vector<sample> samples_of(const std::string& name) {
  const auto folder = source / "models/needle/documents";
  std::vector<sample> all;
  std::ifstream lines(folder / (name + ".questions.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const auto entry = nlohmann::json::parse(line);
    all.push_back({(folder / (name + ".txt")).string(), entry.at("question"), entry.at("answer")});
  }
  return all;
}

}  // namespace baton
