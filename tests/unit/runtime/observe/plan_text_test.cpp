#include "runtime/observe/plan_text.hpp"

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace baton {
namespace {

job_plan plan_with(int ranks, std::int64_t document_tokens = 32768, const std::string& strategy = "apb") {
  const std::vector<device_view> devices{{"local", "cpu0", "avx2"}, {"local", "cpu1", "avx2"}};
  return make_job_plan({.document_tokens = document_tokens,
                        .query_tokens = 30,
                        .system_tokens = 12,
                        .options = {.strategy = strategy, .ranks = ranks}},
                       devices);
}

plan_costs costs_of_two_devices() {
  plan_costs costs;
  costs.devices.push_back({"local", "cpu0", 6 << 20, 1 << 20, 5 << 20, 3 << 20});
  costs.devices.push_back({"local", "cpu1", 6 << 20, 1 << 20, 4 << 20, 2 << 20});
  costs.prefill = {224, 7 << 20};
  costs.decode_per_token = {63, 4096};
  costs.relay_log_bytes = 2 << 20;
  return costs;
}

int widest_line(const std::string& text) {
  int widest = 0;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) widest = std::max(widest, display_columns(line));
  return widest;
}

TEST(plan_text, fits_the_width_that_it_is_given) {
  const auto costs = costs_of_two_devices();
  for (const int columns : {60, 80, 120}) {
    for (const int ranks : {1, 8, 100}) {
      EXPECT_LE(widest_line(describe(plan_with(ranks, 1 << 20), costs, columns)), columns)
          << columns << " columns, " << ranks << " ranks";
    }
  }
}

TEST(plan_text, fits_with_names_and_numbers_of_any_length) {
  auto plan = plan_with(4);
  for (auto& shard : plan.shards) {
    shard.node = std::string(90, 'n');
    for (auto& run : shard.block) run.first = 1'000'000'000'000;
  }
  plan.kernel_class = std::string(200, 'k');
  auto costs = costs_of_two_devices();
  costs.devices.front().node = "\x1b[2J" + std::string(100, 'd');
  const auto text = describe(plan, costs, 80);
  EXPECT_LE(widest_line(text), 80);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
}

TEST(plan_text, has_a_line_for_every_rank_with_its_block_and_units) {
  const auto text = describe(plan_with(8), costs_of_two_devices());
  EXPECT_NE(text.find("    0        0..4,095    1,024     512          0 local/cpu0\n"), std::string::npos) << text;
  EXPECT_NE(text.find("    7  28,672..32,767    1,024       0      3,584 local/cpu1\n"), std::string::npos) << text;
  EXPECT_NE(text.find("rank 0 computes it aside"), std::string::npos) << text;
  EXPECT_NE(text.find("8 ranks on 2 devices"), std::string::npos) << text;
}

TEST(plan_text, says_which_compressor_and_why) {
  auto plan = plan_with(8);
  EXPECT_NE(describe(plan, {}).find("query_key (the model has no retaining heads)"), std::string::npos);
  plan.compressor_reason.clear();
  EXPECT_NE(describe(plan, {}).find("query_key (as asked for)"), std::string::npos);
  EXPECT_NE(describe(plan_with(1, 4096, "full"), {}).find("no KV units are passed on"), std::string::npos);
}

TEST(plan_text, adds_up_the_memory_of_a_device) {
  const auto text = describe(plan_with(8), costs_of_two_devices());
  EXPECT_NE(text.find("   6.0 MiB    5.0 MiB    3.0 MiB    1.0 MiB   15.0 MiB local/cpu0\n"), std::string::npos)
      << text;
  EXPECT_NE(text.find("224 messages, 7.0 MiB"), std::string::npos) << text;
  EXPECT_NE(text.find("63 messages, 4.0 KiB"), std::string::npos) << text;
}

TEST(plan_text, gives_json_every_shard_with_runs_that_cover_the_document) {
  const auto plan = plan_with(8);
  const auto json = to_json(plan);
  EXPECT_EQ(json.at("strategy"), "apb");
  EXPECT_EQ(json.at("compressor"), "query_key");
  ASSERT_EQ(json.at("shards").size(), 8U);
  std::int64_t next = 0;
  for (const auto& shard : json.at("shards")) {
    for (const auto& run : shard.at("block")) {
      EXPECT_EQ(run.at("source"), "document");
      EXPECT_EQ(run.at("first"), next);
      next += run.at("count").get<std::int64_t>();
    }
  }
  EXPECT_EQ(next, plan.document_tokens);
  EXPECT_EQ(json.at("shards")[3].at("anchor")[1].at("source"), "query");
}

TEST(plan_text, gives_json_the_costs_with_their_totals) {
  const auto json = to_json(costs_of_two_devices());
  EXPECT_EQ(json.at("devices")[1].at("total_bytes"), 13 << 20);
  EXPECT_EQ(json.at("prefill").at("messages"), 224);
  EXPECT_EQ(json.at("decode_per_token").at("bytes"), 4096);
  EXPECT_EQ(json.at("relay_log_bytes"), 2 << 20);
}

}  // namespace
}  // namespace baton
