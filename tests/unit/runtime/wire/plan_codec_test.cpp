#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/plan/job_plan.hpp"
#include "tests/support/routes.hpp"
#include "tests/unit/runtime/wire/conversation.hpp"

namespace baton {
namespace {

using source = token_run::source_kind;

/// Three ranks of apb over 300 document and 5 query tokens, an opening of 2 and an anchor of 20.
job_plan valid_plan() {
  job_options options;
  options.ranks = 3;
  options.anchor_tokens = 20;
  options.passing_tokens = 10;
  const std::array devices{device_view{"node", "cpu", "avx2"}};
  return make_job_plan({.document_tokens = 300, .query_tokens = 5, .system_tokens = 2, .options = options}, devices);
}

std::string refused_at(const job_plan& plan) {
  const std::string message = "message assign_shard, field plan.";
  const auto where = refused_at<worker_command>(assign_shard{1, 0, plan, routes_of(plan.ranks()), false});
  return where.starts_with(message) ? where.substr(message.size()) : where;
}

struct wrong_plan {
  const char* where;
  std::function<void(job_plan&)> make;
};
void expect_all_refused(const std::vector<wrong_plan>& wrong) {
  for (const auto& [where, make] : wrong) {
    auto plan = valid_plan();
    ASSERT_EQ(refused_at(plan), "");
    make(plan);
    EXPECT_EQ(refused_at(plan), where);
  }
}

TEST(plan_codec, carries_what_make_job_plan_makes) {
  const std::array devices{device_view{"a", "cpu:0", "avx2"}, device_view{"b", "cpu:0", "avx512"}};
  for (const char* const strategy : {"full", "star", "apb"}) {
    for (const int ranks : {1, 2, 7, 16}) {
      if (ranks > 1 && std::string(strategy) == "full") continue;
      for (const std::int64_t query_tokens : {0, 11}) {
        job_options options;
        options.strategy = strategy;
        options.ranks = ranks;
        const client_update started = job_started{
            1, make_job_plan(
                   {.document_tokens = 4001, .query_tokens = query_tokens, .system_tokens = 30, .options = options},
                   devices)};
        EXPECT_EQ(decode_client_update(encode(started)), started) << strategy << " " << ranks << " " << query_tokens;
      }
    }
  }
}

TEST(plan_codec, refuses_numbers_that_no_plan_has) {
  expect_all_refused({
      {"compressor", [](job_plan& p) { p.compressor = static_cast<compressor_kind>(5); }},
      {"document_tokens", [](job_plan& p) { p.document_tokens = 0; }},
      {"document_tokens", [](job_plan& p) { p.document_tokens = std::int64_t{1} << 31; }},
      {"document_tokens", [](job_plan& p) { p.document_tokens = INT64_MIN; }},
      {"query_tokens", [](job_plan& p) { p.query_tokens = -1; }},
      {"query_tokens", [](job_plan& p) { p.query_tokens = INT32_MAX - 299; }},
      {"system_tokens", [](job_plan& p) { p.system_tokens = -1; }},
      {"system_tokens", [](job_plan& p) { p.system_tokens = 301; }},
      {"anchor_tokens", [](job_plan& p) { p.anchor_tokens = -1; }},
      {"anchor_tokens", [](job_plan& p) { p.anchor_tokens = 306; }},
      {"passing_tokens", [](job_plan& p) { p.passing_tokens = -1; }},
      {"chunk_tokens", [](job_plan& p) { p.chunk_tokens = 0; }},
      {"max_new_tokens", [](job_plan& p) { p.max_new_tokens = 0; }},
      {"sampling.temperature", [](job_plan& p) { p.sampling.temperature = -0.5F; }},
      {"sampling.temperature", [](job_plan& p) { p.sampling.temperature = std::numeric_limits<float>::infinity(); }},
      {"sampling.temperature", [](job_plan& p) { p.sampling.temperature = std::nanf(""); }},
      {"sampling.top_p", [](job_plan& p) { p.sampling.top_p = 0; }},
      {"sampling.top_p", [](job_plan& p) { p.sampling.top_p = 1.5F; }},
      {"sampling.top_p", [](job_plan& p) { p.sampling.top_p = std::nanf(""); }},
      {"strategy", [](job_plan& p) { p.strategy.assign(4097, 's'); }},
      {"compressor_reason", [](job_plan& p) { p.compressor_reason.assign(4097, 'r'); }},
      {"kernel_class", [](job_plan& p) { p.kernel_class.assign(4097, 'k'); }},
      {"shards[2].node", [](job_plan& p) { p.shards[2].node.assign(4097, 'n'); }},
      {"shards[0].device", [](job_plan& p) { p.shards[0].device.assign(4097, 'd'); }},
  });
}

TEST(plan_codec, refuses_shards_out_of_order_or_missing) {
  expect_all_refused({
      {"shards", [](job_plan& p) { p.shards.clear(); }},
      {"shards[0].rank", [](job_plan& p) { p.shards.erase(p.shards.begin()); }},
      {"shards[1].rank", [](job_plan& p) { p.shards[1].rank = 2; }},
      {"shards[2].rank", [](job_plan& p) { p.shards[2].rank = -1; }},
      {"document_tokens", [](job_plan& p) { p.shards.pop_back(); }},
      {"document_tokens", [](job_plan& p) { p.document_tokens = 301; }},
  });
}

TEST(plan_codec, refuses_runs_outside_document_query_or_positions) {
  expect_all_refused({
      {"shards[1].anchor[0].source", [](job_plan& p) { p.shards[1].anchor[0].source = static_cast<source>(2); }},
      {"shards[1].block[0].source",
       [](job_plan& p) {
         p.shards[1].block[0] = {source::query, 0, 5, 0};
       }},
      {"shards[1].block[0].first", [](job_plan& p) { p.shards[1].block[0].first = -1; }},
      {"shards[1].block[0].first", [](job_plan& p) { p.shards[1].block[0].first = 301; }},
      {"shards[2].block[0].count", [](job_plan& p) { p.shards[2].block[0].count = 101; }},
      {"shards[2].block[0].count", [](job_plan& p) { p.shards[2].block[0].count = 0; }},
      {"shards[2].block[0].count", [](job_plan& p) { p.shards[2].block[0].count = INT64_MAX; }},
      {"shards[2].block[0].position", [](job_plan& p) { p.shards[2].block[0].position = -1; }},
      {"shards[2].block[0].position", [](job_plan& p) { p.shards[2].block[0].position = 206; }},
      {"shards[1].anchor[1].count", [](job_plan& p) { p.shards[1].anchor[1].count = 6; }},
      {"shards[1].anchor[1].first", [](job_plan& p) { p.shards[1].anchor[1].first = 6; }},
  });
}

TEST(plan_codec, refuses_shards_that_do_not_add_up) {
  expect_all_refused({
      {"shards[1].anchor_tokens", [](job_plan& p) { p.shards[1].anchor_tokens = 21; }},
      {"shards[1].anchor_tokens", [](job_plan& p) { p.shards[1].anchor.pop_back(); }},
      {"shards[1].block_tokens", [](job_plan& p) { p.shards[1].block_tokens = 99; }},
      {"shards[1].block_tokens",
       [](job_plan& p) {
         p.shards[1].block.push_back({source::document, 0, 1, 0});
       }},
      {"shards[1].block_tokens", [](job_plan& p) { p.shards[1].block.clear(), p.shards[1].block_tokens = 0; }},
      {"shards[1].anchor_query_tokens", [](job_plan& p) { p.shards[1].anchor_query_tokens = 21; }},
      {"shards[1].anchor_query_tokens", [](job_plan& p) { p.shards[1].anchor_query_tokens = -1; }},
      {"shards[1].anchor_query_first", [](job_plan& p) { p.shards[1].anchor_query_first = 16; }},
      {"shards[1].anchor_query_first", [](job_plan& p) { p.shards[1].anchor_query_first = -1; }},
      {"shards[1].eligible_from", [](job_plan& p) { p.shards[1].eligible_from = 101; }},
      {"shards[1].eligible_from", [](job_plan& p) { p.shards[1].eligible_from = -1; }},
      {"shards[0].compressed_units", [](job_plan& p) { p.shards[0].compressed_units = 81; }},
      {"shards[1].compressed_units", [](job_plan& p) { p.shards[1].compressed_units = -1; }},
      {"shards[1].passing_units", [](job_plan& p) { p.shards[0].compressed_units = 11; }},
      {"shards[0].passing_units", [](job_plan& p) { p.shards[0].passing_units = 1; }},
      {"shards[2].passing_units", [](job_plan& p) { p.shards[2].passing_units = 19; }},
  });
}

TEST(plan_codec, reads_at_most_65535_ranks) {
  const auto plan_of = [](int ranks) {
    auto plan = valid_plan();
    plan.document_tokens = ranks;
    plan.shards.assign(static_cast<std::size_t>(ranks), {});
    for (int rank = 0; rank < ranks; ++rank) {
      auto& shard = plan.shards[static_cast<std::size_t>(rank)];
      shard.rank = rank;
      shard.block = {{.first = rank, .count = 1, .position = rank}};
      shard.block_tokens = 1;
    }
    return plan;
  };
  EXPECT_EQ(refused_at(plan_of(65535)), "");
  EXPECT_EQ(refused_at(plan_of(65536)), "shards");
}

}  // namespace
}  // namespace baton
