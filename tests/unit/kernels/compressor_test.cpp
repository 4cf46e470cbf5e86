#include "kernels/cpu/compressor.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "kernels/fault.hpp"
#include "tests/support/kernel_buffer.hpp"
#include "tests/support/kernel_reference.hpp"
#include "tests/support/kernel_test.hpp"
#include "tests/support/reference_selection.hpp"

namespace baton {
namespace {

BATON_KERNEL_SUITE(compressor);

constexpr float infinity = std::numeric_limits<float>::infinity();
const float nan = std::nanf("");

/// Scores (T, n_kv) with a column per KV head.
kernel_buffer scores_of(const std::vector<std::vector<float>>& heads, std::int64_t gap = 0) {
  kernel_buffer scores(element_type::f32, static_cast<std::int64_t>(heads.front().size()),
                       static_cast<std::int64_t>(heads.size()), gap);
  for (std::size_t head = 0; head < heads.size(); ++head) {
    for (std::size_t token = 0; token < heads[head].size(); ++token) {
      scores.set(static_cast<std::int64_t>(token), static_cast<std::int64_t>(head),
                 static_cast<double>(heads[head][token]));
    }
  }
  return scores;
}

/// The chosen tokens per KV head.
std::vector<std::vector<int>> selected(kernel_buffer& scores, std::int64_t eligible_from, std::int64_t count,
                                       int threads = 1) {
  cpu::thread_pool pool(threads);
  const matrix view = scores.view();
  std::vector<std::int32_t> indices(static_cast<std::size_t>(view.columns * count));
  std::vector<std::byte> workspace(cpu::select_workspace_bytes(view.rows, static_cast<int>(view.columns)));
  cpu::select_top(pool, view, eligible_from, count, indices.data(), workspace.data());
  std::vector<std::vector<int>> heads;
  for (std::int64_t head = 0; head < view.columns; ++head) {
    heads.emplace_back(indices.begin() + head * count, indices.begin() + (head + 1) * count);
  }
  return heads;
}

TEST_P(compressor, averages_queries_over_tokens_and_group) {
  for (const int dim : {1, 8, 20, 64, 130}) {
    for (const int kv_heads : {1, 2, 6}) {
      const int heads = 6;
      kernel_buffer q(type(), 37, std::int64_t{heads} * dim, 3);
      q.fill_random(1);
      kernel_buffer out(element_type::f32, kv_heads, dim, 2);
      cpu::mean_query(pool, q.heads(heads), out.view());
      const int group = heads / kv_heads;
      for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
        std::vector<double> exact(static_cast<std::size_t>(dim));
        for (std::int64_t token = 0; token < 37; ++token) {
          for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            const auto numbers = q.part(token, std::int64_t{head} * dim, dim);
            for (std::size_t i = 0; i < numbers.size(); ++i) exact[i] += numbers[i] / (37 * group);
          }
        }
        expect_close(out, kv_head, 0, exact);
      }
      EXPECT_TRUE(out.gaps_untouched());
    }
  }
}

TEST_P(compressor, takes_zero_for_the_mean_of_no_queries) {
  kernel_buffer out(element_type::f32, 2, 12);
  out.fill(7);
  cpu::mean_query(pool, head_matrix{nullptr, type(), 0, 4, 12, 48}, out.view());
  EXPECT_EQ(out.row(1), std::vector<double>(12, 0.0));
}

TEST_P(compressor, scores_keys_by_their_product_with_the_mean_query) {
  for (const int dim : {1, 8, 20, 64, 130}) {
    kernel_buffer keys(type(), 9, 3 * std::int64_t{dim}, 5);
    keys.fill_random(2);
    kernel_buffer mean(element_type::f32, 3, dim, 1);
    mean.fill_random(3, 0.2);
    kernel_buffer scores(element_type::f32, 9, 3, 2);
    cpu::score_keys(pool, keys.heads(3), mean.view(), scores.view());
    for (std::int64_t token = 0; token < 9; ++token) {
      for (std::int64_t head = 0; head < 3; ++head) {
        expect_close(scores, token, head, {reference::dot(keys.part(token, head * dim, dim), mean.row(head))});
      }
    }
    EXPECT_TRUE(scores.gaps_untouched());
  }
}

TEST_P(compressor, gathers_each_heads_own_tokens) {
  for (const int dim : {1, 7, 64}) {
    kernel_buffer x(type(), 10, 3 * std::int64_t{dim}, 4);
    x.fill_random(4);
    const std::vector<std::int32_t> indices{0, 3, 5, 9, 1, 2, 3, 4, 6, 7, 8, 9};
    kernel_buffer out(type(), 4, 3 * std::int64_t{dim}, 1);
    cpu::gather(pool, x.heads(3), indices.data(), out.heads(3));
    for (std::int64_t unit = 0; unit < 4; ++unit) {
      for (std::int64_t head = 0; head < 3; ++head) {
        EXPECT_EQ(out.part(unit, head * dim, dim),
                  x.part(indices[static_cast<std::size_t>(head * 4 + unit)], head * dim, dim));
      }
    }
    EXPECT_TRUE(out.gaps_untouched());
  }
}

TEST_P(compressor, refuses_to_gather_outside_x) {
  kernel_buffer x(type(), 3, 8);
  x.fill_random(1);
  kernel_buffer out(type(), 1, 8);
  for (const std::int32_t index : {-1, 3}) {
    EXPECT_THROW(cpu::gather(pool, x.heads(1), &index, out.heads(1)), fault);
  }
}

TEST_P(compressor, does_nothing_for_no_tokens) {
  const head_matrix none{nullptr, type(), 0, 2, 8, 16};
  const matrix no_scores{nullptr, element_type::f32, 0, 2, 2};
  kernel_buffer mean(element_type::f32, 2, 8);
  mean.fill(0);
  EXPECT_NO_THROW(cpu::score_keys(pool, none, mean.view(), no_scores));
  EXPECT_NO_THROW(cpu::score_recent(pool, no_scores));
  EXPECT_NO_THROW(cpu::score_random(pool, 1, 0, 0, no_scores));
  EXPECT_NO_THROW(cpu::max_pool(pool, no_scores, no_scores));
  EXPECT_NO_THROW(cpu::select_top(pool, no_scores, 0, 0, nullptr, nullptr));
  EXPECT_NO_THROW(cpu::gather(pool, none, nullptr, none));
}

TEST_P(compressor, gives_the_same_bits_with_any_number_of_threads) {
  const std::int64_t tokens = 5001;
  kernel_buffer keys(type(), tokens, 3 * 40);
  keys.fill_random(5);
  kernel_buffer q(type(), 701, 6 * 40);
  q.fill_random(6);
  expect_same_bits_with_any_threads([&](cpu::thread_pool& threads) {
    kernel_buffer mean(element_type::f32, 3, 40);
    kernel_buffer scores(element_type::f32, tokens, 3);
    kernel_buffer pooled(element_type::f32, tokens, 3);
    cpu::mean_query(threads, q.heads(6), mean.view());
    cpu::score_keys(threads, keys.heads(3), mean.view(), scores.view());
    cpu::max_pool(threads, scores.view(), pooled.view());
    std::vector<std::int32_t> indices(3 * 2000);
    std::vector<std::byte> workspace(cpu::select_workspace_bytes(tokens, 3));
    cpu::select_top(threads, pooled.view(), 100, 2000, indices.data(), workspace.data());
    kernel_buffer out(type(), 2000, 3 * 40);
    cpu::gather(threads, keys.heads(3), indices.data(), out.heads(3));
    auto bytes = out.bytes();
    bytes.insert(bytes.end(), pooled.bytes().begin(), pooled.bytes().end());
    return bytes;
  });
}

TEST(compressor_scores, prefer_later_tokens_when_recent) {
  cpu::thread_pool pool(1);
  kernel_buffer scores(element_type::f32, 70, 3, 2);
  cpu::score_recent(pool, scores.view());
  for (std::int64_t token = 0; token < 70; ++token) {
    EXPECT_EQ(scores.row(token), std::vector<double>(3, static_cast<double>(token)));
  }
  EXPECT_TRUE(scores.gaps_untouched());
}

TEST(compressor_scores, depend_on_seed_layer_head_and_document_index_when_random) {
  cpu::thread_pool pool(2);
  kernel_buffer scores(element_type::f32, 40'000, 2, 1);
  cpu::score_random(pool, 17, 5, 1000, scores.view());
  for (std::int64_t token = 0; token < 40'000; token += 7) {
    for (int head = 0; head < 2; ++head) {
      ASSERT_EQ(scores.at(token, head),
                static_cast<double>(reference::random_score(17, 5, head, static_cast<int>(1000 + token))));
    }
  }
  EXPECT_TRUE(scores.gaps_untouched());
}

TEST(compressor_scores, are_pooled_over_five_tokens_inside_the_block) {
  cpu::thread_pool pool(1);
  for (std::int64_t tokens = 1; tokens < 12; ++tokens) {
    kernel_buffer scores(element_type::f32, tokens, 3, 2);
    scores.fill_random(static_cast<unsigned>(tokens));
    kernel_buffer out(element_type::f32, tokens, 3, 1);
    cpu::max_pool(pool, scores.view(), out.view());
    for (std::int64_t head = 0; head < 3; ++head) {
      std::vector<float> column;
      for (std::int64_t token = 0; token < tokens; ++token)
        column.push_back(static_cast<float>(scores.at(token, head)));
      const std::vector<float> exact = reference::max_pooled(column);
      for (std::int64_t token = 0; token < tokens; ++token) {
        EXPECT_EQ(out.at(token, head), static_cast<double>(exact[static_cast<std::size_t>(token)]));
      }
    }
    EXPECT_TRUE(out.gaps_untouched());
  }
}

TEST(compressor_scores, are_pooled_as_if_a_nan_were_minus_infinity) {
  cpu::thread_pool pool(1);
  kernel_buffer scores = scores_of({{nan, nan, nan, 1, nan, nan, nan, 2, -infinity, 3}});
  kernel_buffer out(element_type::f32, 10, 1);
  cpu::max_pool(pool, scores.view(), out.view());
  const std::vector<double> exact{-HUGE_VAL, 1, 1, 1, 1, 2, 2, 3, 3, 3};
  for (std::int64_t token = 0; token < 10; ++token) EXPECT_EQ(out.at(token, 0), exact[static_cast<std::size_t>(token)]);
}

RC_GTEST_PROP(compressor_selection, takes_the_best_and_of_equal_scores_the_lower_index, ()) {
  // Few different scores make many ties.
  const auto tokens = *rc::gen::inRange<std::size_t>(1, 400);
  const auto kinds = *rc::gen::inRange(1, 40);
  std::vector<std::vector<float>> heads;
  for (int head = 0; head < 3; ++head) {
    const auto kind = rc::gen::map(rc::gen::inRange(0, kinds), [](int value) {
      return value == 0 ? -infinity : static_cast<float>(value - 7) * 0.25f;
    });
    heads.push_back(*rc::gen::container<std::vector<float>>(tokens, kind));
  }
  const auto eligible_from = *rc::gen::inRange<std::size_t>(0, tokens + 1);
  const auto count = *rc::gen::inRange<std::size_t>(0, tokens - eligible_from + 1);
  kernel_buffer scores = scores_of(heads, *rc::gen::inRange(0, 3));
  const auto chosen = selected(scores, static_cast<std::int64_t>(eligible_from), static_cast<std::int64_t>(count), 2);
  for (std::size_t head = 0; head < heads.size(); ++head) {
    RC_ASSERT(chosen[head] ==
              reference::best_tokens(heads[head], static_cast<int>(eligible_from), static_cast<int>(count)));
  }
}

TEST(compressor_selection, holds_zero_and_minus_zero_for_equal) {
  kernel_buffer scores = scores_of({{-0.0f, 0.0f, -0.0f, 0.0f, -1.0f}});
  EXPECT_EQ(selected(scores, 0, 2).front(), (std::vector<int>{0, 1}));
}

TEST(compressor_selection, takes_a_nan_last) {
  kernel_buffer scores = scores_of({{nan, 1, -nan, -infinity, nan, 2}});
  EXPECT_EQ(selected(scores, 0, 3).front(), (std::vector<int>{1, 3, 5}));
  EXPECT_EQ(selected(scores, 0, 4).front(), (std::vector<int>{0, 1, 3, 5}));
}

TEST(compressor_selection, refuses_more_than_is_eligible) {
  kernel_buffer scores = scores_of({{1, 2, 3, 4}});
  EXPECT_THROW(selected(scores, 2, 3), fault);
  EXPECT_THROW(selected(scores, -1, 2), fault);
}

}  // namespace
}  // namespace baton
