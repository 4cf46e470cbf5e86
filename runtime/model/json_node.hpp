#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

namespace baton {

/// A value of a JSON file that knows its key, so that what is wrong with it can be said. Its functions throw
/// fault(bad_input), whose `where` is "FILE: KEY". A view: the document and the file's name must outlive it.
class json_node {
 public:
  json_node(const nlohmann::json& value, std::string key, const std::string& file)
      : value_(&value), key_(std::move(key)), file_(&file) {}

  [[noreturn]] void refuse(const std::string& what) const;
  [[nodiscard]] std::string where() const { return key_.empty() ? *file_ : *file_ + ": " + key_; }
  [[nodiscard]] const nlohmann::json& value() const { return *value_; }

  /// Nothing where the key is missing or null.
  [[nodiscard]] std::optional<json_node> find(const char* name) const;
  [[nodiscard]] json_node at(const char* name) const;
  [[nodiscard]] json_node at(std::size_t index) const {
    return child((*value_)[index], "[" + std::to_string(index) + "]");
  }
  [[nodiscard]] json_node child(const nlohmann::json& value, const std::string& suffix) const {
    return {value, key_ + suffix, *file_};
  }
  [[nodiscard]] std::size_t array_size() const;
  [[nodiscard]] const std::string& string() const;
  [[nodiscard]] bool boolean() const;
  [[nodiscard]] std::int32_t token_id() const;
  /// The boolean `name`, `otherwise` where it is missing or null.
  [[nodiscard]] bool flag(const char* name, bool otherwise) const;
  /// Refuses the value unless it is the string `expected`.
  void require_string(const std::string& expected) const;

 private:
  const nlohmann::json* value_;
  std::string key_;
  const std::string* file_;
};

/// The value as it stands in the file, or its type where it is an object or a list.
std::string brief(const nlohmann::json& value);

/// Throws fault(bad_input) with line and column where the file is not JSON; `expected` says what it should have been.
nlohmann::json read_json(const std::filesystem::path& path, const std::string& expected);

}  // namespace baton
