#include "runtime/plan/counted_work.hpp"

#include <array>
#include <cstdint>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace baton {
namespace {

model_config small_model() {
  model_config model;
  model.layers = 3;
  model.hidden = 32;
  model.heads = 4;
  model.kv_heads = 2;
  model.head_dim = 8;
  model.ffn = 48;
  model.vocabulary = 10;
  return model;
}

const std::array views{device_view{"n", "a", ""}, device_view{"n", "b", ""}};

job_plan plan_of(const std::string& strategy, int ranks, std::int64_t tokens, compressor_kind compressor) {
  plan_request request;
  request.document_tokens = tokens;
  request.query_tokens = 3;
  request.has_retaining_heads = true;
  request.options.strategy = strategy;
  request.options.ranks = ranks;
  request.options.max_new_tokens = 1;
  if (strategy == "apb") {
    request.options.compressor = compressor;
    request.options.anchor_tokens = 7;
    request.options.passing_tokens = 5;
  }
  return make_job_plan(request, views);
}

RC_GTEST_PROP(counted_work, pairs_are_those_of_a_mask_that_is_gone_through_one_by_one, ()) {
  const auto compressor = *rc::gen::element(compressor_kind::retaining_heads, compressor_kind::query_key);
  const auto plan = plan_of(*rc::gen::element<std::string>("apb", "star"), *rc::gen::inRange(2, 6),
                            *rc::gen::inRange<std::int64_t>(40, 200), compressor);
  for (const auto& shard : plan.shards) {
    std::int64_t causal = 0;
    std::int64_t dense = 0;
    for (std::int64_t query = 0; query < shard.tokens(); ++query) {
      const bool in_anchor = query < shard.anchor_tokens;
      for (std::int64_t key = 0; key <= query; ++key) {
        if (!(shard.anchor_aside && !in_anchor && key < shard.anchor_tokens)) ++causal;
      }
      if (!in_anchor) dense += shard.passing_units;
    }
    const auto counts = counts_of(shard);
    RC_ASSERT(counts.causal_pairs == causal);
    RC_ASSERT(counts.dense_pairs == dense);
    RC_ASSERT(counts.tokens == shard.tokens());
  }
}

TEST(counted_work, of_full_attention_is_two_operations_for_each_weight_and_four_for_each_pair_and_dimension) {
  auto model = small_model();
  const auto plan = plan_of("full", 1, 100, compressor_kind::none);
  const auto work = work_of(plan.shards[0], model, plan.compressor, 0);
  const double norms = 2.0 * model.hidden * model.layers;
  const double embeddings = 2.0 * model.vocabulary * model.hidden + model.hidden;
  const double weights = static_cast<double>(parameters_of(model)) - norms - embeddings;
  EXPECT_DOUBLE_EQ(work.project + work.feed_forward, 2 * 100 * weights);
  EXPECT_DOUBLE_EQ(work.attend, 3 * 4.0 * 5050 * 4 * 8);
  EXPECT_DOUBLE_EQ(work.compress, 0);
  EXPECT_DOUBLE_EQ(work.total(), largest_device_work(plan, model, 0));
}

TEST(counted_work, of_retaining_heads_is_that_of_their_two_layers_on_ranks_that_pass_something_on) {
  const auto plan = plan_of("apb", 2, 100, compressor_kind::retaining_heads);
  const auto model = small_model();
  EXPECT_DOUBLE_EQ(work_of(plan.shards[0], model, plan.compressor, 16).compress, 3 * 2.0 * 50 * 16 * (64 + 2));
  EXPECT_DOUBLE_EQ(work_of(plan.shards[1], model, plan.compressor, 16).compress, 0);
  EXPECT_EQ(largest_device_work(plan, model, 16), work_of(plan.shards[1], model, plan.compressor, 16).total());
}

}  // namespace
}  // namespace baton
