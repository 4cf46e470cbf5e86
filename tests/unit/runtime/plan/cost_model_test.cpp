#include "runtime/plan/cost_model.hpp"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace baton {
namespace {

constexpr device_rates rates{2e-6, 3e-7, 1e-10, 0.8e-10};

std::vector<device_view> devices_of(int count) {
  std::vector<device_view> views;
  for (int i = 0; i < count; ++i) views.push_back({"node", "device" + std::to_string(i), "class"});
  return views;
}

model_config model_of_layers(int layers) {
  model_config model;
  model.layers = layers;
  return model;
}

plan_request request_of(std::int64_t tokens, int ranks) {
  plan_request request;
  request.document_tokens = tokens;
  request.query_tokens = 64;
  request.has_retaining_heads = true;
  request.options.ranks = ranks;
  request.options.max_new_tokens = 1;
  return request;
}

double busy_max_over_mean(const job_plan& plan, const model_config& model) {
  std::vector<double> seconds;
  for (const auto& shard : plan.shards) seconds.push_back(predicted_shard_s(shard, model, rates));
  const double sum = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  return *std::ranges::max_element(seconds) * static_cast<double>(seconds.size()) / sum;
}

TEST(cost_model, adds_up_tokens_and_pairs_of_all_layers) {
  const auto plan = make_job_plan(request_of(1000, 1), devices_of(1));
  EXPECT_DOUBLE_EQ(predicted_shard_s(plan.shards[0], model_of_layers(3), rates),
                   3 * (1000 * rates.token_s + 500'500 * rates.causal_pair_s));
}

/// A device whose chunks of few rows take long: 100 rows as long as 150 at the full rate, and whose full chunks are of 1000.
constexpr device_rates with_chunks{2e-6, 3e-7, 1e-10, 0.8e-10,
                                   5e-8, 7e-5, 1000,  {{{100, 3e-4, 1e-5, 1.5e-8}, {1000, 2e-3, 4e-5, 1e-7}}}};

TEST(cost_model, a_short_chunk_takes_what_was_measured_of_such_and_one_between_lies_on_the_line) {
  const auto layer_of = [](std::int64_t tokens) {
    return predicted_shard_s(make_job_plan(request_of(tokens, 1), devices_of(1)).shards[0], model_of_layers(1),
                             with_chunks);
  };
  EXPECT_DOUBLE_EQ(layer_of(100), 3e-4 + 1e-5 + 50.5 * 1.5e-8);
  EXPECT_DOUBLE_EQ(layer_of(60), 3e-4 + 1e-5 + 30.5 * 1.5e-8) << "fewer rows take as long as the fewest";
  EXPECT_DOUBLE_EQ(layer_of(550), (3e-4 + 2e-3) / 2 + 2.5e-5 + 275.5 * (1.5e-8 + 1e-7) / 2);
  EXPECT_DOUBLE_EQ(layer_of(2100), 2 * 2e-3 + 3e-4 + 2 * 4e-5 + 1e-5 + (500.5 + 1500.5) * 1e-7 + 2050.5 * 1.5e-8);
}

TEST(cost_model, passing_units_are_made_ready_once_and_seen_by_each_chunk_of_the_block) {
  const auto plan = make_job_plan(request_of(6400, 4), devices_of(4));
  auto shard = plan.shards[3];
  ASSERT_GT(shard.passing_units, 0);
  const double with_blocks = predicted_shard_s(shard, model_of_layers(1), with_chunks);
  const double units = static_cast<double>(std::exchange(shard.passing_units, 0));
  ASSERT_EQ(shard.block_tokens, 1600);
  const double key_s = 1e-7 + 1.5e-8 + 500.0 / 900 * (1e-7 - 1.5e-8);
  const double attend_s = 4e-5 + 1e-5 + 500.0 / 900 * (4e-5 - 1e-5);
  EXPECT_NEAR(with_blocks - predicted_shard_s(shard, model_of_layers(1), with_chunks),
              units * (5e-8 + key_s * 0.8) + attend_s, 1e-12);

  auto first = plan.shards[0];
  const double scored = predicted_shard_s(first, model_of_layers(1), with_chunks);
  first.compressed_units = 0;
  EXPECT_NEAR(scored - predicted_shard_s(first, model_of_layers(1), with_chunks), 1600 * 3e-7 + 7e-5, 1e-12);
}

TEST(balanced_blocks, let_ranks_finish_together_where_short_chunks_cost_more) {
  const auto model = model_of_layers(8);
  auto request = request_of(16384, 8);
  const auto views = devices_of(8);
  auto rates_of_all = with_chunks;
  rates_of_all.causal_pair_s *= 10;
  rates_of_all.dense_pair_s *= 10;
  for (auto& chunk : rates_of_all.chunks) chunk.key_s *= 10;
  const auto busy = [&](const job_plan& plan) {
    double sum = 0;
    double longest = 0;
    for (const auto& shard : plan.shards) {
      const double seconds = predicted_shard_s(shard, model, rates_of_all);
      sum += seconds;
      longest = std::max(longest, seconds);
    }
    return longest * 8 / sum;
  };
  const double even = busy(make_job_plan(request, views));
  request.options.block_tokens = balanced_blocks(request, views, model, rates_of_all, false);
  const double balanced = busy(make_job_plan(request, views));
  EXPECT_LT(balanced, 1.08);
  EXPECT_LT(balanced, even - 0.05);
}

TEST(cost_model, a_plan_takes_as_long_as_the_device_whose_ranks_take_longest) {
  const auto model = model_of_layers(2);
  const auto plan = make_job_plan(request_of(9000, 3), devices_of(2));
  const double shared =
      predicted_shard_s(plan.shards[0], model, rates) + predicted_shard_s(plan.shards[1], model, rates);
  EXPECT_DOUBLE_EQ(predicted_prefill_s(plan, model, rates), shared);
}

TEST(balanced_blocks, of_the_published_settings_let_all_ranks_finish_together_where_even_ones_do_not) {
  const auto model = model_of_layers(8);
  for (const std::int64_t tokens : {16384, 32768, 131072}) {
    for (const int ranks : {4, 8}) {
      auto request = request_of(tokens, ranks);
      const auto views = devices_of(ranks);
      const auto even = make_job_plan(request, views);
      request.options.block_tokens = balanced_blocks(request, views, model, rates, false);
      const auto balanced = make_job_plan(request, views);
      EXPECT_GT(busy_max_over_mean(even, model), 1.05) << tokens << " tokens, " << ranks << " ranks";
      EXPECT_LT(busy_max_over_mean(balanced, model), 1.04) << tokens << " tokens, " << ranks << " ranks";
      EXPECT_LT(predicted_prefill_s(balanced, model, rates), predicted_prefill_s(even, model, rates));
      for (std::size_t h = 0; h + 1 < request.options.block_tokens.size(); ++h)
        EXPECT_EQ(request.options.block_tokens[h] % 64, 0);
    }
  }
}

TEST(balanced_blocks, are_even_where_all_ranks_take_turns_on_one_device_unless_each_is_to_have_its_own) {
  const auto model = model_of_layers(8);
  const auto request = request_of(16384, 4);
  EXPECT_EQ(balanced_blocks(request, devices_of(1), model, rates, false), (std::vector<std::int64_t>(4, 4096)));
  EXPECT_GT(balanced_blocks(request, devices_of(1), model, rates, true).front(), 4096);
}

TEST(balanced_blocks, are_shorter_on_slower_devices) {
  const auto model = model_of_layers(8);
  auto request = request_of(32768, 4);
  const auto views = devices_of(4);
  cluster_rates mixed(rates);
  mixed.set("node", "device1",
            {4 * rates.token_s, 4 * rates.scored_token_s, 4 * rates.causal_pair_s, 4 * rates.dense_pair_s});
  const auto even = make_job_plan(request, views);
  EXPECT_DOUBLE_EQ(predicted_shard_s(even.shards[1], model, mixed),
                   4 * predicted_shard_s(even.shards[1], model, rates));
  request.options.block_tokens = balanced_blocks(request, views, model, mixed, false);
  const auto balanced = make_job_plan(request, views);
  EXPECT_LT(3 * balanced.shards[1].block_tokens, balanced.shards[0].block_tokens);
  EXPECT_LT(1.5 * predicted_prefill_s(balanced, model, mixed), predicted_prefill_s(even, model, mixed));
}

TEST(balanced_blocks, are_multiples_of_what_the_devices_like) {
  auto views = devices_of(4);
  views[2].block_multiple = 256;
  const auto lengths = balanced_blocks(request_of(50'000, 4), views, model_of_layers(8), rates, false);
  for (std::size_t h = 0; h + 1 < lengths.size(); ++h) EXPECT_EQ(lengths[h] % 256, 0);
}

RC_GTEST_PROP(balanced_blocks, are_never_predicted_to_be_slower_and_always_add_up_to_the_document, ()) {
  const auto model = model_of_layers(4);
  auto request = request_of(*rc::gen::inRange<std::int64_t>(600, 40'000), *rc::gen::inRange(2, 12));
  request.has_retaining_heads = *rc::gen::arbitrary<bool>();
  const auto views = devices_of(*rc::gen::inRange(2, 5));
  const auto even = make_job_plan(request, views);
  request.options.block_tokens = balanced_blocks(request, views, model, rates, false);
  const auto balanced = make_job_plan(request, views);  // refuses lengths that do not add up
  RC_ASSERT(predicted_prefill_s(balanced, model, rates) <= predicted_prefill_s(even, model, rates));
}

}  // namespace
}  // namespace baton
