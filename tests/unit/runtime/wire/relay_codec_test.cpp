#include <cstdint>
#include <string>

#include <gtest/gtest.h>

#include "tests/unit/runtime/wire/conversation.hpp"

namespace baton {
namespace {

TEST(relay_codec, refuses_fewer_than_no_bytes) {
  EXPECT_EQ(refused_at<relay_command>(reserve_log{1, -1}), "message reserve_log, field bytes");
  EXPECT_EQ(refused_at<relay_report>(relay_ready{"node", -1}), "message relay_ready, field log_bytes_max");
  EXPECT_EQ(refused_at<relay_report>(log_refused{1, -1, 0}), "message log_refused, field bytes_asked");
  EXPECT_EQ(refused_at<relay_report>(log_refused{1, 0, INT64_MIN}), "message log_refused, field bytes_free");
}

TEST(relay_codec, refuses_a_name_that_is_too_long) {
  EXPECT_EQ(refused_at<relay_report>(relay_ready{std::string(4096, 'n'), 0}), "");
  EXPECT_EQ(refused_at<relay_report>(relay_ready{std::string(4097, 'n'), 0}), "message relay_ready, field node");
}

}  // namespace
}  // namespace baton
