#include "runtime/plan/job_plan.hpp"

#include <numeric>
#include <set>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

using testing::HasSubstr;

const std::vector<device_view> one_device{{"local", "cpu0", "cpu"}};

plan_request request_for(std::int64_t n, int ranks, const std::string& strategy = "apb") {
  plan_request request;
  request.document_tokens = n;
  request.query_tokens = 12;
  request.system_tokens = 2;
  request.has_retaining_heads = true;
  request.options.strategy = strategy;
  request.options.ranks = ranks;
  return request;
}

std::string refusal_of(const plan_request& request) {
  try {
    make_job_plan(request, one_device);
  } catch (const fault& why) {
    EXPECT_EQ(why.code(), fault_code::bad_input);
    return why.what();
  }
  return "accepted";
}

TEST(job_plan, an_even_split_gives_the_first_ranks_one_token_more) {
  const auto plan = make_job_plan(request_for(4099, 4), one_device);
  std::vector<std::int64_t> lengths;
  for (const auto& shard : plan.shards) lengths.push_back(shard.block_tokens);
  EXPECT_EQ(lengths, (std::vector<std::int64_t>{1025, 1025, 1025, 1024}));
}

TEST(job_plan, auto_budgets_follow_the_published_table) {
  const std::vector<std::array<std::int64_t, 3>> published{
      {32768, 1024, 512}, {65536, 2048, 1024}, {131072, 4096, 2048}, {262144, 8192, 4096}, {524288, 8192, 8192}};
  for (const auto& [n, anchor, passing] : published) {
    EXPECT_EQ(budget_for(n).anchor_tokens, anchor) << n;
    EXPECT_EQ(budget_for(n).passing_tokens, passing) << n;
  }
  EXPECT_EQ(budget_for(1000).anchor_tokens, 128);
  EXPECT_EQ(budget_for(100).anchor_tokens, 100);
}

TEST(job_plan, the_query_is_written_into_the_anchor_after_the_opening) {
  auto request = request_for(1000, 3);
  request.options.anchor_tokens = 64;
  const auto plan = make_job_plan(request, one_device);
  std::vector<std::int32_t> document(1000);
  std::iota(document.begin(), document.end(), 0);
  std::vector<std::int32_t> query(12);
  std::iota(query.begin(), query.end(), 5000);
  const auto tokens = tokens_of(plan.shards[1], document, query);
  std::vector<std::int32_t> expected{0, 1};
  for (int i = 0; i < 12; ++i) expected.push_back(5000 + i);
  for (int i = 2; i < 64 - 12; ++i) expected.push_back(i);
  EXPECT_EQ(std::vector<std::int32_t>(tokens.ids.begin(), tokens.ids.begin() + 64), expected);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(tokens.positions[static_cast<std::size_t>(i)], i);
  EXPECT_EQ(tokens.ids[64], 334);
  EXPECT_EQ(tokens.positions[64], 334);
  EXPECT_TRUE(plan.shards[0].anchor.empty());
}

TEST(job_plan, rank_0_never_passes_what_stands_in_the_anchor) {
  auto request = request_for(1000, 4);
  request.options.anchor_tokens = 200;
  request.options.passing_tokens = 100;
  const auto plan = make_job_plan(request, one_device);
  EXPECT_EQ(plan.shards[0].eligible_from, 200);
  EXPECT_EQ(plan.shards[0].compressed_units, 50);
  EXPECT_EQ(plan.shards[1].compressed_units, 100);
  EXPECT_EQ(plan.shards[3].compressed_units, 0);
  EXPECT_EQ(plan.shards[3].passing_units, 250);
}

TEST(job_plan, query_key_computes_the_anchor_aside_on_rank_0) {
  auto request = request_for(1000, 2);
  request.has_retaining_heads = false;
  const auto plan = make_job_plan(request, one_device);
  EXPECT_EQ(plan.compressor, compressor_kind::query_key);
  EXPECT_FALSE(plan.compressor_reason.empty());
  EXPECT_TRUE(plan.shards[0].anchor_aside);
  EXPECT_EQ(plan.shards[0].anchor_tokens, plan.anchor_tokens);
  EXPECT_FALSE(plan.shards[1].anchor_aside);
}

TEST(job_plan, the_star_anchor_is_the_first_block) {
  const auto plan = make_job_plan(request_for(1000, 4, "star"), one_device);
  EXPECT_EQ(plan.anchor_tokens, 250);
  EXPECT_EQ(plan.shards[2].anchor_tokens, 250);
  EXPECT_EQ(plan.shards[2].anchor_query_tokens, 0);
  EXPECT_EQ(plan.shards[2].passing_units, 0);
  EXPECT_EQ(plan.compressor, compressor_kind::none);
}

TEST(job_plan, neighbouring_ranks_share_devices) {
  const std::vector<device_view> devices{{"a", "0", "cpu"}, {"a", "1", "cpu"}, {"b", "0", "cpu"}};
  const auto plan = make_job_plan(request_for(1000, 6), devices);
  std::vector<std::string> places;
  for (const auto& shard : plan.shards) places.push_back(shard.node + shard.device);
  EXPECT_EQ(places, (std::vector<std::string>{"a0", "a0", "a1", "a1", "b0", "b0"}));
}

TEST(job_plan, what_cannot_be_is_refused_with_the_option_and_what_would_be_right) {
  auto too_short = request_for(1000, 4);
  too_short.options.anchor_tokens = 14;
  EXPECT_THAT(refusal_of(too_short), HasSubstr("anchor-tokens: the query does not fit the anchor block"));
  EXPECT_THAT(refusal_of(too_short), HasSubstr("at least 15"));
  auto too_long = request_for(100, 4);
  too_long.options.anchor_tokens = 113;
  EXPECT_THAT(refusal_of(too_long), HasSubstr("at most 112"));
  too_long.options.anchor_tokens = 112;
  EXPECT_EQ(refusal_of(too_long), "accepted");
  auto sums = request_for(100, 2);
  sums.options.block_tokens = {50, 49};
  EXPECT_THAT(refusal_of(sums), HasSubstr("block-tokens: the lengths add up to 99, the document has 100"));
  sums.options.block_tokens = {100, 0};
  EXPECT_THAT(refusal_of(sums), HasSubstr("block-tokens: 0 is not a length"));
  EXPECT_THAT(refusal_of(request_for(3, 4)), HasSubstr("ranks: 4 ranks cannot share 3"));
  EXPECT_THAT(refusal_of(request_for(100, 0)), HasSubstr("ranks"));
  EXPECT_THAT(refusal_of(request_for(100, 2, "full")), HasSubstr("strategy full runs on one rank"));
  EXPECT_THAT(refusal_of(request_for(100, 2, "rings")), HasSubstr("one of full, star, apb"));
  auto blind = request_for(1000, 2);
  blind.query_tokens = 0;
  blind.options.compressor = compressor_kind::query_key;
  EXPECT_THAT(refusal_of(blind), HasSubstr("compressor: query_key"));
  auto untrained = request_for(1000, 2);
  untrained.has_retaining_heads = false;
  untrained.options.compressor = compressor_kind::retaining_heads;
  EXPECT_THAT(refusal_of(untrained), HasSubstr("no retaining_heads.safetensors"));
  auto beyond = request_for(1000, 2);
  beyond.positions_max = 1024;
  EXPECT_THAT(refusal_of(beyond), HasSubstr("exceed the 1024 positions"));
}

RC_GTEST_PROP(job_plan, what_nobody_asked_for_is_rounded_to_what_the_devices_like_where_it_changes_little, ()) {
  const auto n = *rc::gen::inRange<std::int64_t>(300, 300'000);
  auto request = request_for(n, *rc::gen::inRange(1, 20), *rc::gen::element<std::string>("star", "apb"));
  request.query_tokens = 0;
  const std::int64_t multiple = *rc::gen::element(64, 128, 256);
  const auto even = make_job_plan(request, one_device);
  const std::vector<device_view> devices{{"local", "cpu0", "cpu"}, {"local", "gpu0", "gpu", multiple}};
  const auto plan = make_job_plan(request, devices);
  const auto far = [](std::int64_t got, std::int64_t from) { return 8 * std::abs(got - from) > from; };
  std::int64_t sum = 0;
  for (std::size_t h = 0; h < plan.shards.size(); ++h) {
    const std::int64_t block = plan.shards[h].block_tokens;
    sum += block;
    RC_ASSERT(!far(block, even.shards[h].block_tokens));
    if (h + 1 < plan.shards.size() && n / plan.ranks() >= 8 * multiple) RC_ASSERT(block % multiple == 0);
    if (n / plan.ranks() < 8 * multiple) RC_ASSERT(block == even.shards[h].block_tokens);
  }
  RC_ASSERT(sum == n);
  if (plan.strategy != "apb" || plan.ranks() == 1) return;
  for (const auto& [got, from] :
       {std::pair(plan.anchor_tokens, even.anchor_tokens), std::pair(plan.passing_tokens, even.passing_tokens)}) {
    RC_ASSERT(!far(got, from));
    RC_ASSERT(got == from || got % multiple == 0);
    if (from >= 4 * multiple) RC_ASSERT(got % multiple == 0);
  }
}

TEST(job_plan, what_was_asked_for_is_not_rounded) {
  const std::vector<device_view> devices{{"local", "gpu0", "gpu", 128}};
  auto request = request_for(40'000, 4);
  request.options.anchor_tokens = 1001;
  request.options.passing_tokens = 777;
  request.options.block_tokens = {9'999, 10'001, 10'000, 10'000};
  const auto plan = make_job_plan(request, devices);
  EXPECT_EQ(plan.anchor_tokens, 1001);
  EXPECT_EQ(plan.passing_tokens, 777);
  EXPECT_EQ(plan.shards[0].block_tokens, 9'999);
  request.options = request_for(40'000, 4).options;
  const auto rounded = make_job_plan(request, devices);
  std::vector<std::int64_t> lengths;
  for (const auto& shard : rounded.shards) lengths.push_back(shard.block_tokens);
  EXPECT_EQ(lengths, (std::vector<std::int64_t>{9'984, 9'984, 9'984, 10'048}));
  EXPECT_EQ(rounded.passing_tokens, 640);   // 40,000 / 64 is 625, auto 624
  EXPECT_EQ(rounded.anchor_tokens, 1'280);  // 1250, auto 1248
}

RC_GTEST_PROP(job_plan, every_plan_covers_the_document_once_and_its_numbers_add_up, ()) {
  plan_request request;
  request.options.ranks = *rc::gen::inRange(1, 20);
  request.document_tokens = *rc::gen::inRange(request.options.ranks, 5000);
  request.query_tokens = *rc::gen::inRange(0, 40);
  request.system_tokens = *rc::gen::inRange<std::int64_t>(0, std::min<std::int64_t>(10, request.document_tokens) + 1);
  request.has_retaining_heads = *rc::gen::arbitrary<bool>();
  request.options.strategy = *rc::gen::element<std::string>("full", "star", "apb");
  if (request.options.strategy == "full") request.options.ranks = 1;
  request.options.passing_tokens = *rc::gen::inRange(0, 300);
  const auto least = request.query_tokens > 0 ? request.system_tokens + request.query_tokens + 1 : 1;
  const auto most = request.document_tokens + request.query_tokens;
  request.options.anchor_tokens = most > least ? *rc::gen::inRange<std::int64_t>(least, most + 1) : 0;
  if (request.options.strategy == "apb" && *rc::gen::arbitrary<bool>())
    request.options.compressor = *rc::gen::element(compressor_kind::recent, compressor_kind::random);
  if (request.options.strategy != "full" && *rc::gen::arbitrary<bool>()) {
    // Uneven blocks: each takes what is left but a token for each rank behind it, or less.
    std::int64_t left = request.document_tokens;
    for (int rank = 0; rank < request.options.ranks; ++rank) {
      const std::int64_t most_here = left - (request.options.ranks - 1 - rank);
      const bool is_last = rank + 1 == request.options.ranks;
      request.options.block_tokens.push_back(is_last ? left : *rc::gen::inRange<std::int64_t>(1, most_here + 1));
      left -= request.options.block_tokens.back();
    }
  }
  std::vector<device_view> devices;
  const std::int64_t multiple = *rc::gen::element(1, 64, 128);
  for (int i = 0; i < *rc::gen::inRange(1, 5); ++i)
    devices.push_back({"node", fmt::format("cpu{}", i), "cpu", i == 0 ? multiple : 1});
  const auto plan = make_job_plan(request, devices);

  std::set<std::string> left_behind;
  for (std::size_t rank = 1; rank < plan.shards.size(); ++rank) {
    const auto& before = plan.shards[rank - 1].device;
    const auto& here = plan.shards[rank].device;
    if (here != before) left_behind.insert(before);
    RC_ASSERT(!left_behind.contains(here));  // the ranks of a device are neighbours
  }
  if (!request.options.block_tokens.empty()) {
    for (const auto& shard : plan.shards)
      RC_ASSERT(shard.block_tokens == request.options.block_tokens[static_cast<std::size_t>(shard.rank)]);
  }
  std::int64_t next = 0;
  std::int64_t passed = 0;
  RC_ASSERT(plan.ranks() == request.options.ranks);
  for (const auto& shard : plan.shards) {
    std::int64_t anchor = 0;
    for (const auto& run : shard.anchor) {
      RC_ASSERT(run.position == anchor);
      RC_ASSERT(run.first >= 0 &&
                run.first + run.count <=
                    (run.source == token_run::source_kind::query ? plan.query_tokens : plan.document_tokens));
      anchor += run.count;
    }
    RC_ASSERT(anchor == shard.anchor_tokens);
    RC_ASSERT(shard.block.size() == 1u && shard.block[0].first == next && shard.block[0].position == next);
    RC_ASSERT(shard.block[0].count == shard.block_tokens && shard.block_tokens >= 1);
    RC_ASSERT(shard.document_index(shard.block_tokens - 1) == next + shard.block_tokens - 1);
    next += shard.block_tokens;
    RC_ASSERT(shard.passing_units == passed);
    RC_ASSERT(shard.compressed_units >= 0 && shard.compressed_units <= shard.block_tokens - shard.eligible_from);
    RC_ASSERT(shard.compressed_units <= plan.passing_tokens);
    passed += shard.compressed_units;
  }
  RC_ASSERT(next == plan.document_tokens);
  RC_ASSERT(plan.shards.back().compressed_units == 0);
  RC_ASSERT(plan.ranks() == 1 || plan.strategy != "apb" || plan.compressor != compressor_kind::none);
}

TEST(job_plan, traffic_counts_every_block_for_every_reader) {
  auto request = request_for(1000, 3);
  request.options.anchor_tokens = 100;
  request.options.passing_tokens = 10;
  const auto plan = make_job_plan(request, one_device);
  const kv_shape shape{.layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 8, .element_bytes = 2};
  const auto moved = prefill_traffic(plan, shape);
  EXPECT_EQ(moved.messages, 2 * (2 + 1));
  EXPECT_EQ(moved.bytes, 2 * (2 + 1) * 10 * (2 * 2 * 2 * 8));
  EXPECT_EQ(relay_log_bytes(plan, shape), 2 * 2 * 10 * (2 * 2 * 2 * 8));
  const auto decode = decode_traffic(plan, shape, 1);
  EXPECT_EQ(decode.messages, 2 * 6);
  EXPECT_EQ(decode.bytes, 2 * (6 + 2) * 4 * 4 * 9);
}

}  // namespace
}  // namespace baton
