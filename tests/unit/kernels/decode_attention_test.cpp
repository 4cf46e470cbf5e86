#include "kernels/cpu/decode_attention.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "tests/support/kernel_buffer.hpp"
#include "tests/support/kernel_reference.hpp"
#include "tests/support/kernel_test.hpp"

namespace baton {
namespace {

BATON_KERNEL_SUITE(decode_attention);

constexpr double infinity = std::numeric_limits<double>::infinity();

struct sizes {
  std::int64_t queries;
  int heads;
  int kv_heads;
  int dim;
  std::int64_t keys;
};

struct attended {
  kernel_buffer out;
  kernel_buffer log_sum_exp;
};

/// Inputs of one attention; the keys behind `s.keys` are NaN, so that reading one shows.
struct inputs {
  inputs(element_type type, const sizes& s, double deviation = 1)
      : size(s),
        q(type, s.queries, std::int64_t{s.heads} * s.dim, 5),
        keys(type, s.keys + 3, std::int64_t{s.kv_heads} * s.dim, 3),
        values(type, s.keys + 3, std::int64_t{s.kv_heads} * s.dim, 2) {
    q.fill_random(1, deviation);
    keys.fill_random(2, deviation);
    values.fill_random(3);
    for (std::int64_t row = s.keys; row < s.keys + 3; ++row) {
      for (std::int64_t column = 0; column < std::int64_t{s.kv_heads} * s.dim; ++column) {
        keys.set(row, column, std::nan(""));
        values.set(row, column, std::nan(""));
      }
    }
  }

  attended attend(cpu::thread_pool& pool, const attention_mask& mask, float scale, std::int64_t first_key = 0) {
    attended result{{element_type::f32, size.queries, std::int64_t{size.heads} * size.dim, 1},
                    {element_type::f32, size.queries, size.heads, 4}};
    // Exactly as much as promised, and full of NaN.
    const std::size_t bytes = cpu::decode_attention_workspace_bytes(mask.keys, size.heads, size.dim);
    std::vector<std::byte> workspace(bytes, std::byte{0xff});
    const head_matrix all_keys = keys.heads(size.kv_heads);
    const head_matrix all_values = values.heads(size.kv_heads);
    cpu::attend_few(pool, q.heads(size.heads), all_keys.slice(first_key, all_keys.tokens - first_key),
                    all_values.slice(first_key, all_values.tokens - first_key), mask, scale,
                    result.out.heads(size.heads), result.log_sum_exp.view(), workspace.data());
    EXPECT_TRUE(result.out.gaps_untouched());
    EXPECT_TRUE(result.log_sum_exp.gaps_untouched());
    return result;
  }

  /// What `attend` should give for one query and head.
  [[nodiscard]] reference::attention_result_of_one exact(const attention_mask& mask, float scale, std::int64_t query,
                                                         int head) const {
    const int kv_head = head / (size.heads / size.kv_heads);
    const std::int64_t seen = mask.causal ? std::min(mask.keys, mask.first_query + query + 1) : mask.keys;
    std::vector<reference::row> seen_keys;
    std::vector<reference::row> seen_values;
    for (std::int64_t key = 0; key < seen; ++key) {
      seen_keys.push_back(keys.part(key, std::int64_t{kv_head} * size.dim, size.dim));
      seen_values.push_back(values.part(key, std::int64_t{kv_head} * size.dim, size.dim));
    }
    return reference::attention_of(q.part(query, std::int64_t{head} * size.dim, size.dim), seen_keys, seen_values,
                                   static_cast<double>(scale));
  }

  sizes size;
  kernel_buffer q;
  kernel_buffer keys;
  kernel_buffer values;
};

void expect_exact(const inputs& in, const attention_mask& mask, float scale, const attended& got) {
  for (std::int64_t query = 0; query < in.size.queries; ++query) {
    for (int head = 0; head < in.size.heads; ++head) {
      const auto exact = in.exact(mask, scale, query, head);
      ASSERT_NO_FATAL_FAILURE(expect_close(got.out, query, std::int64_t{head} * in.size.dim, exact.out, 5e-6));
      if (exact.log_sum_exp == -infinity) {
        ASSERT_EQ(got.log_sum_exp.at(query, head), -infinity);
      } else {
        ASSERT_NEAR(got.log_sum_exp.at(query, head), exact.log_sum_exp, 5e-6 * (1 + std::abs(exact.log_sum_exp)));
      }
    }
  }
}

TEST_P(decode_attention, equals_softmax_over_all_keys) {
  for (const sizes& s :
       {sizes{1, 4, 2, 64, 1000}, sizes{1, 1, 1, 1, 5}, sizes{1, 3, 1, 20, 63}, sizes{2, 5, 5, 32, 64},
        sizes{3, 2, 1, 72, 65}, sizes{1, 8, 1, 128, 1023}, sizes{1, 2, 1, 33, 1024}, sizes{1, 3, 3, 16, 1025},
        sizes{2, 6, 2, 8, 2500}, sizes{17, 2, 2, 8, 70}, sizes{33, 3, 1, 4, 1}, sizes{1, 7, 1, 48, 300},
        sizes{2, 10, 2, 100, 130}, sizes{1, 6, 3, 96, 67}}) {
    SCOPED_TRACE(::testing::Message() << s.queries << " queries, " << s.keys << " keys, dim " << s.dim);
    inputs in(type(), s);
    const attention_mask mask{false, s.keys, 0};
    const float scale = 1 / std::sqrt(static_cast<float>(s.dim));
    expect_exact(in, mask, scale, in.attend(pool, mask, scale));
  }
}

TEST_P(decode_attention, sees_causally_the_keys_up_to_each_querys_own) {
  for (const sizes& s :
       {sizes{5, 4, 2, 12, 5}, sizes{7, 3, 1, 32, 1030}, sizes{35, 2, 1, 8, 40}, sizes{1, 2, 2, 64, 1}}) {
    inputs in(type(), s);
    for (const std::int64_t first_query : {s.keys - s.queries, std::int64_t{0}, s.keys}) {
      SCOPED_TRACE(::testing::Message() << s.queries << " queries from " << first_query << " on, " << s.keys
                                        << " keys");
      const attention_mask mask{true, s.keys, first_query};
      expect_exact(in, mask, 0.3f, in.attend(pool, mask, 0.3f));
    }
  }
}

TEST_P(decode_attention, gives_zero_and_minus_infinity_to_a_query_without_keys) {
  inputs in(type(), {3, 4, 2, 24, 2});
  const attention_mask mask{true, 2, -2};  // the first query sees none, nor does the second
  const attended got = in.attend(pool, mask, 0.2f);
  EXPECT_EQ(got.out.row(0), std::vector<double>(96, 0.0));
  EXPECT_EQ(got.log_sum_exp.row(1), std::vector<double>(4, -infinity));
  expect_exact(in, mask, 0.2f, got);

  const attended none = in.attend(pool, {false, 0, 0}, 0.2f);
  EXPECT_EQ(none.out.row(2), std::vector<double>(96, 0.0));
  EXPECT_EQ(none.log_sum_exp.row(2), std::vector<double>(4, -infinity));
}

TEST_P(decode_attention, does_not_overflow_with_huge_scores) {
  const sizes s{2, 4, 2, 64, 1500};
  inputs in(type(), s, 30);
  const attention_mask mask{false, s.keys, 0};
  const attended got = in.attend(pool, mask, 1.0f);
  for (std::int64_t query = 0; query < s.queries; ++query) {
    for (int head = 0; head < s.heads; ++head) {
      const auto exact = in.exact(mask, 1.0f, query, head);
      EXPECT_NEAR(got.log_sum_exp.at(query, head), exact.log_sum_exp, 1e-6 * std::abs(exact.log_sum_exp));
      // One key outweighs the others by far; fp32 scores of some 1e5 leave its weight two digits.
      expect_close(got.out, query, std::int64_t{head} * s.dim, exact.out, 0.05);
    }
  }
}

TEST_P(decode_attention, does_nothing_for_no_queries) {
  const head_matrix none{nullptr, type(), 0, 2, 8, 16};
  const head_matrix none_out{nullptr, element_type::f32, 0, 2, 8, 16};
  const matrix none_lse{nullptr, element_type::f32, 0, 2, 2};
  EXPECT_NO_THROW(cpu::attend_few(pool, none, none, none, {}, 1.0f, none_out, none_lse, nullptr));
  EXPECT_NO_THROW(cpu::merge_attention(pool, {}, {}, none));
}

TEST_P(decode_attention, refuses_shapes_that_do_not_fit) {
  inputs in(type(), {1, 4, 2, 8, 4});
  EXPECT_THROW(in.attend(pool, {false, 8, 0}, 1.0f), fault) << "more keys than there are";
  in.size.kv_heads = 16;
  EXPECT_THROW(in.attend(pool, {false, 4, 0}, 1.0f), fault) << "more KV heads than heads";
}

TEST_P(decode_attention, merges_parts_to_the_attention_over_all_of_them) {
  const sizes s{3, 4, 2, 40, 900};
  inputs in(type(), s);
  std::vector<attended> partial;
  std::int64_t first = 0;
  for (const std::int64_t count : {0, 1, 400, 0, 499}) {
    partial.push_back(in.attend(pool, {false, count, 0}, 0.5f, first));
    first += count;
  }
  std::vector<head_matrix> parts;
  std::vector<matrix> lse;
  for (attended& part : partial) {
    parts.push_back(part.out.heads(s.heads));
    lse.push_back(part.log_sum_exp.view());
  }
  kernel_buffer out(type(), s.queries, std::int64_t{s.heads} * s.dim, 3);
  cpu::merge_attention(pool, parts, lse, out.heads(s.heads));
  for (std::int64_t query = 0; query < s.queries; ++query) {
    for (int head = 0; head < s.heads; ++head) {
      const auto exact = in.exact({false, s.keys, 0}, 0.5f, query, head);
      expect_close(out, query, std::int64_t{head} * s.dim, exact.out, 5e-6);
    }
  }
  EXPECT_TRUE(out.gaps_untouched());
}

TEST_P(decode_attention, merges_without_reading_parts_that_saw_no_keys) {
  kernel_buffer empty(element_type::f32, 1, 2 * 9);
  empty.fill(std::nan(""));
  kernel_buffer empty_lse(element_type::f32, 1, 2);
  empty_lse.fill(-infinity);
  kernel_buffer full(element_type::f32, 1, 2 * 9);
  full.fill_random(1);
  kernel_buffer full_lse(element_type::f32, 1, 2);
  full_lse.fill(-200);
  kernel_buffer out(element_type::f32, 1, 2 * 9);

  const std::vector<head_matrix> some{empty.heads(2), full.heads(2), empty.heads(2)};
  const std::vector<matrix> some_lse{empty_lse.view(), full_lse.view(), empty_lse.view()};
  cpu::merge_attention(pool, some, some_lse, out.heads(2));
  EXPECT_EQ(out.row(0), full.row(0)) << "a single part with keys stays as it is";

  const std::vector<head_matrix> none{empty.heads(2), empty.heads(2)};
  const std::vector<matrix> none_lse{empty_lse.view(), empty_lse.view()};
  cpu::merge_attention(pool, none, none_lse, out.heads(2));
  EXPECT_EQ(out.row(0), std::vector<double>(18, 0.0));
}

TEST_P(decode_attention, gives_the_same_bits_with_any_number_of_threads) {
  const sizes s{17, 6, 2, 24, 3100};
  inputs in(type(), s);
  expect_same_bits_with_any_threads([&](cpu::thread_pool& threads) {
    attended part = in.attend(threads, {true, s.keys, s.keys - 30}, 0.2f);
    attended other = in.attend(threads, {false, 2000, 0}, 0.2f);
    const std::vector<head_matrix> parts{part.out.heads(s.heads), other.out.heads(s.heads)};
    const std::vector<matrix> lse{part.log_sum_exp.view(), other.log_sum_exp.view()};
    kernel_buffer out(type(), s.queries, std::int64_t{s.heads} * s.dim);
    cpu::merge_attention(threads, parts, lse, out.heads(s.heads));
    auto bytes = out.bytes();
    for (const kernel_buffer* buffer : {&part.out, &part.log_sum_exp, &other.out, &other.log_sum_exp}) {
      bytes.insert(bytes.end(), buffer->bytes().begin(), buffer->bytes().end());
    }
    return bytes;
  });
}

}  // namespace
}  // namespace baton
