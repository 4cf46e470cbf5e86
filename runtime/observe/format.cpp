#include "runtime/observe/format.hpp"

#include <array>
#include <cmath>
#include <cstddef>

#include <fmt/format.h>

#include "runtime/model/utf8.hpp"

namespace baton {
namespace {

/// The character at the start of valid UTF-8, and how many bytes it takes.
struct character {
  char32_t code;
  std::size_t bytes;
};

character first_of(std::string_view text) {
  const auto byte_at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte_at(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t bytes = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t code = lead & (0x7FU >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) code = code << 6 | (byte_at(i) & 0x3FU);
  return {code, bytes};
}

bool turns_direction(char32_t c) {
  return c == 0x061C || c == 0x200E || c == 0x200F || (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

}  // namespace

std::string format_bytes(std::int64_t bytes) {
  constexpr std::array units{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes > -1024 && bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  // What would be shown as 1024.0 is 1.0 of the next unit.
  for (; std::abs(value) >= 1023.95 && unit + 1 < units.size(); ++unit) value /= 1024;
  return fmt::format("{:.1f} {}", value, units[unit]);
}

std::string format_seconds(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "-";
  if (seconds == 0) return "0 s";
  if (seconds < 0.9995e-3) return fmt::format("{:.0f} us", seconds * 1e6);
  if (seconds < 0.9995) return fmt::format("{:.1f} ms", seconds * 1e3);
  if (seconds < 9.995) return fmt::format("{:.2f} s", seconds);
  if (seconds < 119.95) return fmt::format("{:.1f} s", seconds);
  if (seconds > 3.6e12) return "-";
  const auto whole = std::llround(seconds);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string format_count(std::int64_t count) {
  std::string digits = fmt::format("{}", count);
  const std::size_t sign = count < 0 ? 1 : 0;
  for (std::size_t at = digits.size(); at > sign + 3;) digits.insert(at -= 3, 1, ',');
  return digits;
}

std::string format_rate(double per_second) {
  if (!std::isfinite(per_second) || per_second <= 0 || per_second > 9e15) return "-";
  if (per_second < 9.995) return fmt::format("{:.2f}", per_second);
  if (per_second < 99.95) return fmt::format("{:.1f}", per_second);
  return format_count(std::llround(per_second));
}

std::string printable(std::string_view text) {
  utf8_stream characters;
  std::string valid = characters.push(text);
  valid += characters.finish();
  std::string shown;
  for (std::string_view rest = valid; !rest.empty();) {
    const auto [code, bytes] = first_of(rest);
    if (code < 0x20 ? code != '\n' && code != '\t' : code >= 0x7F && code < 0xA0) {
      shown += fmt::format("\\x{:02x}", static_cast<unsigned>(code));
    } else if (turns_direction(code)) {
      shown += fmt::format("\\u{:04x}", static_cast<unsigned>(code));
    } else {
      shown += rest.substr(0, bytes);
    }
    rest.remove_prefix(bytes);
  }
  return shown;
}

int display_columns(std::string_view text) {
  int columns = 0;
  for (std::size_t i = 0; i < text.size();) {
    if (text[i] == '\x1b' && i + 1 < text.size() && text[i + 1] == '[') {
      for (i += 2; i < text.size() && !(text[i] >= '@' && text[i] <= '~');) ++i;
      ++i;
      continue;
    }
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) ++columns;
    ++i;
  }
  return columns;
}

std::string shortened(std::string_view text, int columns) {
  if (columns <= 0) return {};
  if (display_columns(text) <= columns) return std::string(text);
  std::size_t end = 0;
  for (int left = columns - 1; end < text.size(); ++end) {
    const bool begins = (static_cast<unsigned char>(text[end]) & 0xC0) != 0x80;
    if (begins && left-- == 0) break;
  }
  return std::string(text.substr(0, end)) + "~";
}

}  // namespace baton
