#include "runtime/observe/run_result.hpp"

#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/observe/format.hpp"

namespace baton {
namespace {

run_result result_of(const std::string& strategy, int ranks, std::string answer, std::vector<std::int32_t> ids,
                     double prefill_s = 4) {
  const std::vector<device_view> devices{{"local", "cpu0", "avx2"}, {"local", "cpu1", "avx2"}};
  const auto plan = make_job_plan({.document_tokens = 8192,
                                   .query_tokens = 20,
                                   .system_tokens = 4,
                                   .options = {.strategy = strategy, .ranks = ranks}},
                                  devices);
  job_finished finished;
  finished.prefill_s = prefill_s;
  finished.first_token_s = 0.25;
  finished.decode_s = 0.5;
  finished.answer_ids = std::move(ids);
  // Last rank first: results are matched by rank, not by place.
  for (int h = ranks - 1; h >= 0; --h) {
    shard_timings prefill;
    prefill.compute_s = h + 1;
    prefill.wait_s = 0.5 * h;
    prefill.exposed_wait_s = 0.25 * h;
    prefill.bytes_sent = 1024;
    prefill.bytes_received = 2048 * h;
    shard_timings answered;
    answered.compute_s = 100;
    answered.exposed_wait_s = 100;
    answered.bytes_sent = 1024;
    answered.bytes_received = 1024;
    finished.ranks.push_back({h, prefill, answered});
  }
  return make_run_result(plan, finished, std::move(answer));
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::set<std::string> keys_of(const nlohmann::json& object) {
  std::set<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.insert(key);
  return keys;
}

TEST(run_result, takes_times_of_the_prefill_and_bytes_of_prefill_and_answer) {
  const auto result = result_of("apb", 4, "blue", {5, 6, 7});
  ASSERT_EQ(result.ranks.size(), 4U);
  for (int h = 0; h < 4; ++h) {
    const auto& row = result.ranks[static_cast<std::size_t>(h)];
    EXPECT_EQ(row.rank, h);
    EXPECT_EQ(row.compute_s, h + 1);
    EXPECT_EQ(row.wait_s, 0.5 * h);
    EXPECT_EQ(row.exposed_wait_s, 0.25 * h);
    EXPECT_EQ(row.bytes_sent, 2048);
    EXPECT_EQ(row.bytes_received, 2048 * h + 1024);
    EXPECT_EQ(row.passing_tokens, result.plan.shards[static_cast<std::size_t>(h)].passing_units);
  }
  EXPECT_EQ(result.ranks[3].passing_tokens, 3 * 128);
}

TEST(run_result, counts_decoding_from_the_second_token_on) {
  EXPECT_EQ(result_of("apb", 2, "x", {5, 6, 7}).decode_tokens_per_s, 4);
  EXPECT_EQ(result_of("apb", 2, "x", {5}).decode_tokens_per_s, 0);
  EXPECT_EQ(result_of("apb", 2, "", {}).decode_tokens_per_s, 0);
}

TEST(run_result, shows_ranks_that_add_up_in_80_columns) {
  auto result = result_of("apb", 4, "blue", {5, 6, 7});
  const auto lines = lines_of(table(result));
  ASSERT_GE(lines.size(), 9U);
  EXPECT_EQ(lines[0], "rank    tokens    compute       wait    exposed       sent   received device");
  EXPECT_EQ(lines[1], "   0     2,304     1.00 s        0 s        0 s    2.0 KiB    1.0 KiB local/cpu0");
  EXPECT_EQ(lines[5], " sum     9,216     10.0 s     3.00 s     1.50 s    8.0 KiB   16.0 KiB");
  EXPECT_EQ(lines[7], "prefill          4.00 s   8,192 document tokens at 2,048 tokens/s (apb)");
  result.ranks[1].node = std::string(100, 'x');
  for (const auto& line : lines_of(table(result))) EXPECT_LE(display_columns(line), 80) << line;
}

TEST(run_result, shows_fewer_columns_on_a_narrow_terminal_in_place_of_wrapped_lines) {
  const auto lines = lines_of(table(result_of("apb", 4, "blue", {5, 6, 7}), 60));
  EXPECT_EQ(lines[0], "rank    tokens    compute       wait   received device");
  EXPECT_EQ(lines[1], "   0     2,304     1.00 s        0 s    1.0 KiB local/cpu0");
  EXPECT_EQ(lines[7], "prefill          4.00 s   8,192 tokens at 2,048 tokens/s");
  for (const int columns : {40, 60, 79}) {
    for (const auto& line : lines_of(table(result_of("apb", 4, "blue", {5, 6, 7}), columns))) {
      EXPECT_LE(display_columns(line), columns) << line;
    }
  }
}

TEST(run_result, shows_ids_where_the_answer_has_no_text) {
  const auto result = result_of("full", 1, "", std::vector<std::int32_t>(60, 12345));
  const auto text = table(result);
  EXPECT_NE(text.find("answer token ids\n12345, 12345"), std::string::npos) << text;
  for (const auto& line : lines_of(text)) EXPECT_LE(display_columns(line), 80) << line;
  EXPECT_EQ(table(result_of("full", 1, "text", {1, 2})).find("token ids"), std::string::npos);
}

TEST(run_result, writes_exactly_the_documented_json_keys) {
  const auto json = to_json(result_of("apb", 4, " blue\n", {5, 6, 7}));
  EXPECT_EQ(keys_of(json),
            (std::set<std::string>{"answer", "answer_ids", "strategy", "plan", "document_tokens", "query_tokens",
                                   "prefill_s", "first_token_s", "decode_tokens_per_s", "ranks", "replays"}));
  ASSERT_EQ(json.at("ranks").size(), 4U);
  EXPECT_EQ(
      keys_of(json.at("ranks")[0]),
      (std::set<std::string>{"rank", "node", "device", "block_tokens", "anchor_tokens", "passing_tokens", "compute_s",
                             "wait_s", "exposed_wait_s", "bytes_sent", "bytes_received", "computed"}));
  EXPECT_EQ(json.at("answer"), " blue\n");
  EXPECT_EQ(json.at("answer_ids"), (std::vector<std::int32_t>{5, 6, 7}));
  EXPECT_EQ(json.at("plan").at("shards").size(), 4U);
  EXPECT_EQ(json.at("document_tokens"), 8192);
}

TEST(run_result, keeps_json_valid_whatever_the_answer_is) {
  const auto result = result_of("apb", 2, "bad \xFF\x1b[2J end\xE6", {1});
  EXPECT_EQ(result.answer, "bad \xEF\xBF\xBD\x1b[2J end\xEF\xBF\xBD");
  EXPECT_EQ(nlohmann::json::parse(to_json(result).dump()).at("answer"), result.answer);
}

TEST(run_result, compares_answers_and_prefills) {
  const auto apb = result_of("apb", 4, "blue", {5, 6}, 2);
  const auto full = result_of("full", 1, "blue", {5, 6}, 5);
  const auto text = comparison_text(apb, full);
  EXPECT_NE(text.find("same answer"), std::string::npos) << text;
  EXPECT_NE(text.find("prefill: apb 2.00 s, full 5.00 s; apb is 2.50 x faster than full"), std::string::npos) << text;
  EXPECT_NE(comparison_text(full, apb).find("full is 2.50 x slower than apb"), std::string::npos);
  EXPECT_NE(comparison_text(apb, apb).find("as fast as each other"), std::string::npos);
}

TEST(run_result, tells_different_answers_from_different_tokens_of_one_text) {
  const auto blue = result_of("apb", 4, "blue", {5, 6});
  EXPECT_NE(comparison_text(blue, result_of("full", 1, "red", {9})).find("different answers"), std::string::npos);
  EXPECT_NE(comparison_text(blue, result_of("full", 1, "blue", {7})).find("same text from different tokens"),
            std::string::npos);
}

TEST(run_result, compares_without_letting_an_answer_reach_the_terminal) {
  const auto text = comparison_text(result_of("apb", 2, "\x1b]0;title\a", {5}), result_of("apb", 2, "\r\x1b[31m", {6}));
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_NE(text.find("answer of apb (1):"), std::string::npos) << text;
}

}  // namespace
}  // namespace baton
