#include "runtime/config/units.hpp"

#include <array>
#include <charconv>
#include <span>

#include <fmt/format.h>

namespace baton::config {
namespace {

struct unit {
  std::string_view name;
  std::int64_t size;
};

// The largest first.
constexpr std::array<unit, 5> byte_units{{{"TiB", std::int64_t{1} << 40},
                                          {"GiB", std::int64_t{1} << 30},
                                          {"MiB", std::int64_t{1} << 20},
                                          {"KiB", std::int64_t{1} << 10},
                                          {"", 1}}};
constexpr std::array<unit, 3> duration_units{{{"min", 60'000}, {"s", 1'000}, {"ms", 1}}};

std::optional<std::int64_t> parse(std::string_view text, std::span<const unit> units) {
  if (text.starts_with('-')) return {};
  std::int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc()) return {};
  const std::string_view name = text.substr(static_cast<std::size_t>(end - text.data()));
  for (const unit& u : units) {
    std::int64_t product = 0;
    if (u.name == name && !__builtin_mul_overflow(count, u.size, &product)) return product;
  }
  return {};
}

std::string format(std::int64_t value, std::span<const unit> units) {
  for (const unit& u : units) {
    if (u.size == 1 || (value != 0 && value % u.size == 0)) return fmt::format("{}{}", value / u.size, u.name);
  }
  return {};
}

}  // namespace

std::optional<std::int64_t> parse_size(std::string_view text) { return parse(text, byte_units); }
std::string format_size(std::int64_t bytes) { return format(bytes, byte_units); }

std::optional<std::int64_t> parse_duration_ms(std::string_view text) { return parse(text, duration_units); }
std::string format_duration_ms(std::int64_t duration_ms) { return format(duration_ms, duration_units); }

}  // namespace baton::config
