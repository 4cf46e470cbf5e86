#include <cmath>
#include <filesystem>
#include <random>

#include <gtest/gtest.h>

#include "kernels/cuda/cuda_backend.hpp"
#include "tests/support/reference_model.hpp"
#include "tests/support/source_folder.hpp"
#include "tests/support/test_engine.hpp"

namespace baton {
namespace {

/// Small random checkpoints of every family, RoPE scaling, bias and type of weights: tests/fixtures/make_golden.py.
const std::filesystem::path models = source_folder() / "tests/fixtures/models";

std::vector<std::int32_t> random_ids(std::int64_t count, int vocabulary, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (auto& id : ids) id = static_cast<std::int32_t>(random() % static_cast<unsigned>(vocabulary));
  return ids;
}

/// The root of the mean squared difference, as a share of the spread of what is expected.
double relative_error(std::span<const float> got, std::span<const float> expected) {
  if (got.size() != expected.size() || got.empty()) return INFINITY;
  double sum = 0, squares = 0, differences = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    sum += expected[i];
    squares += double{expected[i]} * expected[i];
    differences += std::pow(double{got[i]} - expected[i], 2);
  }
  const double n = static_cast<double>(got.size());
  return std::sqrt(differences / n) / std::sqrt(squares / n - (sum / n) * (sum / n));
}

job_options options_of(const std::string& strategy) {
  job_options options;
  options.strategy = strategy;
  options.ranks = strategy == "star" ? 3 : 4;
  options.max_new_tokens = 4;
  options.chunk_tokens = 48;
  if (strategy == "apb") {
    options.anchor_tokens = 24;
    options.passing_tokens = 9;
  }
  return options;
}

reference::options reference_of(const engine_answer& answer, int kv_heads) {
  const job_plan& plan = answer.plan;
  reference::options o;
  o.how = plan.strategy == "star" ? reference::strategy::star : reference::strategy::apb;
  for (const auto& shard : plan.shards) o.block_tokens.push_back(static_cast<int>(shard.block_tokens));
  o.anchor_tokens = static_cast<int>(plan.anchor_tokens);
  o.passing_tokens = static_cast<int>(plan.passing_tokens);
  o.system_tokens = static_cast<int>(plan.system_tokens);
  o.chooser = plan.compressor == compressor_kind::query_key ? reference::compressor::query_key
                                                            : reference::compressor::retaining_heads;
  if (plan.strategy != "apb") return o;
  // The units that the engine chose: what is compared here is what it computes with them.
  reference::selection all;
  for (const auto& ranks : answer.chosen) {
    auto& layer = all.emplace_back();
    for (const auto& indices : ranks) {
      auto& rank = layer.emplace_back(static_cast<std::size_t>(kv_heads));
      const auto units = static_cast<std::ptrdiff_t>(indices.size() / rank.size());
      for (std::size_t g = 0; g < rank.size(); ++g) {
        const auto first = indices.begin() + static_cast<std::ptrdiff_t>(g) * units;
        rank[g].assign(first, first + units);
      }
    }
  }
  o.forced_selection = std::move(all);
  return o;
}

class families : public testing::TestWithParam<std::string> {};

TEST_P(families, star_and_apb_give_what_the_reference_gives) {
  const auto weights = reference::load_weights(models / GetParam());
  const auto document = random_ids(151, weights.s.vocabulary, 1);
  const auto query = random_ids(7, weights.s.vocabulary, 2);
  for (const element_type precision : {element_type::f32, element_type::bf16}) {
    test_engine engine(models / GetParam(), {precision, 1});
    for (const std::string strategy : {"star", "apb"}) {
      SCOPED_TRACE(strategy + (precision == element_type::f32 ? " in fp32" : " in bf16"));
      const auto got = engine.run(options_of(strategy), document, query, 2);
      auto how = reference_of(got, weights.s.kv_heads);
      how.round_to_bf16 = precision == element_type::bf16;
      const auto expected = reference::run(weights, document, query, how, 4);
      EXPECT_LT(relative_error(got.first_logits, expected.first_logits), precision == element_type::f32 ? 1e-4 : 0.05);
      if (precision == element_type::f32) {
        EXPECT_EQ(got.ids, std::vector<std::int32_t>(expected.greedy_ids.begin(), expected.greedy_ids.end()));
      }
    }
  }
}

TEST_P(families, a_gpu_gives_what_the_reference_gives) {
  if (cuda::device_count() == 0)
    GTEST_SKIP() << "no GPU here: the CUDA backend has NOT been compared with the reference";
  const auto weights = reference::load_weights(models / GetParam());
  const auto document = random_ids(151, weights.s.vocabulary, 1);
  const auto query = random_ids(7, weights.s.vocabulary, 2);
  test_engine engine(models / GetParam(), {.on_gpu = true});
  for (const std::string strategy : {"star", "apb"}) {
    SCOPED_TRACE(strategy);
    const auto got = engine.run(options_of(strategy), document, query, 2);
    auto how = reference_of(got, weights.s.kv_heads);
    how.round_to_bf16 = true;
    const auto expected = reference::run(weights, document, query, how, 4);
    EXPECT_LT(relative_error(got.first_logits, expected.first_logits), 0.05);
    const auto again = engine.run(options_of(strategy), document, query, 2, 99);
    EXPECT_EQ(again.first_logits, got.first_logits) << "in another order of steps";
    EXPECT_EQ(again.document_kv, got.document_kv) << "in another order of steps";
  }
}

TEST_P(families, the_compressor_chooses_in_fp32_what_the_reference_chooses) {
  const auto weights = reference::load_weights(models / GetParam());
  test_engine engine(models / GetParam(), {element_type::f32, 1});
  const auto document = random_ids(151, weights.s.vocabulary, 3);
  const auto query = random_ids(7, weights.s.vocabulary, 4);
  const auto got = engine.run(options_of("apb"), document, query, 2);
  auto how = reference_of(got, weights.s.kv_heads);
  const auto chosen = *std::exchange(how.forced_selection, std::nullopt);
  EXPECT_EQ(chosen, reference::run(weights, document, query, how, 1).chosen);
}

INSTANTIATE_TEST_SUITE_P(all, families,
                         testing::Values("llama_tied", "llama_untied", "llama_bias", "llama_rope_llama3",
                                         "llama_rope_yarn", "llama_head_dim_128", "yi", "qwen2_tied",
                                         "qwen2_untied_yarn", "qwen2_f32"),
                         [](const auto& param_info) { return param_info.param; });

}  // namespace
}  // namespace baton
