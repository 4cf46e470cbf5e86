#include "runtime/config/config_reader.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <numeric>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "kernels/fault.hpp"
#include "runtime/config/units.hpp"

namespace baton::config {
namespace {

// Fit for one line of a message, however long and strange it is.
std::string one_line(std::string_view text) {
  constexpr std::size_t bytes_max = 60;
  std::size_t cut = std::min(text.size(), bytes_max);
  if (cut < text.size()) {
    while (cut > 0 && (text[cut] & 0xC0) == 0x80) --cut;
  }
  std::string line;
  for (const char c : text.substr(0, cut)) {
    if (c == '\n') {
      line += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      line += fmt::format("\\x{:02X}", static_cast<unsigned char>(c));
    } else {
      line += c;
    }
  }
  return line + (cut < text.size() ? "…" : "");
}

std::string in_quotes(std::string_view text) { return "'" + one_line(text) + "'"; }

// How many letters must be put in, left out or replaced to make one word of the other (Levenshtein).
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = std::exchange(row[j + 1], std::min({replaced, row[j] + 1, row[j + 1] + 1}));
    }
  }
  return row.back();
}

template <typename Number>
std::optional<Number> number_in(const yaml_node& node, Number min, Number max) {
  if (node.kind != yaml_node::kind_type::text || node.quoted) return {};
  Number number{};
  const char* const end = node.text.data() + node.text.size();
  const auto [stop, error] = std::from_chars(node.text.data(), end, number);
  // Written so that NaN is refused too.
  if (error != std::errc() || stop != end || !(number >= min && number <= max)) return {};
  return number;
}

}  // namespace

bool config_value::is(std::string_view word) const {
  return node_->kind == yaml_node::kind_type::text && node_->text == word;
}

config_value config_value::offering_auto() const {
  config_value value = *this;
  value.auto_offered_ = true;
  return value;
}

std::vector<config_value> config_value::list(std::size_t length_min) const {
  if (node_->kind != yaml_node::kind_type::list) expected("a list");
  if (node_->entries.size() < length_min) refuse(fmt::format("the list is too short; at least {}", length_min));
  std::vector<config_value> values;
  for (std::size_t i = 0; i < node_->entries.size(); ++i) {
    values.push_back({*document_, node_->entries[i], fmt::format("{}[{}]", path_, i)});
  }
  return values;
}

config_value config_value::value_of(std::size_t key) const {
  return {*document_, node_->entries[key], path_of(node_->keys[key].text)};
}

std::string config_value::text() const {
  if (node_->kind != yaml_node::kind_type::text) expected("text");
  return node_->text;
}

std::int64_t config_value::whole(std::int64_t min, std::int64_t max) const {
  if (const auto number = number_in(*node_, min, max)) return *number;
  expected(fmt::format("a whole number between {} and {}", min, max));
}

std::uint64_t config_value::seed() const {
  constexpr auto max = std::numeric_limits<std::uint64_t>::max();
  if (const auto number = number_in<std::uint64_t>(*node_, 0, max)) return *number;
  expected(fmt::format("a whole number between 0 and {}", max));
}

float config_value::real(float min, float max, std::string_view range) const {
  if (const auto number = number_in(*node_, min, max)) return *number;
  expected(fmt::format("a number {}", range));
}

std::int64_t config_value::bytes(std::int64_t min, std::int64_t max) const {
  if (node_->kind == yaml_node::kind_type::text) {
    const auto size = parse_size(node_->text);
    if (size && *size >= min && *size <= max) return *size;
  }
  expected(fmt::format("a size such as 512MiB or 2GiB, between {} and {}", format_size(min), format_size(max)));
}

int config_value::duration_ms(int min, int max) const {
  if (node_->kind == yaml_node::kind_type::text) {
    const auto duration = parse_duration_ms(node_->text);
    if (duration && *duration >= min && *duration <= max) return static_cast<int>(*duration);
  }
  expected(fmt::format("a duration such as 100ms or 2s, between {} and {}", format_duration_ms(min),
                       format_duration_ms(max)));
}

void config_value::expected(const std::string& right) const {
  refuse(fmt::format("expected {}{}, got {}", right, auto_offered_ ? ", or auto" : "", got()));
}

void config_value::refuse(const std::string& why) const { refuse_at(node_->offset, path_, why); }

void config_value::refuse_key(std::size_t key, const std::string& why) const {
  refuse_at(node_->keys[key].offset, path_of(one_line(node_->keys[key].text)), why);
}

void config_value::refuse_absent(std::string_view key, const std::string& why) const {
  refuse_at(node_->offset, path_of(key), why);
}

std::string config_value::path_of(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

std::string config_value::got() const {
  switch (node_->kind) {
    case yaml_node::kind_type::nothing: return "nothing";
    case yaml_node::kind_type::text: return (node_->quoted ? "the quoted text " : "") + in_quotes(node_->text);
    case yaml_node::kind_type::list: return "a list";
    case yaml_node::kind_type::mapping: return "a mapping";
  }
  return {};
}

void config_value::refuse_at(std::size_t offset, const std::string& path, const std::string& why) const {
  throw fault(fault_code::bad_input, why, document_->place(offset) + (path.empty() ? "" : ": " + path));
}

config_section::config_section(const config_value& value) : value_(value) {
  const yaml_node& node = value_.node();
  if (node.kind == yaml_node::kind_type::nothing) return;
  if (node.kind != yaml_node::kind_type::mapping) value_.expected("a mapping of keys");
  std::set<std::string_view> seen;
  for (std::size_t key = 0; key < node.keys.size(); ++key) {
    if (!seen.insert(node.keys[key].text).second)
      value_.refuse_key(key, "this key is there already; keep one of the two");
    values_.push_back(value_.value_of(key));
  }
}

void config_section::refuse(std::string_view key, const std::string& why) const {
  if (const config_value* value = find(key)) value->refuse(why);
  value_.refuse_absent(key, why);
}

void config_section::finish() const {
  for (std::size_t key = 0; key < values_.size(); ++key) {
    const std::string& name = value_.node().keys[key].text;
    if (std::ranges::find(known_, name) != known_.end()) continue;
    const auto by_distance = [&](std::string_view known) { return distance(name, known); };
    const std::string_view nearest = *std::ranges::min_element(known_, {}, by_distance);
    const bool near = by_distance(nearest) <= std::max<std::size_t>(1, nearest.size() / 3);
    value_.refuse_key(key, near ? fmt::format("unknown key; did you mean {}?", nearest)
                                : fmt::format("unknown key; known here are {}", fmt::join(known_, ", ")));
  }
  if (!missing_.empty()) {
    value_.refuse_absent(missing_.front().name, fmt::format("this key is missing; give {}", missing_.front().advice));
  }
}

const config_value* config_section::find(std::string_view key) const {
  const auto& keys = value_.node().keys;
  const auto found = std::ranges::find(keys, key, &yaml_node::key::text);
  return found == keys.end() ? nullptr : &values_[static_cast<std::size_t>(found - keys.begin())];
}

}  // namespace baton::config
