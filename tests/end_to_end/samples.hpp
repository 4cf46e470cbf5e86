#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/places.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {

inline const std::filesystem::path source = BATON_SOURCE_DIR;

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

/// A file of configs/ that can stand in any folder, with `more` at its end. Nobody is silent for so long on a busy machine, or under a
/// sanitizer, unless a test makes it so.
inline std::string config_text(const std::string& name, const std::string& more = {}) {
  auto text = text_of(source / "configs" / name);
  const std::string relative = "../models/needle";
  text.replace(text.find(relative), relative.size(), (source / "models/needle").string());
  return text + (more.find("timeouts") == std::string::npos ? "timeouts: {silence: 20s}\n" : "") + more + '\n';
}

inline std::string config_file(const std::string& name) {
  static const temporary_directory folder;
  return folder.write(name, config_text(name)).string();
}
inline const std::string quickstart = config_file("quickstart.yaml");
inline const std::string many_processes = config_file("processes.yaml");

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
