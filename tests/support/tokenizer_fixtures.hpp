#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>
#include <rapidcheck.h>

#include "runtime/model/tokenizer.hpp"
#include "tests/support/places.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {

/// The file of the tokenizer `name`: needle is the demo model's; llama3, qwen2, gpt2 and, with the extensions .json or .model,
/// llama2, yi and nfkc come from make_tokenizer_fixtures.py.
inline std::filesystem::path tokenizer_path(std::string_view name) {
  const std::filesystem::path root = BATON_SOURCE_DIR;
  if (name == "needle") return root / "models/needle/tokenizer.json";
  const bool has_extension = name.find('.') != std::string_view::npos;
  return root / "tests/fixtures/tokenizers" / (std::string(name) + (has_extension ? "" : ".json"));
}

/// The content of that file as JSON.
inline nlohmann::json tokenizer_json(std::string_view name) {
  std::ifstream file(tokenizer_path(name));
  return nlohmann::json::parse(file);
}

/// Loads a tokenizer.json that exists for as long as this takes.
inline tokenizer load_tokenizer(const nlohmann::json& content) {
  const temporary_directory directory;
  const auto path = directory.path() / "tokenizer.json";
  std::ofstream(path, std::ios::binary) << content.dump();
  return tokenizer::load_file(path);
}

/// llama2.json with the pre-tokenizer Metaspace in place of a normalizer, as newer files have it.
inline tokenizer metaspace_tokenizer(const char* prepend_scheme = "first") {
  nlohmann::json content = tokenizer_json("llama2");
  content["normalizer"] = nullptr;
  content["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", prepend_scheme}, {"split", false}};
  return load_tokenizer(content);
}

/// One of these tokenizers, or `metaspace`, loaded once.
inline const tokenizer& fixture_tokenizer(const std::string& name) {
  static std::map<std::string, tokenizer> loaded;
  auto found = loaded.find(name);
  if (found == loaded.end()) {
    found =
        loaded.emplace(name, name == "metaspace" ? metaspace_tokenizer() : tokenizer::load_file(tokenizer_path(name)))
            .first;
  }
  return found->second;
}

/// All of them.
inline std::vector<std::string> fixture_tokenizer_names() {
  return {"llama3",   "qwen2",      "gpt2",        "needle",  "llama2.model",
          "yi.model", "nfkc.model", "llama2.json", "yi.json", "metaspace"};
}

/// The records of tests/fixtures/tokenizers/`name`.
inline std::vector<nlohmann::json> fixture_lines(std::string_view name) {
  std::ifstream file(std::filesystem::path(BATON_SOURCE_DIR) / "tests/fixtures/tokenizers" / name);
  std::vector<nlohmann::json> records;
  for (std::string line; std::getline(file, line);) records.push_back(nlohmann::json::parse(line));
  return records;
}

inline std::string to_utf8(std::uint32_t c) {
  const auto tail = [c](unsigned shift) { return static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xC0 | (c >> 6)), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xE0 | (c >> 12)), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | (c >> 18)), tail(12), tail(6), tail(0)};
}

/// Any text in UTF-8, with more letters, digits and white space than chance would give.
inline rc::Gen<std::string> any_text() {
  const auto character = rc::gen::weightedOneOf<std::uint32_t>(
      {{8, rc::gen::inRange<std::uint32_t>(0x20, 0x7F)},
       {4, rc::gen::element<std::uint32_t>(' ', ' ', '\n', '\r', '\t', '\'', '<', '|', '>', 0, 0x85, 0xA0, 0x3000)},
       {3, rc::gen::inRange<std::uint32_t>(0x80, 0x800)},
       {3, rc::gen::inRange<std::uint32_t>(0x800, 0xD800)},
       {2, rc::gen::inRange<std::uint32_t>(0xE000, 0x110000)}});
  return rc::gen::map(rc::gen::container<std::vector<std::uint32_t>>(character),
                      [](const std::vector<std::uint32_t>& all) {
                        std::string text;
                        for (const std::uint32_t c : all) text += to_utf8(c);
                        return text;
                      });
}

}  // namespace baton
