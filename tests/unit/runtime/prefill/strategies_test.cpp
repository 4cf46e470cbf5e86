#include <cmath>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

#include "runtime/decode/decode_pass.hpp"
#include "runtime/plan/plan_costs.hpp"
#include "tests/support/reference_model.hpp"
#include "tests/support/reference_weights.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_engine.hpp"

namespace baton {
namespace {

std::vector<std::int32_t> random_ids(std::int64_t count, int vocabulary, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (auto& id : ids) id = static_cast<std::int32_t>(random() % static_cast<unsigned>(vocabulary));
  return ids;
}

/// The largest difference, as a share of the spread of what is expected.
double relative_error(std::span<const float> got, std::span<const float> expected) {
  if (got.size() != expected.size() || got.empty()) return INFINITY;
  double sum = 0;
  double squares = 0;
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    sum += expected[i];
    squares += double{expected[i]} * expected[i];
    worst = std::max(worst, std::abs(double{got[i]} - expected[i]));
  }
  const double n = static_cast<double>(got.size());
  const double spread = std::sqrt(squares / n - (sum / n) * (sum / n));
  return std::isfinite(worst) ? worst / spread : INFINITY;
}

reference::shape small_shape() {
  reference::shape s;
  s.layers = 3;
  s.hidden = 48;
  s.heads = 6;
  s.kv_heads = 2;
  s.head_dim = 16;
  s.ffn = 80;
  s.vocabulary = 131;
  return s;
}

/// A random model on disk, for the reference and for the engine.
struct model_on_disk {
  explicit model_on_disk(bool with_heads, std::uint64_t seed = 7)
      : weights(reference::random_weights(small_shape(), seed, with_heads)) {
    reference::write_checkpoint(weights, folder.path());
  }
  temporary_directory folder;
  reference::weights weights;
};

reference::compressor chooser_of(compressor_kind kind) {
  switch (kind) {
    case compressor_kind::query_key: return reference::compressor::query_key;
    case compressor_kind::recent: return reference::compressor::recent;
    case compressor_kind::random: return reference::compressor::random;
    default: return reference::compressor::retaining_heads;
  }
}

reference::options reference_of(const job_plan& plan) {
  reference::options o;
  o.how = plan.strategy == "apb" && plan.ranks() > 1 ? reference::strategy::apb
          : plan.strategy == "star"                  ? reference::strategy::star
                                                     : reference::strategy::full;
  for (const auto& shard : plan.shards) o.block_tokens.push_back(static_cast<int>(shard.block_tokens));
  o.anchor_tokens = static_cast<int>(plan.anchor_tokens);
  o.passing_tokens = static_cast<int>(plan.passing_tokens);
  o.system_tokens = static_cast<int>(plan.system_tokens);
  o.chooser = chooser_of(plan.compressor);
  o.seed = plan.compressor_seed;
  return o;
}

reference::selection selection_of(const engine_answer& answer, int kv_heads) {
  reference::selection all;
  for (const auto& ranks : answer.chosen) {
    auto& layer = all.emplace_back();
    for (const auto& indices : ranks) {
      auto& rank = layer.emplace_back(static_cast<std::size_t>(kv_heads));
      const std::size_t units = indices.size() / static_cast<std::size_t>(kv_heads);
      for (std::size_t g = 0; g < rank.size(); ++g) {
        rank[g].assign(indices.begin() + static_cast<std::ptrdiff_t>(g * units),
                       indices.begin() + static_cast<std::ptrdiff_t>((g + 1) * units));
      }
    }
  }
  return all;
}

struct strategy_case {
  std::string title;
  std::string strategy;
  int ranks = 1;
  std::vector<std::int64_t> block_tokens = {};
  std::optional<std::int64_t> anchor_tokens = {};
  std::optional<std::int64_t> passing_tokens = {};
  std::optional<compressor_kind> compressor = {};
  std::int64_t chunk_tokens = 2048;
};

void PrintTo(const strategy_case& c, std::ostream* out) { *out << c.title; }

job_options options_of(const strategy_case& c) {
  job_options options;
  options.strategy = c.strategy;
  options.ranks = c.ranks;
  options.block_tokens = c.block_tokens;
  options.anchor_tokens = c.anchor_tokens;
  options.passing_tokens = c.passing_tokens;
  options.compressor = c.compressor;
  options.compressor_seed = 11;
  options.chunk_tokens = c.chunk_tokens;
  options.max_new_tokens = 5;
  return options;
}

constexpr std::int64_t document_tokens = 301;
constexpr std::int64_t query_tokens = 9;
constexpr std::int64_t system_tokens = 3;

const std::vector<strategy_case>& cases() {
  static const std::vector<strategy_case> all{
      {"full", "full", 1},
      {"full_in_small_chunks", "full", 1, {}, {}, {}, {}, 37},
      {"apb_on_one_rank", "apb", 1},
      {"star_even", "star", 4},
      {"star_uneven", "star", 3, {40, 161, 100}},
      {"apb_retaining_heads", "apb", 4, {}, 40, 16},
      {"apb_retaining_heads_uneven_in_chunks", "apb", 5, {70, 31, 100, 1, 99}, 25, 12, {}, 19},
      {"apb_query_key", "apb", 4, {}, 40, 16, compressor_kind::query_key},
      {"apb_query_key_in_chunks", "apb", 3, {90, 101, 110}, 33, 20, compressor_kind::query_key, 50},
      {"apb_recent", "apb", 4, {}, 30, 21, compressor_kind::recent},
      {"apb_random", "apb", 6, {}, 20, 9, compressor_kind::random},
      {"apb_anchor_longer_than_block_0", "apb", 4, {20, 100, 100, 81}, 60, 8},
      {"apb_nothing_passed", "apb", 4, {}, 40, 0},
      {"apb_everything_passed", "apb", 4, {}, 40, 1000},
      {"apb_no_anchor", "apb", 4, {}, 0, 16},
      {"apb_sixteen_ranks", "apb", 16, {}, 16, 5},
  };
  return all;
}

class strategies_against_the_reference : public testing::TestWithParam<strategy_case> {};

TEST_P(strategies_against_the_reference, agree_in_fp32) {
  const model_on_disk model(true);
  test_engine engine(model.folder.path(), {element_type::f32, 1});
  const auto document = random_ids(document_tokens, 131, 1);
  const auto query = random_ids(query_tokens, 131, 2);
  const auto got = engine.run(options_of(GetParam()), document, query, system_tokens);
  const auto expected = reference::run(model.weights, document, query, reference_of(got.plan), 5);
  EXPECT_LT(relative_error(got.first_logits, expected.first_logits), 2e-4);
  EXPECT_EQ(got.ids, std::vector<std::int32_t>(expected.greedy_ids.begin(), expected.greedy_ids.end()));
  if (got.plan.compressor != compressor_kind::none) {
    EXPECT_EQ(selection_of(got, small_shape().kv_heads), expected.chosen);
  }
}

TEST_P(strategies_against_the_reference, agree_in_bf16_with_the_same_units_passed) {
  const model_on_disk model(true);
  test_engine engine(model.folder.path(), {element_type::bf16, 1});
  const auto document = random_ids(document_tokens, 131, 1);
  const auto query = random_ids(query_tokens, 131, 2);
  const auto got = engine.run(options_of(GetParam()), document, query, system_tokens);
  auto o = reference_of(got.plan);
  o.round_to_bf16 = true;
  if (got.plan.compressor != compressor_kind::none) o.forced_selection = selection_of(got, small_shape().kv_heads);
  const auto expected = reference::run(model.weights, document, query, o, 1);
  // bf16 keeps 8 bits: what matters is that nothing is systematically off.
  EXPECT_LT(relative_error(got.first_logits, expected.first_logits), 0.12);
}

INSTANTIATE_TEST_SUITE_P(all, strategies_against_the_reference, testing::ValuesIn(cases()),
                         [](const auto& param_info) { return param_info.param.title; });

class apb_in : public testing::TestWithParam<element_type> {};

TEST_P(apb_in, without_anchor_and_with_everything_passed_is_full_attention) {
  const model_on_disk model(true);
  test_engine engine(model.folder.path(), {GetParam(), 2});
  const auto document = random_ids(document_tokens, 131, 3);
  const auto query = random_ids(query_tokens, 131, 4);
  const auto full = engine.run(options_of({"", "full", 1}), document, query, system_tokens);
  for (const auto& blocks : std::vector<std::vector<std::int64_t>>{{}, {10, 200, 91}, {1, 1, 299}}) {
    strategy_case everything{"", "apb", 3, blocks, 0, document_tokens};
    const auto apb = engine.run(options_of(everything), document, query, system_tokens);
    // The parts of an attention are added up in another order; bf16 keeps 8 bits.
    const bool exact = GetParam() == element_type::f32;
    EXPECT_LT(relative_error(apb.first_logits, full.first_logits), exact ? 1e-4 : 0.05);
    if (exact) {
      EXPECT_EQ(apb.ids, full.ids);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(precisions, apb_in, testing::Values(element_type::f32, element_type::bf16),
                         [](const auto& param_info) {
                           return param_info.param == element_type::f32 ? "fp32" : "bf16";
                         });

TEST(apb, differs_from_full_attention_when_little_is_passed) {
  const model_on_disk model(true);
  test_engine engine(model.folder.path(), {element_type::f32, 1});
  const auto document = random_ids(document_tokens, 131, 3);
  const auto query = random_ids(query_tokens, 131, 4);
  const auto full = engine.run(options_of({"", "full", 1}), document, query, system_tokens);
  const auto apb = engine.run(options_of({"", "apb", 4, {}, 20, 2}), document, query, system_tokens);
  EXPECT_GT(relative_error(apb.first_logits, full.first_logits), 1e-2);
}

class determinism : public testing::TestWithParam<element_type> {};

TEST_P(determinism, order_of_arrival_does_not_change_a_bit) {
  const model_on_disk model(true);
  test_engine engine(model.folder.path(), {GetParam(), 1});
  const auto document = random_ids(document_tokens, 131, 5);
  const auto query = random_ids(query_tokens, 131, 6);
  const auto options = options_of({"", "apb", 5, {}, 24, 10, {}, 40});
  const auto in_order = engine.run(options, document, query, system_tokens);
  for (const std::uint64_t seed : {1, 2, 3}) {
    const auto shuffled = engine.run(options, document, query, system_tokens, seed);
    EXPECT_EQ(shuffled.first_logits, in_order.first_logits);
    EXPECT_EQ(shuffled.document_kv, in_order.document_kv);
    EXPECT_EQ(shuffled.chosen, in_order.chosen);
    EXPECT_EQ(shuffled.ids, in_order.ids);
  }
}

TEST_P(determinism, the_number_of_threads_does_not_change_a_bit) {
  const model_on_disk model(true);
  const auto document = random_ids(document_tokens, 131, 5);
  const auto query = random_ids(query_tokens, 131, 6);
  const auto options = options_of({"", "apb", 3, {}, 24, 10});
  std::optional<engine_answer> first;
  for (const int threads : {1, 2, 3}) {
    test_engine engine(model.folder.path(), {GetParam(), threads});
    auto answer = engine.run(options, document, query, system_tokens);
    if (!first) {
      first = std::move(answer);
      continue;
    }
    EXPECT_EQ(answer.first_logits, first->first_logits);
    EXPECT_EQ(answer.document_kv, first->document_kv);
    EXPECT_EQ(answer.ids, first->ids);
  }
}

TEST_P(determinism, two_jobs_stepped_in_turn_on_one_device_give_each_its_own_result) {
  const model_on_disk model(true);
  test_engine engine(model.folder.path(), {GetParam(), 1});
  const test_engine::job a{options_of({"", "apb", 4, {}, 30, 12, {}, 40}), random_ids(document_tokens, 131, 7),
                           random_ids(query_tokens, 131, 8), 2};
  const test_engine::job b{options_of({"", "star", 3, {}, {}, {}, {}, 64}), random_ids(200, 131, 9),
                           random_ids(5, 131, 10), 0};
  const auto alone_a = engine.run(a.options, a.document, a.query, a.system_tokens);
  const auto alone_b = engine.run(b.options, b.document, b.query, b.system_tokens);
  for (const std::uint64_t seed : {0, 1, 2}) {
    const auto together = engine.run_together(std::vector{a, b}, seed);
    EXPECT_EQ(together[0].first_logits, alone_a.first_logits);
    EXPECT_EQ(together[0].document_kv, alone_a.document_kv);
    EXPECT_EQ(together[0].ids, alone_a.ids);
    EXPECT_EQ(together[1].first_logits, alone_b.first_logits);
    EXPECT_EQ(together[1].document_kv, alone_b.document_kv);
    EXPECT_EQ(together[1].ids, alone_b.ids);
  }
}

INSTANTIATE_TEST_SUITE_P(precisions, determinism, testing::Values(element_type::f32, element_type::bf16),
                         [](const auto& param_info) {
                           return param_info.param == element_type::f32 ? "fp32" : "bf16";
                         });

TEST(decoding, a_long_query_goes_in_pieces_and_gives_what_the_reference_gives) {
  const model_on_disk model(true);
  test_engine engine(model.folder.path(), {element_type::f32, 1});
  const auto document = random_ids(120, 131, 11);
  const auto query = random_ids(decode_pass::piece_tokens * 2 + 7, 131, 12);
  const auto got = engine.run(options_of({"", "star", 2}), document, query, 0);
  const auto expected = reference::run(model.weights, document, query, reference_of(got.plan), 5);
  EXPECT_LT(relative_error(got.first_logits, expected.first_logits), 2e-4);
  EXPECT_EQ(got.ids, std::vector<std::int32_t>(expected.greedy_ids.begin(), expected.greedy_ids.end()));
}

TEST(decoding, sampling_follows_the_seed_alone) {
  const model_on_disk model(true);
  test_engine engine(model.folder.path(), {element_type::f32, 1});
  const auto document = random_ids(120, 131, 13);
  const auto query = random_ids(6, 131, 14);
  auto options = options_of({"", "star", 2});
  options.max_new_tokens = 24;
  options.sampling = {.temperature = 1.5f, .top_p = 0.95f, .seed = 3};
  const auto first = engine.run(options, document, query, 0);
  EXPECT_EQ(engine.run(options, document, query, 0, 5).ids, first.ids);
  options.sampling.seed = 4;
  EXPECT_NE(engine.run(options, document, query, 0).ids, first.ids);
}

TEST(memory, the_arena_peak_stays_within_what_the_plan_says) {
  const model_on_disk model(true);
  test_engine engine(model.folder.path(), {element_type::bf16, 1});
  const auto options = options_of({"", "apb", 4, {}, 40, 16});
  const auto got =
      engine.run(options, random_ids(document_tokens, 131, 15), random_ids(query_tokens, 131, 16), system_tokens);
  const auto costs = costs_of(got.plan, {&engine.kernels(), &engine.config(), 0, 0});
  EXPECT_LE(static_cast<std::int64_t>(got.arena_peak_bytes), costs.devices.front().arena_bytes());
  EXPECT_GE(static_cast<std::int64_t>(got.arena_peak_bytes), costs.devices.front().arena_bytes() * 9 / 10);
}

}  // namespace
}  // namespace baton
