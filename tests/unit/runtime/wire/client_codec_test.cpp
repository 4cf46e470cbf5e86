#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "tests/unit/runtime/wire/conversation.hpp"

namespace baton {
namespace {

struct wrong_submission {
  const char* where;
  std::function<void(submit_job&)> make;
};
void expect_all_refused(const std::vector<wrong_submission>& wrong) {
  for (const auto& [where, make] : wrong) {
    submit_job submit;
    submit.document_tokens = 100;
    submit.query_tokens = 10;
    ASSERT_EQ(refused_at<client_request>(submit), "");
    make(submit);
    EXPECT_EQ(refused_at<client_request>(submit), std::string("message submit_job, field ") + where);
  }
}

TEST(client_codec, refuses_numbers_that_no_job_has) {
  expect_all_refused({
      {"request_id", [](submit_job& s) { s.request_id.assign(4097, 'r'); }},
      {"document_tokens", [](submit_job& s) { s.document_tokens = -1; }},
      {"document_tokens", [](submit_job& s) { s.document_tokens = INT64_MAX; }},
      {"document_tokens", [](submit_job& s) { s.document_tokens = INT64_MIN; }},
      {"query_tokens", [](submit_job& s) { s.query_tokens = -1; }},
      {"query_tokens", [](submit_job& s) { s.query_tokens = INT32_MAX; }},
      {"system_tokens", [](submit_job& s) { s.system_tokens = -1; }},
      {"system_tokens", [](submit_job& s) { s.system_tokens = 101; }},
      {"stop_tokens", [](submit_job& s) { s.stop_tokens = {-1}; }},
  });
}

TEST(client_codec, refuses_options_that_have_no_meaning) {
  expect_all_refused({
      {"options.strategy", [](submit_job& s) { s.options.strategy.assign(4097, 's'); }},
      {"options.ranks", [](submit_job& s) { s.options.ranks = -1; }},
      {"options.ranks", [](submit_job& s) { s.options.ranks = 65536; }},
      {"options.anchor_tokens", [](submit_job& s) { s.options.anchor_tokens = -1; }},
      {"options.passing_tokens", [](submit_job& s) { s.options.passing_tokens = -1; }},
      {"options.block_tokens[1]",
       [](submit_job& s) {
         s.options.block_tokens = {1, -1};
       }},
      {"options.block_tokens[0]",
       [](submit_job& s) {
         s.options.block_tokens = {INT64_MAX, INT64_MAX};
       }},
      {"options.block_tokens", [](submit_job& s) { s.options.block_tokens.assign(65536, 1); }},
      {"options.compressor", [](submit_job& s) { s.options.compressor = static_cast<compressor_kind>(5); }},
      {"options.compressor", [](submit_job& s) { s.options.compressor = static_cast<compressor_kind>(255); }},
      {"options.chunk_tokens", [](submit_job& s) { s.options.chunk_tokens = -1; }},
      {"options.max_new_tokens", [](submit_job& s) { s.options.max_new_tokens = -1; }},
      {"options.sampling.temperature", [](submit_job& s) { s.options.sampling.temperature = std::nanf(""); }},
      {"options.sampling.top_p", [](submit_job& s) { s.options.sampling.top_p = -1; }},
  });
}

TEST(client_codec, leaves_an_empty_job_to_whoever_can_say_why_it_is_none) {
  submit_job empty;
  empty.options.ranks = 0;
  empty.options.chunk_tokens = 0;
  empty.options.max_new_tokens = 0;
  EXPECT_EQ(refused_at<client_request>(empty), "");
}

TEST(client_codec, refuses_pieces_out_of_range) {
  EXPECT_EQ(refused_at<client_request>(submit_ids{"r", -1, {}}), "message submit_ids, field first");
  EXPECT_EQ(refused_at<client_request>(submit_ids{"r", 0, {0, -7}}), "message submit_ids, field ids");
  EXPECT_EQ(refused_at<client_request>(submit_ids{"r", 0, std::vector<std::int32_t>(65536)}), "");
  EXPECT_EQ(refused_at<client_request>(submit_ids{"r", 0, std::vector<std::int32_t>(65537)}),
            "message submit_ids, field ids");
  EXPECT_EQ(refused_at<client_request>(submit_ids{std::string(4097, 'r'), 0, {}}),
            "message submit_ids, field request_id");
}

TEST(client_codec, refuses_updates_with_impossible_parts) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(refused_at<client_update>(job_started{1, {}}), "message job_started, field plan.document_tokens");
  EXPECT_EQ(refused_at<client_update>(job_accepted{std::string(4097, 'r'), 1, {}}),
            "message job_accepted, field request_id");
  EXPECT_EQ(refused_at<client_update>(job_refused{std::string(4097, 'r'), {}}),
            "message job_refused, field request_id");
  EXPECT_EQ(refused_at<client_update>(job_refused{"r", {static_cast<fault_code>(9), "", ""}}),
            "message job_refused, field why.code");
  EXPECT_EQ(refused_at<client_update>(job_failed{1, {static_cast<fault_code>(9), "", ""}}),
            "message job_failed, field why.code");
  EXPECT_EQ(refused_at<client_update>(job_progress{1, {{}, {.rank = -1}}}),
            "message job_progress, field ranks[1].rank");
  EXPECT_EQ(refused_at<client_update>(job_progress{1, std::vector<shard_progress>(65536)}),
            "message job_progress, field ranks");
  EXPECT_EQ(refused_at<client_update>(prefill_finished{1, -1}), "message prefill_finished, field prefill_s");
  EXPECT_EQ(refused_at<client_update>(job_finished{1, infinity, 0, 0, {}, {}}),
            "message job_finished, field prefill_s");
  EXPECT_EQ(refused_at<client_update>(job_finished{1, 0, infinity, 0, {}, {}}),
            "message job_finished, field first_token_s");
  EXPECT_EQ(refused_at<client_update>(job_finished{1, 0, 0, -infinity, {}, {}}),
            "message job_finished, field decode_s");
  EXPECT_EQ(refused_at<client_update>(job_finished{1, 0, 0, 0, {1, 2, -1}, {}}),
            "message job_finished, field answer_ids");
  EXPECT_EQ(refused_at<client_update>(job_finished{1, 0, 0, 0, {}, std::vector<rank_result>(65536)}),
            "message job_finished, field ranks");
  EXPECT_EQ(refused_at<client_update>(job_finished{1, 0, 0, 0, {}, {{65535, {}, {}}}}),
            "message job_finished, field ranks[0].rank");
  EXPECT_EQ(refused_at<client_update>(job_finished{1, 0, 0, 0, {}, {{}, {1, {}, {.wait_s = -1}}}}),
            "message job_finished, field ranks[1].answer.wait_s");
  EXPECT_EQ(refused_at<client_update>(answer_token{.token = -1}), "message answer_token, field token");
}

TEST(client_codec, refuses_a_message_without_its_parts) {
  // Message 1 of a request, 12, 2 and 9 of an update, each empty; message 8 with an empty rank.
  EXPECT_EQ(refused_at<client_request>(std::string_view("\x0a\x00", 2)),
            "message submit_job, field options.sampling.top_p");
  EXPECT_EQ(refused_at<client_update>(std::string_view("\x62\x00", 2)), "message job_started, field plan.compressor");
  EXPECT_EQ(refused_at<client_update>(std::string_view("\x12\x00", 2)), "message job_refused, field why.code");
  EXPECT_EQ(refused_at<client_update>(std::string_view("\x4a\x00", 2)), "message job_failed, field why.code");
  EXPECT_EQ(refused_at<client_update>(std::string_view("\x42\x02\x32\x00", 4)),
            "message job_finished, field ranks[0].prefill.phase_s");
}

}  // namespace
}  // namespace baton
