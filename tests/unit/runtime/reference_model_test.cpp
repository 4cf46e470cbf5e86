#include "tests/support/reference_model.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/places.hpp"
#include "tests/support/reference_selection.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton::reference {
namespace {

namespace fs = std::filesystem;
using ids = std::vector<std::int32_t>;

ids random_ids(int count, int vocabulary, unsigned seed) {
  std::mt19937 random(seed);
  ids result;
  for (int i = 0; i < count; ++i)
    result.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(vocabulary)));
  return result;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return largest;
}

double largest_difference(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    largest = std::max(largest, largest_difference(a[i], b[i]));
  return largest;
}

/// Tokens [begin, end) of a layer's document_k or document_v.
std::vector<float> tokens_of(const std::vector<float>& layer, int begin, int end, const shape& s) {
  const int width = s.kv_heads * s.head_dim;
  return {layer.begin() + begin * width, layer.begin() + end * width};
}

/// A model for pencil and paper: hidden size two, one head, values and outputs are the hidden states themselves, no
/// feed forward. Queries and keys are zero, so that attention is the mean of what is seen. Embeddings of length sqrt(2)
/// go through a norm unchanged.
weights averaging_model(int layers, const std::vector<std::vector<float>>& embeddings) {
  weights w = zero_weights({.layers = layers,
                            .hidden = 2,
                            .heads = 1,
                            .kv_heads = 1,
                            .head_dim = 2,
                            .ffn = 1,
                            .vocabulary = static_cast<int>(embeddings.size()),
                            .rms_eps = 0,
                            .tied = true});
  w.embedding.clear();
  for (const auto& embedding : embeddings) w.embedding.insert(w.embedding.end(), embedding.begin(), embedding.end());
  w.lm_head.weight = w.embedding;
  w.norm = {1, 1};
  for (layer_weights& layer : w.layers) {
    layer.attention_norm = layer.ffn_norm = {1, 1};
    layer.v.weight = layer.o.weight = {1, 0, 0, 1};
  }
  return w;
}

/// Four tokens of averaging_model: 0 is (1, 1), 1 is (1, -1), 2 is (-1, 1), 3 is (-1, -1).
const std::vector<std::vector<float>> corners = {{1, 1}, {1, -1}, {-1, 1}, {-1, -1}};

/// A one-layer model to choose with. Token i's embedding starts with first = firsts[i], at most sqrt(2) in size. Its
/// projections are q = first, k = 2 first, v = 4 first, in a dimension that RoPE does not turn. So the query_key score
/// of a token is 2 first(query token) first(token), and its retaining heads score silu(q/2 + k/4 + v/8) = silu(1.5
/// first).
weights scoring_model(const std::vector<float>& firsts) {
  std::vector<std::vector<float>> embeddings;
  for (float first : firsts) embeddings.push_back({first, std::sqrt(2 - first * first)});
  weights w = averaging_model(1, embeddings);
  w.s.head_dim = 4;
  w.s.rope_theta = 1e30;
  const auto projection = [](float scale) { return linear{4, 2, {0, 0, scale, 0, 0, 0, 0, 0}, {}}; };
  w.layers[0].q = projection(1);
  w.layers[0].k = projection(2);
  w.layers[0].v = projection(4);
  w.layers[0].o = {2, 4, std::vector<float>(8), {}};
  w.compressor = {{{1, 12, {0, 0.5, 0, 0, 0, 0.25, 0, 0, 0, 0.125, 0, 0}, {}}, {1, 1, {1}, {}}}};
  return w;
}

const shape small = {.layers = 3, .hidden = 48, .heads = 6, .kv_heads = 2, .head_dim = 8, .ffn = 80, .vocabulary = 97};

// ---- against transformers

double root_mean_square_difference(const std::vector<float>& a, const double* b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

struct golden_model {
  fs::path folder;
  weights model;
  ids input;
  tensor logits_f32, logits_bf16;  ///< (rows, vocabulary), of the last positions of the input
  std::vector<int> greedy;

  [[nodiscard]] int rows() const { return logits_f32.shape[0]; }

  /// The logits after the token that `row` belongs to, with the last `query_tokens` of what comes before taken as the
  /// query.
  [[nodiscard]] result run_to(int row, int query_tokens, bool bf16, int new_tokens) const {
    const std::span<const std::int32_t> text(input.data(), input.size() - static_cast<std::size_t>(rows() - 1 - row));
    const auto query = static_cast<std::size_t>(query_tokens);
    return run(model, text.first(text.size() - query), text.last(query), {.round_to_bf16 = bf16}, new_tokens);
  }

  [[nodiscard]] const double* row_of(const tensor& logits, int row) const {
    return &logits.values[static_cast<std::size_t>(row * logits.shape[1])];
  }
};

std::vector<golden_model> golden_models() {
  std::vector<golden_model> models;
  for (const auto& entry : fs::directory_iterator(fs::path(BATON_SOURCE_DIR) / "tests/fixtures/models")) {
    if (!fs::exists(entry.path() / "golden.safetensors")) continue;
    const auto golden = read_tensors(entry.path() / "golden.safetensors");
    const std::vector<double>& input = golden.at("input_ids").values;
    const std::vector<double>& greedy = golden.at("greedy_ids").values;
    models.push_back({entry.path(), load_weights(entry.path()), ids(input.begin(), input.end()),
                      golden.at("logits_f32"), golden.at("logits_bf16"),
                      std::vector<int>(greedy.begin(), greedy.end())});
  }
  return models;
}

TEST(reference_model, has_the_logits_and_greedy_tokens_of_transformers) {
  const auto models = golden_models();
  ASSERT_FALSE(models.empty());
  for (const golden_model& golden : models) {
    SCOPED_TRACE(golden.folder.string());
    const int last = golden.rows() - 1;
    for (int row : {0, last}) {
      const bool is_last = row == last;
      const result got = golden.run_to(row, 5, false, is_last ? static_cast<int>(golden.greedy.size()) : 0);
      const double* expected = golden.row_of(golden.logits_f32, row);
      double largest = 0;
      for (std::size_t i = 0; i < got.first_logits.size(); ++i) {
        largest = std::max(largest, std::abs(static_cast<double>(got.first_logits[i]) - expected[i]));
      }
      EXPECT_LT(largest, 1e-4) << "row " << row;
      if (is_last) {
        EXPECT_EQ(got.greedy_ids, golden.greedy);
      }
    }
  }
}

TEST(reference_model, strays_in_bf16_about_as_far_as_transformers_does) {
  const auto models = golden_models();
  ASSERT_FALSE(models.empty());
  for (const golden_model& golden : models) {
    SCOPED_TRACE(golden.folder.string());
    double ours = 0;
    double theirs = 0;
    for (int row : {0, golden.rows() / 2, golden.rows() - 1}) {
      const double* exact = golden.row_of(golden.logits_f32, row);
      const double* rounded = golden.row_of(golden.logits_bf16, row);
      ours += root_mean_square_difference(golden.run_to(row, 1, true, 0).first_logits, exact);
      theirs += root_mean_square_difference(std::vector<float>(rounded, rounded + golden.model.s.vocabulary), exact);
    }
    EXPECT_GT(ours, 0.1 * theirs) << "nothing was rounded";
    EXPECT_LT(ours, 1.5 * theirs);
  }
}

TEST(reference_model, keeps_keys_and_values_in_bf16_when_asked_to) {
  const weights w = random_weights(small, 39, true);
  const options o = {.how = strategy::star, .block_tokens = {5, 4, 6}, .round_to_bf16 = true};
  const result r = run(w, random_ids(15, small.vocabulary, 40), ids{1, 2}, o, 0);
  for (const auto* layers : {&r.document_k, &r.document_v}) {
    for (const auto& layer : *layers) {
      for (float value : layer) EXPECT_EQ(value, to_bf16(value));
    }
  }
}

// ---- whole runs against each other

TEST(reference_model, apb_on_one_rank_is_causal_attention) {
  const weights w = random_weights(small, 1, true);
  const ids document = random_ids(40, small.vocabulary, 2);
  const ids query = random_ids(5, small.vocabulary, 3);
  const result full = run(w, document, query, {}, 4);
  const result apb = run(
      w, document, query,
      {.how = strategy::apb, .block_tokens = {40}, .anchor_tokens = 12, .passing_tokens = 4, .system_tokens = 2}, 4);
  EXPECT_EQ(apb.first_logits, full.first_logits);
  EXPECT_EQ(apb.greedy_ids, full.greedy_ids);
  EXPECT_EQ(apb.document_k, full.document_k);
  EXPECT_EQ(apb.document_v, full.document_v);
}

TEST(reference_model, apb_that_passes_everything_and_has_no_anchor_is_causal_attention) {
  const weights w = random_weights(small, 4, true);
  const ids document = random_ids(41, small.vocabulary, 5);
  const ids query = random_ids(6, small.vocabulary, 6);
  const result full = run(w, document, query, {}, 5);
  for (const std::vector<int>& blocks : {even_split(41, 4), std::vector<int>{3, 20, 1, 17}}) {
    for (compressor chooser : {compressor::retaining_heads, compressor::recent, compressor::random}) {
      const result apb =
          run(w, document, query,
              {.how = strategy::apb, .block_tokens = blocks, .passing_tokens = 41, .chooser = chooser}, 5);
      EXPECT_LT(largest_difference(apb.first_logits, full.first_logits), 1e-4);
      EXPECT_LT(largest_difference(apb.document_k, full.document_k), 1e-4);
      EXPECT_LT(largest_difference(apb.document_v, full.document_v), 1e-4);
      EXPECT_EQ(apb.greedy_ids, full.greedy_ids);
    }
  }
}

TEST(reference_model, a_split_is_felt_from_the_second_layer_on) {
  shape s = small;
  const ids document = random_ids(40, s.vocabulary, 7);
  const ids query = random_ids(5, s.vocabulary, 8);
  const options star = {.how = strategy::star, .block_tokens = even_split(40, 4)};
  const options apb = {.how = strategy::apb,
                       .block_tokens = even_split(40, 4),
                       .anchor_tokens = 9,
                       .passing_tokens = 3,
                       .system_tokens = 2,
                       .chooser = compressor::query_key};
  for (int layers : {1, 2}) {
    s.layers = layers;
    const weights w = random_weights(s, 9, false);
    const result full = run(w, document, query, {}, 1);
    for (const options& o : {star, apb}) {
      const double difference = largest_difference(run(w, document, query, o, 1).first_logits, full.first_logits);
      // The first layer's keys and values do not depend on attention, and the query sees each document token once: with
      // one layer, neither anchors nor passed copies may show.
      if (layers == 1) {
        EXPECT_LT(difference, 1e-5);
      } else {
        EXPECT_GT(difference, 0.05);
      }
    }
  }
}

TEST(reference_model, star_equals_full_where_anchor_and_block_are_all_there_is) {
  const weights w = random_weights(small, 10, false);
  const ids document = random_ids(21, small.vocabulary, 11);
  const ids query = random_ids(3, small.vocabulary, 12);
  const result star = run(w, document, query, {.how = strategy::star, .block_tokens = {13, 8}}, 2);
  EXPECT_LT(largest_difference(star.document_k, run(w, document, query, {}, 0).document_k), 1e-5);
}

TEST(reference_model, a_later_rank_computes_the_anchor_block_in_front_of_its_own) {
  const weights w = random_weights(small, 13, false);
  const ids document = random_ids(30, small.vocabulary, 14);
  const ids query = random_ids(5, small.vocabulary, 15);
  const options o = {.how = strategy::apb, .block_tokens = {11, 19}, .anchor_tokens = 11, .system_tokens = 3};
  const result apb = run(w, document, query, o, 0);

  // The anchor is as long as block 0, so that block 1 follows it without a gap: a document of its own.
  ids alone = {document.begin(), document.begin() + 3};
  alone.insert(alone.end(), query.begin(), query.end());
  alone.insert(alone.end(), document.begin() + 3, document.begin() + 6);
  ASSERT_EQ(anchor_ids(document, query, o), alone);
  alone.insert(alone.end(), document.begin() + 11, document.end());
  const result expected = run(w, alone, query, {}, 0);
  const result full = run(w, document, query, {}, 0);
  for (std::size_t layer = 0; layer < w.layers.size(); ++layer) {
    EXPECT_LT(largest_difference(tokens_of(apb.document_k[layer], 11, 30, small),
                                 tokens_of(expected.document_k[layer], 11, 30, small)),
              1e-5);
    EXPECT_LT(largest_difference(tokens_of(apb.document_v[layer], 11, 30, small),
                                 tokens_of(expected.document_v[layer], 11, 30, small)),
              1e-5);
    EXPECT_EQ(tokens_of(apb.document_k[layer], 0, 11, small), tokens_of(full.document_k[layer], 0, 11, small));
  }
}

TEST(reference_model, rank_0_asks_the_query_without_showing_it_to_its_block) {
  const weights w = random_weights(small, 16, false);
  const ids document = random_ids(40, small.vocabulary, 17);
  const options o = {.how = strategy::apb,
                     .block_tokens = {20, 10, 10},
                     .anchor_tokens = 9,
                     .passing_tokens = 3,
                     .system_tokens = 2,
                     .chooser = compressor::query_key};
  const result one = run(w, document, random_ids(5, small.vocabulary, 18), o, 0);
  const result other = run(w, document, random_ids(5, small.vocabulary, 19), o, 0);
  const result full = run(w, document, random_ids(5, small.vocabulary, 18), {}, 0);
  for (std::size_t layer = 0; layer < w.layers.size(); ++layer) {
    EXPECT_NE(one.scores[layer][0], other.scores[layer][0]);
    EXPECT_EQ(tokens_of(one.document_k[layer], 0, 20, small), tokens_of(full.document_k[layer], 0, 20, small));
    EXPECT_EQ(tokens_of(other.document_k[layer], 0, 20, small), tokens_of(full.document_k[layer], 0, 20, small));
  }
}

TEST(reference_model, continues_as_if_its_own_tokens_had_been_asked) {
  const weights w = random_weights(small, 20, false);
  const ids document = random_ids(24, small.vocabulary, 21);
  ids query = random_ids(4, small.vocabulary, 22);
  const options o = {.how = strategy::star, .block_tokens = even_split(24, 3)};
  const result whole = run(w, document, query, o, 4);
  for (int expected : whole.greedy_ids) {
    EXPECT_EQ(run(w, document, query, o, 1).greedy_ids, std::vector<int>{expected});
    query.push_back(expected);
  }
}

TEST(reference_model, passes_what_it_is_told_to_pass) {
  const weights w = random_weights(small, 23, true);
  const ids document = random_ids(30, small.vocabulary, 24);
  const ids query = random_ids(4, small.vocabulary, 25);
  options o = {.how = strategy::apb,
               .block_tokens = even_split(30, 3),
               .anchor_tokens = 8,
               .passing_tokens = 4,
               .system_tokens = 1};
  const result free = run(w, document, query, o, 2);
  o.forced_selection = free.chosen;
  const result same = run(w, document, query, o, 2);
  EXPECT_EQ(same.first_logits, free.first_logits);
  EXPECT_EQ(same.chosen, free.chosen);
  EXPECT_EQ(same.scores, free.scores);

  (*o.forced_selection)[0][0][1] = {0, 9};
  const result other = run(w, document, query, o, 2);
  EXPECT_EQ(other.chosen[0][0][1], (std::vector<int>{0, 9}));
  EXPECT_GT(largest_difference(other.document_k[1], free.document_k[1]), 0.01);
  EXPECT_EQ(tokens_of(other.document_k[1], 0, 10, small), tokens_of(free.document_k[1], 0, 10, small));
}

// ---- against pencil and paper

TEST(reference_model, star_skips_the_blocks_between_the_first_and_its_own) {
  const weights w = averaging_model(2, corners);
  const ids document = {0, 1, 2, 3, 0, 1};
  const result star = run(w, document, ids{0}, {.how = strategy::star, .block_tokens = {2, 2, 2}}, 0);
  // Token 4 sees 0, 1 and itself: (1, 1) + (3, 1)/3 = (2, 4/3), which the norm brings to (3, 2) / sqrt(13/2).
  EXPECT_NEAR(star.document_v[1][8], 3 / std::sqrt(6.5), 1e-6);
  EXPECT_NEAR(star.document_v[1][9], 2 / std::sqrt(6.5), 1e-6);
  // Token 5 sees 0, 1, 4 and itself: (1, -1) + (4, 0)/4 = (2, -1), which becomes (2, -1) / sqrt(5/2).
  EXPECT_NEAR(star.document_v[1][10], 2 / std::sqrt(2.5), 1e-6);
  EXPECT_NEAR(star.document_v[1][11], -1 / std::sqrt(2.5), 1e-6);
  // Under full attention token 4 sees 0 to 4: (1, 1) + (1, 1)/5, which becomes (1, 1).
  const result full = run(w, document, ids{0}, {}, 0);
  EXPECT_NEAR(full.document_v[1][8], 1, 1e-6);
  EXPECT_NEAR(full.document_v[1][9], 1, 1e-6);
}

TEST(reference_model, apb_sees_the_anchor_what_was_passed_and_its_own_block) {
  const weights w = averaging_model(2, corners);
  const ids document = {0, 1, 2, 3, 0, 1};
  const ids query = {0};
  const result apb = run(w, document, query,
                         {.how = strategy::apb,
                          .block_tokens = {2, 2, 2},
                          .anchor_tokens = 3,
                          .passing_tokens = 1,
                          .system_tokens = 1,
                          .chooser = compressor::recent},
                         0);
  EXPECT_EQ(apb.chosen[1][0][0], std::vector<int>{});  // the anchor's length is not eligible on rank 0
  EXPECT_EQ(apb.chosen[1][1][0], std::vector<int>{3});
  EXPECT_EQ(apb.chosen[1][2][0], std::vector<int>{});
  // Token 2 sees the anchor (tokens 0, query, 1) and itself: (-1, 1) + (2, 2)/4 = (-1/2, 3/2) becomes (-1, 3) /
  // sqrt(5).
  EXPECT_NEAR(apb.document_v[1][4], -1 / std::sqrt(5), 1e-6);
  EXPECT_NEAR(apb.document_v[1][5], 3 / std::sqrt(5), 1e-6);
  // Token 4 sees the anchor, token 3 and itself: (1, 1) + (3, 1)/5 = (8, 6)/5 becomes (4, 3) / sqrt(25/2).
  EXPECT_NEAR(apb.document_v[1][8], 4 / std::sqrt(12.5), 1e-6);
  EXPECT_NEAR(apb.document_v[1][9], 3 / std::sqrt(12.5), 1e-6);
}

TEST(reference_model, the_query_sees_every_document_token_once_and_itself) {
  const weights w = averaging_model(1, corners);
  const options o = {.how = strategy::apb,
                     .block_tokens = {2, 2, 2},
                     .anchor_tokens = 3,
                     .passing_tokens = 1,
                     .system_tokens = 1,
                     .chooser = compressor::recent};
  const result apb = run(w, ids{0, 1, 2, 3, 0, 1}, ids{0}, o, 0);
  // (1, 1) + (3, 1)/7 = (10, 8)/7 becomes (5, 4) / sqrt(41/2).
  EXPECT_NEAR(apb.first_logits[0], 9 / std::sqrt(20.5), 1e-5);
  EXPECT_NEAR(apb.first_logits[1], 1 / std::sqrt(20.5), 1e-5);
}

TEST(reference_model, adds_biases) {
  weights w = averaging_model(2, corners);
  w.layers[0].v.bias = {0.5, -2};
  w.layers[0].o.bias = {0, 3};
  const result r = run(w, ids{0, 1}, ids{0}, {}, 0);
  EXPECT_EQ(r.document_v[0], (std::vector<float>{1.5, -1, 1.5, -3}));
  // The first token sees itself: (1, 1) + (1.5, -1) + (0, 3) = (2.5, 3).
  EXPECT_NEAR(r.document_v[1][0], 2.5 / std::sqrt((6.25 + 9) / 2), 1e-6);
  EXPECT_NEAR(r.document_v[1][1], 3 / std::sqrt((6.25 + 9) / 2), 1e-6);
}

// ---- the compressor

TEST(reference_selection, takes_the_best_and_of_equal_scores_the_first) {
  const std::vector<float> scores = {5, 1, 7, 5, 7, 5};
  EXPECT_EQ(best_tokens(scores, 0, 1), (std::vector<int>{2}));
  EXPECT_EQ(best_tokens(scores, 0, 3), (std::vector<int>{0, 2, 4}));
  EXPECT_EQ(best_tokens(scores, 0, 4), (std::vector<int>{0, 2, 3, 4}));
  EXPECT_EQ(best_tokens(scores, 1, 3), (std::vector<int>{2, 3, 4}));
}

TEST(reference_selection, takes_fewer_where_fewer_are_eligible) {
  const std::vector<float> scores = {9, 8, 7};
  EXPECT_EQ(best_tokens(scores, 2, 5), (std::vector<int>{2}));
  EXPECT_EQ(best_tokens(scores, 3, 5), (std::vector<int>{}));
  EXPECT_EQ(best_tokens(scores, 7, 5), (std::vector<int>{}));
  EXPECT_EQ(best_tokens(scores, 0, 0), (std::vector<int>{}));
}

TEST(reference_selection, pools_over_two_neighbours_on_each_side) {
  EXPECT_EQ(max_pooled(std::vector<float>{-1, -9, -9, -9, -2, -9, -9}),
            (std::vector<float>{-1, -1, -1, -2, -2, -2, -2}));
  EXPECT_EQ(max_pooled(std::vector<float>{-3, -4}), (std::vector<float>{-3, -3}));
}

TEST(reference_selection, random_scores_are_a_hash_of_seed_layer_head_and_index) {
  EXPECT_EQ(random_score(0, 0, 0, 0), 10946269.0f);
  EXPECT_EQ(random_score(7, 3, 1, 12345), 269466.0f);
}

TEST(reference_model, retaining_heads_pass_the_neighbours_of_a_peak_too) {
  const weights w = scoring_model({0.1f, 1.2f, -0.5f});
  // Rank 1's block is tokens 4 to 13 with its peak at 9: pooling makes 7 to 11 equal, and the first of them win.
  const ids document = {0, 0, 0, 0, 0, 2, 2, 0, 0, 1, 2, 0, 0, 0, 0, 0};
  const result r = run(w, document, ids{0}, {.how = strategy::apb, .block_tokens = {4, 10, 2}, .passing_tokens = 3}, 0);
  EXPECT_EQ(r.chosen[0][1][0], (std::vector<int>{7, 8, 9}));
  EXPECT_NEAR(r.scores[0][1][0][3], 1.8 / (1 + std::exp(-1.8)), 1e-6);
  EXPECT_NEAR(r.scores[0][1][0][0], 0.15 / (1 + std::exp(-0.15)), 1e-6);
  EXPECT_EQ(r.chosen[0][0][0], (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(r.chosen[0][2][0], (std::vector<int>{}));
}

TEST(reference_model, rank_0_never_passes_the_length_of_the_anchor_but_pools_over_it) {
  const weights w = scoring_model({0.1f, 1.2f});
  const ids document = {0, 0, 0, 1, 0, 0, 0, 0, 0, 0};
  const result r = run(
      w, document, ids{0},
      {.how = strategy::apb, .block_tokens = {8, 2}, .anchor_tokens = 5, .passing_tokens = 2, .system_tokens = 1}, 0);
  // The peak at 3 is not eligible, but its neighbour 5 carries its score; 6 is the first of the others.
  EXPECT_EQ(r.chosen[0][0][0], (std::vector<int>{5, 6}));
}

TEST(reference_model, query_key_scores_by_the_mean_over_the_query) {
  // 0: filler, 1 and 2: the query, whose mean points up; 3: the opening, which would turn the mean round if it were
  // counted.
  const weights w = scoring_model({0.2f, 1.4f, -0.4f, -1.4f});
  const ids document = {3, 3, 3, 0, 0, 0, 0, 3, 0, 0, 0, 0, 1, 0, 0, 0};
  const result r = run(w, document, ids{1, 2},
                       {.how = strategy::apb,
                        .block_tokens = {2, 12, 2},
                        .anchor_tokens = 6,
                        .passing_tokens = 4,
                        .system_tokens = 3,
                        .chooser = compressor::query_key},
                       0);
  EXPECT_EQ(r.chosen[0][1][0], (std::vector<int>{10, 11, 12, 13}));
  EXPECT_NEAR(r.scores[0][1][0][10], 2 * 0.5 * 1.4, 1e-6);
  EXPECT_NEAR(r.scores[0][1][0][0], 2 * 0.5 * 0.2, 1e-6);
  EXPECT_EQ(r.chosen[0][0][0], (std::vector<int>{}));
}

TEST(reference_model, recent_passes_the_last_tokens_of_each_block) {
  const weights w = random_weights(small, 26, false);
  const result r = run(w, random_ids(20, small.vocabulary, 27), random_ids(2, small.vocabulary, 28),
                       {.how = strategy::apb,
                        .block_tokens = {8, 6, 6},
                        .anchor_tokens = 6,
                        .passing_tokens = 3,
                        .system_tokens = 1,
                        .chooser = compressor::recent},
                       0);
  for (const auto& layer : r.chosen) {
    for (std::size_t g = 0; g < 2; ++g) {
      EXPECT_EQ(layer[0][g], (std::vector<int>{6, 7}));
      EXPECT_EQ(layer[1][g], (std::vector<int>{11, 12, 13}));
      EXPECT_EQ(layer[2][g], (std::vector<int>{}));
    }
  }
}

TEST(reference_model, random_chooses_by_seed_layer_head_and_document_index) {
  const weights w = random_weights(small, 29, false);
  const ids document = random_ids(40, small.vocabulary, 30);
  options o = {.how = strategy::apb,
               .block_tokens = {15, 18, 7},
               .passing_tokens = 5,
               .chooser = compressor::random,
               .seed = 31};
  const result r = run(w, document, ids{1}, o, 0);
  for (int layer = 0; layer < small.layers; ++layer) {
    const auto& chosen = r.chosen[static_cast<std::size_t>(layer)];
    for (int g = 0; g < small.kv_heads; ++g) {
      std::vector<float> scores;
      for (int i = 0; i < 33; ++i) scores.push_back(random_score(31, layer, g, i));
      EXPECT_EQ(chosen[1][static_cast<std::size_t>(g)], best_tokens(scores, 15, 5));
      scores.resize(15);
      EXPECT_EQ(chosen[0][static_cast<std::size_t>(g)], best_tokens(scores, 0, 5));
    }
  }
  EXPECT_NE(r.chosen[0][0][0], r.chosen[0][0][1]);
  EXPECT_NE(r.chosen[0][0][0], r.chosen[1][0][0]);
  o.seed = 32;
  EXPECT_NE(run(w, document, ids{1}, o, 0).chosen, r.chosen);
}

// ---- what it refuses

TEST(reference_model, refuses_what_the_design_forbids) {
  const weights w = random_weights(small, 33, false);
  const ids document = random_ids(20, small.vocabulary, 34);
  const ids query = random_ids(4, small.vocabulary, 35);
  const options good = {.how = strategy::apb,
                        .block_tokens = {10, 10},
                        .anchor_tokens = 7,
                        .passing_tokens = 2,
                        .system_tokens = 2,
                        .chooser = compressor::query_key};
  const auto refused = [&](auto change, const ids& d, const ids& q) {
    options o = good;
    change(o);
    EXPECT_THROW(run(w, d, q, o, 0), std::invalid_argument);
  };
  EXPECT_NO_THROW(run(w, document, query, good, 0));
  refused([](options& o) { o.anchor_tokens = 6; }, document, query);   // the query does not fit
  refused([](options& o) { o.anchor_tokens = 25; }, document, query);  // the document is too short for it
  refused([](options& o) { o.anchor_tokens = 0; }, document, query);   // no query for query_key
  refused([](options& o) { o.query_in_anchor = false; }, document, query);
  refused([](options& o) { o.chooser = compressor::retaining_heads; }, document, query);  // the model has none
  refused([](options& o) { o.block_tokens = {10, 9}; }, document, query);
  refused([](options& o) { o.block_tokens = {20, 0}; }, document, query);
  refused([](options& o) { o.forced_selection = selection(1); }, document, query);
  refused([](options&) {}, document, {});
  refused([](options& o) { o.block_tokens = {}; }, {}, query);
  refused([](options&) {}, document, {small.vocabulary});
}

TEST(reference_model, splits_evenly_with_longer_blocks_first) {
  EXPECT_EQ(even_split(11, 4), (std::vector<int>{3, 3, 3, 2}));
  EXPECT_EQ(even_split(8, 2), (std::vector<int>{4, 4}));
}

// ---- weights and files

TEST(reference_weights, rounds_to_the_nearest_bf16_and_ties_to_even) {
  EXPECT_EQ(to_bf16(1.0f), 1.0f);
  EXPECT_EQ(to_bf16(1.0f + 1.0f / 256), 1.0f);
  EXPECT_EQ(to_bf16(1.0f + 3.0f / 256), 1.0f + 4.0f / 256);
  EXPECT_EQ(to_bf16(1.0f + 1.1f / 256), 1.0f + 2.0f / 256);
  EXPECT_EQ(to_bf16(-3.14159265f), -3.140625f);
}

TEST(reference_weights, reads_the_checkpoint_that_it_wrote) {
  const temporary_directory folder;
  shape s = small;
  s.scaling = rope_scaling{.type = "llama3",
                           .factor = 4,
                           .low_freq_factor = 1.5,
                           .high_freq_factor = 3,
                           .original_max_position_embeddings = 16};
  s.attention_bias = true;
  const ids document = random_ids(30, s.vocabulary, 36);
  const ids query = random_ids(3, s.vocabulary, 37);
  const options o = {
      .how = strategy::apb, .block_tokens = {11, 9, 10}, .anchor_tokens = 8, .passing_tokens = 2, .system_tokens = 1};
  for (bool tied : {false, true}) {
    s.tied = tied;
    const weights w = random_weights(s, 38, true);
    write_checkpoint(w, folder.path());
    const result before = run(w, document, query, o, 3);
    const result after = run(load_weights(folder.path()), document, query, o, 3);
    EXPECT_EQ(after.first_logits, before.first_logits);
    EXPECT_EQ(after.chosen, before.chosen);
  }
}

}  // namespace
}  // namespace baton::reference
