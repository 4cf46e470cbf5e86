#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace baton {

struct config_file_limits {
  std::uintmax_t bytes_max = std::uintmax_t{4} << 20;
  bool unique_keys = false;  ///< else the last of two values counts, as to transformers
};

/// The JSON object in a model's configuration file. Throws fault(bad_input) with file, line and column for what is missing,
/// too large, nested too deep or no JSON object.
nlohmann::json parse_config_file(const std::filesystem::path& path, const config_file_limits& limits = {});

/// A value for a message: shortened, and only ASCII is left as it is.
std::string shown(const nlohmann::json& value);

/// One object of a JSON file. A key that is absent or null takes its default, as transformers does it. Functions throw
/// fault(bad_input) with file, key, what was found and what would be right. Borrows the object.
class config_section {
 public:
  config_section(const nlohmann::json& object, std::string where, std::string prefix = {})
      : object_(&object), where_(std::move(where)), prefix_(std::move(prefix)) {}

  [[noreturn]] void refuse(std::string_view key, const std::string& what) const;

  /// nullptr for absent and null.
  [[nodiscard]] const nlohmann::json* find(std::string_view key) const;
  [[nodiscard]] bool has(std::string_view key) const { return object_->contains(key); }
  [[nodiscard]] bool empty() const { return object_->empty(); }

  [[nodiscard]] std::optional<int> integer(std::string_view key, int min, int max) const;
  /// A count of at least 1 and below 2^24 that has to be there.
  [[nodiscard]] int size(std::string_view key) const;
  [[nodiscard]] std::optional<double> positive(std::string_view key) const;
  [[nodiscard]] double required_positive(std::string_view key) const;
  /// 0 or more.
  [[nodiscard]] std::optional<double> not_negative(std::string_view key) const;
  /// Above 0, at most 1.
  [[nodiscard]] std::optional<double> share(std::string_view key) const;
  [[nodiscard]] std::optional<bool> boolean(std::string_view key) const;
  [[nodiscard]] std::optional<std::string> text(std::string_view key) const;
  [[nodiscard]] std::optional<std::vector<std::string>> texts(std::string_view key) const;
  [[nodiscard]] std::optional<config_section> object(std::string_view key) const;
  /// One token id or a list of them.
  [[nodiscard]] std::optional<std::vector<std::int32_t>> tokens(std::string_view key, int vocabulary) const;

  static constexpr int size_max = (1 << 24) - 1;

 private:
  template <class Predicate>
  [[nodiscard]] std::optional<double> number(std::string_view key, Predicate fits, const std::string& right) const;
  [[noreturn]] void expected(std::string_view key, const nlohmann::json& found, const std::string& right) const;
  [[nodiscard]] int as_integer(std::string_view key, const nlohmann::json& value, int min, int max) const;

  const nlohmann::json* object_;
  std::string where_;
  std::string prefix_;
};

}  // namespace baton
