#include "runtime/config/units.hpp"

#include <cstdint>
#include <limits>
#include <optional>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace baton::config {
namespace {

constexpr std::optional<std::int64_t> nothing;
constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();

TEST(units, reads_sizes_with_and_without_a_unit) {
  EXPECT_EQ(parse_size("1000000"), 1'000'000);
  EXPECT_EQ(parse_size("0"), 0);
  EXPECT_EQ(parse_size("3KiB"), 3 * 1024);
  EXPECT_EQ(parse_size("512MiB"), 512 * 1024 * 1024);
  EXPECT_EQ(parse_size("2GiB"), std::int64_t{2} << 30);
  EXPECT_EQ(parse_size("1TiB"), std::int64_t{1} << 40);
}

TEST(units, reads_durations_with_their_unit) {
  EXPECT_EQ(parse_duration_ms("100ms"), 100);
  EXPECT_EQ(parse_duration_ms("2s"), 2'000);
  EXPECT_EQ(parse_duration_ms("5min"), 300'000);
}

TEST(units, takes_nothing_else) {
  for (const char* text :
       {"", "MiB", "1GB", "1 GiB", "1gib", "-1", "-0", "+1", "1.5GiB", "1e6", "0x10", "1MiB ", " 1", "1ms"}) {
    EXPECT_EQ(parse_size(text), nothing) << "'" << text << "'";
  }
  for (const char* text : {"", "s", "100", "0", "1 s", "1S", "-1s", "0.5s", "1h", "1MiB"}) {
    EXPECT_EQ(parse_duration_ms(text), nothing) << "'" << text << "'";
  }
}

TEST(units, takes_nothing_that_does_not_fit) {
  EXPECT_EQ(parse_size("9223372036854775807"), largest);
  EXPECT_EQ(parse_size("9223372036854775808"), nothing);
  EXPECT_EQ(parse_size("8388607TiB"), std::int64_t{8'388'607} << 40);
  EXPECT_EQ(parse_size("8388608TiB"), nothing);
  EXPECT_EQ(parse_duration_ms("9223372036854775807min"), nothing);
}

TEST(units, writes_the_largest_unit_that_divides) {
  EXPECT_EQ(format_size(0), "0");
  EXPECT_EQ(format_size(1'000'000), "1000000");
  EXPECT_EQ(format_size(std::int64_t{1} << 30), "1GiB");
  EXPECT_EQ(format_size(std::int64_t{1536} << 20), "1536MiB");
  EXPECT_EQ(format_duration_ms(0), "0ms");
  EXPECT_EQ(format_duration_ms(1'500), "1500ms");
  EXPECT_EQ(format_duration_ms(10'000), "10s");
  EXPECT_EQ(format_duration_ms(120'000), "2min");
}

RC_GTEST_PROP(units, reads_back_what_it_writes, ()) {
  const auto digits = *rc::gen::inRange<std::int64_t>(0, std::int64_t{1} << 40);
  const std::int64_t value = digits << *rc::gen::inRange(0, 23);
  RC_ASSERT(parse_size(format_size(value)) == value);
  RC_ASSERT(parse_duration_ms(format_duration_ms(value)) == value);
}

}  // namespace
}  // namespace baton::config
