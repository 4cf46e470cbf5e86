#include "runtime/model/config_section.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>

#include "kernels/fault.hpp"

namespace baton {

using nlohmann::json;

namespace {

constexpr int json_depth_max = 32;

std::string line_and_column(std::string_view text, std::size_t byte) {
  const std::string_view before = text.substr(0, std::min(byte == 0 ? 0 : byte - 1, text.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const auto column = before.size() - (before.rfind('\n') + 1) + 1;  // npos + 1 is 0
  return ":" + std::to_string(line) + ":" + std::to_string(column);
}

}  // namespace

std::string shown(const json& value) {
  constexpr std::size_t length_max = 120;
  const std::string text = value.dump(-1, ' ', true);
  return text.size() <= length_max ? text : text.substr(0, length_max) + "…";
}

json parse_config_file(const std::filesystem::path& path, const config_file_limits& limits) {
  const auto refuse = [&](const std::string& what, const std::string& place = {}) {
    throw fault(fault_code::bad_input, what, path.string() + place);
  };
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) refuse("no such file");
  if (std::filesystem::file_size(path, ignored) > limits.bytes_max) {
    refuse("larger than " + std::to_string(limits.bytes_max) + " bytes: not a model's configuration");
  }
  std::ifstream stream(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (!stream) refuse("cannot be read");

  std::vector<std::set<std::string>> keys;  // of the objects under way, by depth
  const auto check = [&](int depth, json::parse_event_t event, const json& parsed) {
    if (depth > json_depth_max) refuse("nested too deep");
    if (!limits.unique_keys) return true;
    keys.resize(json_depth_max + 2);
    if (event == json::parse_event_t::object_start) keys[static_cast<std::size_t>(depth) + 1].clear();
    if (event == json::parse_event_t::key &&
        !keys[static_cast<std::size_t>(depth)].insert(parsed.get<std::string>()).second) {
      refuse(shown(parsed) + " is named twice in one object");
    }
    return true;
  };
  json result;
  try {
    result = json::parse(text, check);
  } catch (const json::parse_error& error) {
    refuse("not JSON: a syntax error", line_and_column(text, error.byte));
  } catch (const json::exception&) {
    refuse("not JSON: a number is out of range");
  }
  if (!result.is_object()) refuse("not a JSON object");
  return result;
}

void config_section::refuse(std::string_view key, const std::string& what) const {
  throw fault(fault_code::bad_input, prefix_ + std::string(key) + ": " + what, where_);
}

void config_section::expected(std::string_view key, const json& found, const std::string& right) const {
  refuse(key, shown(found) + " found, " + right + " is expected");
}

const json* config_section::find(std::string_view key) const {
  const auto found = object_->find(key);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

int config_section::as_integer(std::string_view key, const json& value, int min, int max) const {
  // A double tells any 64-bit integer from those between two 32-bit bounds.
  const bool fits = value.is_number_integer() && value.get<double>() >= min && value.get<double>() <= max;
  if (!fits) expected(key, value, "an integer from " + std::to_string(min) + " to " + std::to_string(max));
  return value.get<int>();
}

std::optional<int> config_section::integer(std::string_view key, int min, int max) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  return as_integer(key, *value, min, max);
}

int config_section::size(std::string_view key) const {
  const auto value = integer(key, 1, size_max);
  if (!value) refuse(key, "missing, an integer from 1 to " + std::to_string(size_max) + " is expected");
  return *value;
}

template <class Predicate>
std::optional<double> config_section::number(std::string_view key, Predicate fits, const std::string& right) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number() || !fits(value->get<double>())) expected(key, *value, right);
  return value->get<double>();
}

std::optional<double> config_section::positive(std::string_view key) const {
  return number(
      key, [](double x) { return x >= 1e-30 && x <= 1e30; }, "a number above 0 that fits fp32");
}

double config_section::required_positive(std::string_view key) const {
  const auto value = positive(key);
  if (!value) refuse(key, "missing, a number above 0 is expected");
  return *value;
}

std::optional<double> config_section::not_negative(std::string_view key) const {
  return number(
      key, [](double x) { return x >= 0 && x <= 1e30; }, "a number of at least 0");
}

std::optional<double> config_section::share(std::string_view key) const {
  return number(
      key, [](double x) { return x > 0 && x <= 1; }, "a number above 0 and at most 1");
}

std::optional<bool> config_section::boolean(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) expected(key, *value, "true or false");
  return value->get<bool>();
}

std::optional<std::string> config_section::text(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) expected(key, *value, "a string");
  return value->get<std::string>();
}

std::optional<std::vector<std::string>> config_section::texts(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto is_string = [](const json& item) { return item.is_string(); };
  if (!value->is_array() || !std::all_of(value->begin(), value->end(), is_string)) {
    expected(key, *value, "a list of strings");
  }
  return value->get<std::vector<std::string>>();
}

std::optional<config_section> config_section::object(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) expected(key, *value, "an object");
  return config_section(*value, where_, prefix_ + std::string(key) + ".");
}

std::optional<std::vector<std::int32_t>> config_section::tokens(std::string_view key, int vocabulary) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  std::vector<std::int32_t> result;
  if (!value->is_array()) {
    result.push_back(as_integer(key, *value, 0, vocabulary - 1));
  } else {
    for (const json& item : *value) result.push_back(as_integer(key, item, 0, vocabulary - 1));
  }
  return result;
}

}  // namespace baton
