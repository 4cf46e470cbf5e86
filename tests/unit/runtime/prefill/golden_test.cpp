#include <cmath>
#include <filesystem>

#include <gtest/gtest.h>

#include "kernels/cuda/cuda_backend.hpp"
#include "tests/support/reference_weights.hpp"
#include "tests/support/source_folder.hpp"
#include "tests/support/test_engine.hpp"

namespace baton {
namespace {

/// Checkpoints and logits of Hugging Face transformers: tests/fixtures/make_golden.py.
const std::filesystem::path models = source_folder() / "tests/fixtures/models";

struct golden {
  std::vector<std::int32_t> document;
  std::vector<std::int32_t> query;
  std::vector<double> logits;  ///< (vocabulary) at the last token
  std::vector<std::int32_t> greedy;
};

golden golden_of(const std::string& name, const std::string& logits) {
  const auto tensors = reference::read_tensors(models / name / "golden.safetensors");
  golden g;
  const auto& ids = tensors.at("input_ids").values;
  for (std::size_t i = 0; i < ids.size(); ++i)
    (i + 10 < ids.size() ? g.document : g.query).push_back(static_cast<std::int32_t>(ids[i]));
  const auto& all = tensors.at(logits);
  g.logits.assign(all.values.end() - all.shape.back(), all.values.end());
  for (const double id : tensors.at("greedy_ids").values) g.greedy.push_back(static_cast<std::int32_t>(id));
  return g;
}

double largest_difference(std::span<const float> got, std::span<const double> expected) {
  double worst = got.size() == expected.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < expected.size() && i < got.size(); ++i)
    worst = std::max(worst, std::abs(got[i] - expected[i]));
  return worst;
}

class golden_logits : public testing::TestWithParam<std::string> {};

TEST_P(golden_logits, one_rank_gives_those_of_transformers_in_fp32) {
  const auto g = golden_of(GetParam(), "logits_f32");
  test_engine engine(models / GetParam(), {element_type::f32, 1});
  for (const char* strategy : {"full", "star", "apb"}) {
    job_options options;
    options.strategy = strategy;
    options.max_new_tokens = static_cast<int>(g.greedy.size());
    const auto answer = engine.run(options, g.document, g.query, 0);
    EXPECT_LT(largest_difference(answer.first_logits, g.logits), 1e-3) << strategy;
    EXPECT_EQ(answer.ids, g.greedy) << strategy;
  }
}

void expect_as_near_as_transformers(const std::string& name, const engine_settings& settings) {
  const auto exact = golden_of(name, "logits_f32");
  const auto theirs = golden_of(name, "logits_bf16");
  test_engine engine(models / name, settings);
  job_options options;
  options.max_new_tokens = 1;
  for (const char* strategy : {"full", "star", "apb"}) {
    options.strategy = strategy;
    const auto answer = engine.run(options, exact.document, exact.query, 0);
    double theirs_squared = 0;
    double ours_squared = 0;
    ASSERT_EQ(answer.first_logits.size(), exact.logits.size());
    for (std::size_t i = 0; i < exact.logits.size(); ++i) {
      theirs_squared += std::pow(theirs.logits[i] - exact.logits[i], 2);
      ours_squared += std::pow(answer.first_logits[i] - exact.logits[i], 2);
    }
    EXPECT_LT(std::sqrt(ours_squared), 2 * std::sqrt(theirs_squared)) << strategy;
    EXPECT_GT(ours_squared, 0) << strategy;
  }
}

TEST_P(golden_logits, bf16_is_as_near_to_fp32_as_transformers_own_bf16) {
  expect_as_near_as_transformers(GetParam(), {element_type::bf16, 1});
}

TEST_P(golden_logits, a_gpu_is_as_near_to_fp32_as_transformers_own_bf16) {
  if (cuda::device_count() == 0)
    GTEST_SKIP() << "no GPU here: the CUDA backend has NOT been compared with transformers";
  expect_as_near_as_transformers(GetParam(), {.on_gpu = true});
}

INSTANTIATE_TEST_SUITE_P(llama, golden_logits,
                         testing::Values("llama_tied", "llama_untied", "llama_bias", "llama_rope_llama3",
                                         "llama_rope_yarn", "llama_head_dim_128", "yi"),
                         [](const auto& param_info) { return param_info.param; });
INSTANTIATE_TEST_SUITE_P(qwen2, golden_logits, testing::Values("qwen2_tied", "qwen2_untied_yarn", "qwen2_f32"),
                         [](const auto& param_info) { return param_info.param; });

}  // namespace
}  // namespace baton
