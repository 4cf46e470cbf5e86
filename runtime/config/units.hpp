#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace baton::config {

/// "512MiB", "2GiB", "1000000": a whole number, then nothing (bytes), KiB, MiB, GiB or TiB. Empty where it is anything
/// else or does not fit.
std::optional<std::int64_t> parse_size(std::string_view text);
/// In the largest unit that divides it; parse_size reads it back.
std::string format_size(std::int64_t bytes);

/// "100ms", "2s", "5min": a whole number and a unit. Empty where it is anything else or does not fit.
std::optional<std::int64_t> parse_duration_ms(std::string_view text);
/// In the largest unit that divides it; parse_duration_ms reads it back.
std::string format_duration_ms(std::int64_t duration_ms);

}  // namespace baton::config
