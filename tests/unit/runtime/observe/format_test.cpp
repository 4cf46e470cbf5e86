#include "runtime/observe/format.hpp"

#include <cstdint>
#include <limits>
#include <string>

#include <gtest/gtest.h>

namespace baton {
namespace {

TEST(format, shows_bytes_in_binary_units_with_one_decimal) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.0 KiB");
  EXPECT_EQ(format_bytes(3 * 512 * 1024), "1.5 MiB");
  EXPECT_EQ(format_bytes(-2048), "-2.0 KiB");
  EXPECT_EQ(format_bytes(std::numeric_limits<std::int64_t>::max()), "8.0 EiB");
}

TEST(format, never_shows_1024_of_a_unit) {
  EXPECT_EQ(format_bytes(1024 * 1024 - 1), "1.0 MiB");
  EXPECT_EQ(format_bytes(std::int64_t{1024} * 1024 * 1024 - 1), "1.0 GiB");
}

TEST(format, shows_seconds_in_the_unit_that_fits) {
  EXPECT_EQ(format_seconds(0), "0 s");
  EXPECT_EQ(format_seconds(0.00085), "850 us");
  EXPECT_EQ(format_seconds(0.0123), "12.3 ms");
  EXPECT_EQ(format_seconds(4.214), "4.21 s");
  EXPECT_EQ(format_seconds(38.52), "38.5 s");
  EXPECT_EQ(format_seconds(125), "2 min 5 s");
  EXPECT_EQ(format_seconds(4320), "1 h 12 min");
}

TEST(format, rounds_seconds_into_the_next_unit_rather_than_over_the_edge) {
  EXPECT_EQ(format_seconds(0.0009999), "1.0 ms");
  EXPECT_EQ(format_seconds(0.99999), "1.00 s");
  EXPECT_EQ(format_seconds(9.999), "10.0 s");
  EXPECT_EQ(format_seconds(119.99), "2 min 0 s");
  EXPECT_EQ(format_seconds(3599.9), "1 h 0 min");
}

TEST(format, shows_a_dash_for_what_is_no_time_or_no_rate) {
  EXPECT_EQ(format_seconds(-1), "-");
  EXPECT_EQ(format_seconds(std::numeric_limits<double>::quiet_NaN()), "-");
  EXPECT_EQ(format_seconds(std::numeric_limits<double>::infinity()), "-");
  EXPECT_EQ(format_seconds(1e300), "-");
  EXPECT_EQ(format_rate(0), "-");
  EXPECT_EQ(format_rate(std::numeric_limits<double>::infinity()), "-");
}

TEST(format, groups_digits_by_three) {
  EXPECT_EQ(format_count(7), "7");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1000), "1,000");
  EXPECT_EQ(format_count(1234567), "1,234,567");
  EXPECT_EQ(format_count(-123), "-123");
  EXPECT_EQ(format_count(-1234), "-1,234");
  EXPECT_EQ(format_rate(2663.4), "2,663");
  EXPECT_EQ(format_rate(41.23), "41.2");
}

TEST(format, makes_terminal_controls_visible) {
  EXPECT_EQ(printable("a\x1b[2Jb"), "a\\x1b[2Jb");
  EXPECT_EQ(printable("over\rwritten\b\a"), "over\\x0dwritten\\x08\\x07");
  EXPECT_EQ(printable("\x7f"), "\\x7f");
  EXPECT_EQ(printable("\xC2\x9B"
                      "31m"),
            "\\x9b31m");
  EXPECT_EQ(printable("\xE2\x80\xAEright"), "\\u202eright");
  EXPECT_EQ(printable(std::string_view("\0", 1)), "\\x00");
}

TEST(format, keeps_lines_tabs_and_letters_of_any_script) {
  const std::string text = "\tGrüße, 東京 🎉\nend\xC2\xA0";
  EXPECT_EQ(printable(text), text);
}

TEST(format, replaces_bytes_that_are_not_utf8) {
  EXPECT_EQ(printable("a\xFF"
                      "b"),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(printable("a\xE6\x9D"), "a\xEF\xBF\xBD");
}

TEST(format, counts_characters_and_not_escape_codes) {
  EXPECT_EQ(display_columns("abc"), 3);
  EXPECT_EQ(display_columns("\x1b[32mabc\x1b[0m"), 3);
  EXPECT_EQ(display_columns("Grüße"), 5);
}

TEST(format, shortens_between_characters_and_marks_it) {
  EXPECT_EQ(shortened("abc", 3), "abc");
  EXPECT_EQ(shortened("abcd", 3), "ab~");
  EXPECT_EQ(shortened("üüüü", 3), "üü~");
  EXPECT_EQ(shortened("abcd", 1), "~");
  EXPECT_EQ(shortened("abcd", 0), "");
}

}  // namespace
}  // namespace baton
