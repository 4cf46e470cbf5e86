#include "runtime/observe/log.hpp"

#include <chrono>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "kernels/fault.hpp"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// 2026-02-03 04:05:06.007 UTC.
constexpr std::chrono::system_clock::time_point then{std::chrono::milliseconds(1770091506007)};

/// The log of this process as a test sets it; afterwards as it was.
struct log_of_this_process : testing::Test {
  ~log_of_this_process() override { start_log({}, {}); }
};

TEST(log_line_text, names_the_process_among_others_and_leaves_fields_out) {
  const log_fields fields{{"rank", 3}};
  EXPECT_EQ(formatted_log_line({}, {"run"}, then, log_level::error, "stopped", fields), "baton: stopped");
  EXPECT_EQ(formatted_log_line({}, {"node west", true}, then, log_level::info, "is there", fields),
            "baton: node west: is there");
}

TEST(log_line_text, shows_controls_that_a_terminal_would_obey) {
  EXPECT_EQ(formatted_log_line({}, {}, then, log_level::info, "a\x1b[2Jb", {}), "baton: a\\x1b[2Jb");
}

TEST(log_line_json, has_time_level_process_message_and_fields_in_this_order) {
  EXPECT_EQ(formatted_log_line({.json = true}, {"worker west/cpu0", true}, then, log_level::warning, "it \"says\"\n",
                               {{"job", 7}, {"node", "west"}, {"load_s", 0.5}}),
            R"({"time":"2026-02-03T04:05:06.007Z","level":"warning","process":"worker west/cpu0",)"
            R"("message":"it \"says\"\n","job":7,"node":"west","load_s":0.5})");
}

TEST(log_line_json, is_json_whatever_the_message_holds) {
  const auto line = formatted_log_line({.json = true}, {}, then, log_level::info, "\xff\x00\x1b", {});
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_TRUE(nlohmann::json::accept(line)) << line;
}

TEST(log_line_json, keeps_milliseconds_before_1970_in_their_second) {
  const auto before = std::chrono::system_clock::time_point(std::chrono::milliseconds(-1));
  EXPECT_THAT(formatted_log_line({.json = true}, {}, before, log_level::info, "", {}),
              HasSubstr("1969-12-31T23:59:59.999Z"));
}

TEST(log_levels, are_read_by_name_and_others_refused_with_the_right_ones) {
  for (const auto level :
       {log_level::trace, log_level::debug, log_level::info, log_level::warning, log_level::error, log_level::off}) {
    EXPECT_EQ(log_level_from(std::string(name_of(level))), level);
  }
  for (const std::string wrong : {"", "loud", "INFO", "warn"}) {
    try {
      log_level_from(wrong);
      ADD_FAILURE() << wrong;
    } catch (const fault& why) {
      EXPECT_EQ(why.code(), fault_code::bad_input);
      EXPECT_THAT(why.what(), HasSubstr("trace, debug, info, warning, error or off"));
    }
  }
}

TEST_F(log_of_this_process, writes_what_reaches_its_level_each_as_one_line) {
  start_log({.level = log_level::warning}, {"node west", true});
  testing::internal::CaptureStderr();
  log_line(log_level::debug, "one");
  log_line(log_level::info, "two");
  log_line(log_level::warning, "three {}");
  log_line(log_level::error, "four");
  log_line(log_level::off, "five");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "baton: node west: three {}\nbaton: node west: four\n");
  EXPECT_FALSE(log_shows(log_level::info));
  EXPECT_TRUE(log_shows(log_level::warning));
}

TEST_F(log_of_this_process, says_nothing_where_it_is_off) {
  start_log({.level = log_level::off}, {});
  testing::internal::CaptureStderr();
  log_line(log_level::error, "one");
  log_line(log_level::off, "two");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(log_of_this_process, is_handed_to_children_where_it_is_not_the_default) {
  EXPECT_THAT(log_arguments(), IsEmpty());
  start_log({.level = log_level::debug, .json = true}, {"run"});
  EXPECT_THAT(log_arguments(), ElementsAre("--log-level", "debug", "--log-json"));
}

}  // namespace
}  // namespace baton
