#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "runtime/config/yaml_tree.hpp"

/// Reads a yaml_document into structs. Everything here throws fault(bad_input) for what it cannot take, `where` being
/// "FILE:LINE:COLUMN: key path"; nothing outlives the document.
namespace baton::config {

/// A value of the file, with the path of keys that leads to it.
class config_value {
 public:
  explicit config_value(const yaml_document& document) : config_value(document, document.root, {}) {}

  [[nodiscard]] const yaml_node& node() const { return *node_; }
  [[nodiscard]] bool is(std::string_view word) const;
  /// The same value, where messages offer `auto` too.
  [[nodiscard]] config_value offering_auto() const;
  /// The values of a list that has at least `length_min`.
  [[nodiscard]] std::vector<config_value> list(std::size_t length_min) const;
  /// Of a mapping: the value of its key number `key`.
  [[nodiscard]] config_value value_of(std::size_t key) const;

  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::int64_t whole(std::int64_t min, std::int64_t max) const;
  [[nodiscard]] std::uint64_t seed() const;
  /// `range` says in words what min and max mean.
  [[nodiscard]] float real(float min, float max, std::string_view range) const;
  [[nodiscard]] std::int64_t bytes(std::int64_t min, std::int64_t max) const;
  [[nodiscard]] int duration_ms(int min, int max) const;

  /// "expected `right`, got …"
  [[noreturn]] void expected(const std::string& right) const;
  [[noreturn]] void refuse(const std::string& why) const;
  [[noreturn]] void refuse_key(std::size_t key, const std::string& why) const;
  [[noreturn]] void refuse_absent(std::string_view key, const std::string& why) const;

 private:
  config_value(const yaml_document& document, const yaml_node& node, std::string path)
      : document_(&document), node_(&node), path_(std::move(path)) {}

  [[nodiscard]] std::string path_of(std::string_view key) const;
  [[nodiscard]] std::string got() const;
  [[noreturn]] void refuse_at(std::size_t offset, const std::string& path, const std::string& why) const;

  const yaml_document* document_;
  const yaml_node* node_;
  std::string path_;
  bool auto_offered_ = false;
};

/// A mapping of which all keys are read one by one. A section that is empty is as good as none.
class config_section {
 public:
  /// Refuses what is no mapping, and a key that is there twice.
  explicit config_section(const config_value& value);

  [[nodiscard]] bool has(std::string_view key) const { return find(key) != nullptr; }

  /// Sets `into` to how(value) where the key is there, and notes that the key is known.
  template <typename T, typename Read>
  void read(std::string_view key, T& into, const Read& how) {
    known_.push_back(key);
    if (const config_value* value = find(key)) into = how(*value);
  }
  /// The same for a key that must be there; `advice` says what to give.
  template <typename T, typename Read>
  void require(std::string_view key, T& into, const Read& how, const std::string& advice) {
    read(key, into, how);
    if (!has(key)) missing_.push_back({key, advice});
  }

  /// For a value that does not go with the others.
  [[noreturn]] void refuse(std::string_view key, const std::string& why) const;
  /// To be called when all keys are read: refuses the first that is not known, then reports the first that is missing.
  void finish() const;

 private:
  struct missing_key {
    std::string_view name;
    std::string advice;
  };

  [[nodiscard]] const config_value* find(std::string_view key) const;

  config_value value_;
  std::vector<config_value> values_;  // one per key
  std::vector<std::string_view> known_;
  std::vector<missing_key> missing_;
};

// How to read one value: each of these returns a function of a config_value, for config_section::read.

inline auto text() {
  return [](const config_value& value) { return value.text(); };
}

template <std::integral T>
auto whole(T min, T max) {
  return [=](const config_value& value) { return static_cast<T>(value.whole(min, max)); };
}

inline auto seed() {
  return [](const config_value& value) { return value.seed(); };
}

inline auto real(float min, float max, std::string_view range) {
  return [=](const config_value& value) { return value.real(min, max, range); };
}

inline auto bytes(std::int64_t min, std::int64_t max) {
  return [=](const config_value& value) { return value.bytes(min, max); };
}

inline auto duration_ms(int min, int max) {
  return [=](const config_value& value) { return value.duration_ms(min, max); };
}

/// `automatic` where the word is `auto`.
template <typename T, typename Read>
auto auto_or(T automatic, Read how) {
  return [=](const config_value& value) -> T {
    if (value.is("auto")) return automatic;
    return how(value.offering_auto());
  };
}

/// One of some words, each with what it means.
template <typename T>
auto one_of(std::vector<std::pair<std::string_view, T>> choices) {
  return [choices = std::move(choices)](const config_value& value) -> T {
    std::string words;
    for (const auto& [word, meaning] : choices) {
      if (value.is(word)) return meaning;
      words += (words.empty() ? "" : ", ") + std::string(word);
    }
    value.expected(choices.size() == 1 ? words : "one of " + words);
  };
}

/// A list, each value read by how(value).
template <typename Read>
auto list(std::size_t length_min, Read how) {
  return [=](const config_value& value) {
    std::vector<std::invoke_result_t<Read, const config_value&>> results;
    for (const config_value& entry : value.list(length_min)) results.push_back(how(entry));
    return results;
  };
}

/// A mapping, read by how(section).
template <typename Read>
auto section(Read how) {
  return [=](const config_value& value) {
    config_section in(value);
    auto result = how(in);
    in.finish();
    return result;
  };
}

/// A list of at least one section with a `name` each; one without a name is called `prefix` and its index.
template <typename Read>
auto named_sections(std::string_view prefix, Read how) {
  return [=](const config_value& value) {
    std::vector<std::invoke_result_t<Read, config_section&>> results;
    std::set<std::string> names;
    for (const config_value& entry : value.list(1)) {
      auto result = section(how)(entry);
      if (result.name.empty()) result.name = std::string(prefix) + std::to_string(results.size());
      if (!names.insert(result.name).second) {
        config_section(entry).refuse("name", "'" + result.name + "' is the name of another one in this list");
      }
      results.push_back(std::move(result));
    }
    return results;
  };
}

}  // namespace baton::config
