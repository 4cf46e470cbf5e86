#include "kernels/cpu/block_attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/isa.hpp"
#include "kernels/fault.hpp"
#include "tests/support/kernel_buffer.hpp"
#include "tests/support/kernel_reference.hpp"
#include "tests/support/kernel_test.hpp"

namespace baton {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct sizes {
  std::int64_t queries;
  int heads;
  int kv_heads;
  int dim;
  std::int64_t keys;
};

struct attended {
  attended(element_type type, const sizes& s)
      : out(type, s.queries, std::int64_t{s.heads} * s.dim, 8), log_sum_exp(element_type::f32, s.queries, s.heads, 3) {}

  bool operator==(const attended& other) const {
    return out.bytes() == other.out.bytes() && log_sum_exp.bytes() == other.log_sum_exp.bytes();
  }

  kernel_buffer out;
  kernel_buffer log_sum_exp;
};

struct panel_buffer {
  panel_buffer(cpu::block_attention& kernel, std::int64_t tokens_max, int kv_heads, int dim)
      : memory(std::make_unique<cpu::host_memory>(kernel.panel_bytes(tokens_max, kv_heads, dim))),
        view{memory->data(), tokens_max, kv_heads, dim} {
    // A panel is what was there before: here, all bits set, which makes NaN.
    std::fill_n(memory->data(), memory->bytes(), std::byte{0xff});
  }
  std::unique_ptr<cpu::host_memory> memory;
  kv_panel view;
};

/// Queries, keys and values of random numbers; the queries stand in wider rows, as in a fused projection.
struct inputs {
  inputs(element_type type, const sizes& s, double deviation = 1)
      : size(s),
        fused(type, s.queries, std::int64_t{s.heads + 2} * s.dim, 4),
        keys(type, s.keys, std::int64_t{s.kv_heads} * s.dim, 3),
        values(type, s.keys, std::int64_t{s.kv_heads} * s.dim) {
    fused.fill_random(1, deviation);
    keys.fill_random(2, deviation);
    values.fill_random(3);
  }
  [[nodiscard]] head_matrix queries() { return as_heads(fused.view(), size.dim, size.heads, size.dim); }
  [[nodiscard]] reference::row query(std::int64_t index, int head) const {
    return fused.part(index, std::int64_t{head + 1} * size.dim, size.dim);
  }
  /// The numbers of one KV head, key by key.
  [[nodiscard]] std::vector<reference::row> rows_of(const kernel_buffer& numbers, int kv_head) const {
    std::vector<reference::row> rows;
    for (std::int64_t key = 0; key < size.keys; ++key) {
      rows.push_back(numbers.part(key, std::int64_t{kv_head} * size.dim, size.dim));
    }
    return rows;
  }

  sizes size;
  kernel_buffer fused;
  kernel_buffer keys;
  kernel_buffer values;
};

std::string name_of_precision(const ::testing::TestParamInfo<element_type>& tested) {
  return tested.param == element_type::f32 ? "f32" : "bf16";
}

/// Runs for both types of activations.
class block_attention : public ::testing::TestWithParam<element_type> {
 protected:
  static element_type type() { return GetParam(); }

  /// Keys [first, end) in a panel of their own.
  panel_buffer pack(cpu::block_attention& with, inputs& in, std::int64_t first, std::int64_t end) const {
    panel_buffer panel(with, end - first, in.size.kv_heads, in.size.dim);
    with.pack(in.keys.heads(in.size.kv_heads).slice(first, end - first),
              in.values.heads(in.size.kv_heads).slice(first, end - first), panel.view, 0);
    return panel;
  }

  attended attend(cpu::block_attention& with, inputs& in, const attention_mask& mask) const {
    const panel_buffer panel = pack(with, in, 0, in.size.keys);
    attended result(type(), in.size);
    with.attend(in.queries(), panel.view, mask, scale, result.out.heads(in.size.heads), result.log_sum_exp.view(),
                attention_result::replace);
    return result;
  }

  /// Every `step`-th query against the reference.
  void expect_right(attended& got, inputs& in, const attention_mask& mask, std::int64_t step = 1) const {
    // bf16 rounds the weights of keys and the result; the rounding errors of many keys cancel.
    const double allowed = type() == element_type::f32 ? 1e-5 : 2e-2;
    const double allowed_lse = type() == element_type::f32 ? 1e-5 : 5e-5;
    for (int head = 0; head < in.size.heads; ++head) {
      const int kv_head = head / (in.size.heads / in.size.kv_heads);
      const auto keys = in.rows_of(in.keys, kv_head);
      const auto values = in.rows_of(in.values, kv_head);
      for (std::int64_t query = 0; query < in.size.queries; query += step) {
        const auto seen = static_cast<std::size_t>(mask.causal ? mask.first_query + query + 1 : mask.keys);
        const auto exact = reference::attention_of(in.query(query, head), std::span(keys).first(seen),
                                                   std::span(values).first(seen), scale);
        const auto out = got.out.part(query, std::int64_t{head} * in.size.dim, in.size.dim);
        for (std::size_t i = 0; i < out.size(); ++i) {
          ASSERT_NEAR(out[i], exact.out[i], allowed) << "query " << query << ", head " << head << ", number " << i;
        }
        ASSERT_NEAR(got.log_sum_exp.at(query, head), exact.log_sum_exp, allowed_lse * (1 + std::abs(exact.log_sum_exp)))
            << "query " << query << ", head " << head;
      }
    }
    EXPECT_TRUE(got.out.gaps_untouched());
    EXPECT_TRUE(got.log_sum_exp.gaps_untouched());
  }

  static constexpr float scale = 0.3F;
  cpu::thread_pool pool{2};
  cpu::block_attention kernel{pool, type()};
};

INSTANTIATE_TEST_SUITE_P(kernels, block_attention, ::testing::Values(element_type::f32, element_type::bf16),
                         name_of_precision);

TEST_P(block_attention, attends_to_all_keys) {
  for (const sizes& s :
       {sizes{1, 1, 1, 8, 1}, sizes{3, 4, 2, 16, 5}, sizes{40, 3, 1, 80, 130}, sizes{257, 2, 2, 32, 512},
        sizes{17, 4, 4, 64, 513}, sizes{300, 2, 1, 128, 700}, sizes{20, 2, 1, 24, 1100}}) {
    SCOPED_TRACE(testing::Message() << s.queries << " queries, " << s.keys << " keys, dim " << s.dim);
    inputs in(type(), s);
    const attention_mask mask{.keys = s.keys};
    attended got = attend(kernel, in, mask);
    expect_right(got, in, mask, s.queries > 100 ? 7 : 1);
    if (HasFatalFailure()) return;
  }
}

TEST_P(block_attention, attends_causally) {
  for (const auto& [s, first] : {std::pair{sizes{1, 2, 1, 8, 1}, 0},
                                 {sizes{33, 2, 2, 16, 40}, 7},
                                 {sizes{300, 2, 1, 64, 300}, 0},
                                 {sizes{260, 2, 1, 32, 900}, 5},
                                 {sizes{270, 1, 1, 128, 800}, 512},
                                 {sizes{600, 2, 1, 16, 1111}, 511}}) {
    SCOPED_TRACE(testing::Message() << s.queries << " queries from " << first << ", " << s.keys << " keys, dim "
                                    << s.dim);
    inputs in(type(), s);
    const attention_mask mask{.causal = true, .keys = s.keys, .first_query = first};
    attended got = attend(kernel, in, mask);
    expect_right(got, in, mask, s.queries > 100 ? 3 : 1);
    if (HasFatalFailure()) return;
  }
}

TEST_P(block_attention, attends_to_the_keys_in_use_only) {
  inputs in(type(), {20, 2, 1, 32, 1000});
  const attention_mask mask{.keys = 523};
  attended got = attend(kernel, in, mask);
  expect_right(got, in, mask);
}

TEST_P(block_attention, rescales_when_later_keys_score_higher) {
  const sizes s{30, 2, 1, 16, 1600};
  inputs in(type(), s);
  for (std::int64_t key = 0; key < s.keys; ++key) {
    for (std::int64_t i = 0; i < s.dim; ++i) {
      in.keys.set(key, i, in.keys.at(key, i) * (0.1 + 4 * static_cast<double>(key) / 1600));
    }
  }
  const attention_mask mask{.keys = s.keys};
  attended got = attend(kernel, in, mask);
  expect_right(got, in, mask);
}

TEST_P(block_attention, stays_finite_with_scores_that_leave_one_key) {
  const sizes s{70, 1, 1, 64, 700};
  inputs in(type(), s, 40);  // scores of some ten thousand
  const attention_mask mask{.causal = true, .keys = s.keys, .first_query = 630};
  attended got = attend(kernel, in, mask);
  const auto keys = in.rows_of(in.keys, 0);
  const auto values = in.rows_of(in.values, 0);
  for (std::int64_t query = 0; query < s.queries; ++query) {
    const auto seen = static_cast<std::size_t>(630 + query + 1);
    const auto exact =
        reference::attention_of(in.query(query, 0), std::span(keys).first(seen), std::span(values).first(seen), scale);
    ASSERT_NEAR(got.log_sum_exp.at(query, 0), exact.log_sum_exp, 1e-5 * exact.log_sum_exp);
    for (std::int64_t i = 0; i < s.dim; ++i)
      ASSERT_NEAR(got.out.at(query, i), exact.out[static_cast<std::size_t>(i)], 0.05);
  }
}

TEST_P(block_attention, gives_zero_and_minus_infinity_without_keys) {
  inputs in(type(), {300, 2, 1, 16, 1});
  attended got(type(), in.size);
  got.out.fill(7);
  const panel_buffer panel(kernel, 0, 1, 16);
  kernel.attend(in.queries(), panel.view, {}, scale, got.out.heads(2), got.log_sum_exp.view(),
                attention_result::replace);
  for (std::int64_t query = 0; query < 300; ++query) {
    ASSERT_EQ(got.out.row(query), std::vector<double>(32, 0.0));
    ASSERT_EQ(got.log_sum_exp.row(query), std::vector<double>(2, -infinity));
  }
}

TEST_P(block_attention, merges_two_halves_into_the_whole) {
  const sizes s{270, 4, 2, 32, 1000};
  inputs in(type(), s);
  for (const std::int64_t cut : {1, 300, 512, 999}) {
    attended got(type(), s);
    const auto half = [&](std::int64_t first, std::int64_t end, attention_result result) {
      const panel_buffer panel = pack(kernel, in, first, end);
      kernel.attend(in.queries(), panel.view, {.keys = end - first}, scale, got.out.heads(s.heads),
                    got.log_sum_exp.view(), result);
    };
    half(0, cut, attention_result::replace);
    half(cut, s.keys, attention_result::merge);
    expect_right(got, in, {.keys = s.keys}, 13);
    if (HasFatalFailure()) return;
  }
}

TEST_P(block_attention, merging_with_nothing_changes_nothing) {
  const sizes s{40, 2, 1, 16, 90};
  inputs in(type(), s);
  const attended whole = attend(kernel, in, {.keys = s.keys});
  const panel_buffer nothing(kernel, 0, 1, 16);
  const panel_buffer all = pack(kernel, in, 0, s.keys);
  attended first(type(), s);
  attended second(type(), s);
  for (attended* got : {&first, &second}) {
    const bool nothing_first = got == &first;
    kernel.attend(in.queries(), nothing_first ? nothing.view : all.view, {.keys = nothing_first ? 0 : s.keys}, scale,
                  got->out.heads(2), got->log_sum_exp.view(), attention_result::replace);
    kernel.attend(in.queries(), nothing_first ? all.view : nothing.view, {.keys = nothing_first ? s.keys : 0}, scale,
                  got->out.heads(2), got->log_sum_exp.view(), attention_result::merge);
    EXPECT_TRUE(*got == whole);
  }
}

TEST_P(block_attention, packs_a_panel_piece_by_piece) {
  const sizes s{50, 2, 2, 16, 1300};
  inputs in(type(), s);
  const head_matrix keys = in.keys.heads(2);
  const head_matrix values = in.values.heads(2);
  panel_buffer panel(kernel, 1300, 2, 16);
  for (const auto& [first, count] : {std::pair{1024, 276}, {0, 512}, {512, 512}}) {
    kernel.pack(keys.slice(first, count), values.slice(first, count), panel.view, first);
  }
  const panel_buffer at_once = pack(kernel, in, 0, 1300);
  EXPECT_TRUE(std::equal(panel.memory->data(), panel.memory->data() + panel.memory->bytes(), at_once.memory->data()));
}

TEST_P(block_attention, gives_the_same_bits_with_any_number_of_threads) {
  inputs in(type(), {600, 4, 2, 32, 800});
  expect_same_bits_with_any_threads([&](cpu::thread_pool& some) {
    cpu::block_attention own(some, type());
    const attended got = attend(own, in, {.causal = true, .keys = 800, .first_query = 200});
    std::vector<std::byte> bytes = got.out.bytes();
    bytes.insert(bytes.end(), got.log_sum_exp.bytes().begin(), got.log_sum_exp.bytes().end());
    return bytes;
  });
}

TEST_P(block_attention, gives_the_same_bits_however_queries_are_cut_into_calls) {
  const sizes s{700, 2, 1, 64, 1000};
  inputs in(type(), s);
  const attended whole = attend(kernel, in, {.causal = true, .keys = s.keys, .first_query = 300});
  const panel_buffer panel = pack(kernel, in, 0, s.keys);
  std::vector<std::vector<std::int64_t>> ways{{256, 444}, {512, 188}, {256, 256, 188}};
  if (cpu::effective_isa().name.starts_with("avx512")) {
    ways.insert(ways.end(), {{1, 699}, {100, 300, 300}, {255, 2, 443}, {33, 600, 67}});
  }
  for (const auto& way : ways) {
    attended got(type(), s);
    std::int64_t first = 0;
    for (const std::int64_t count : way) {
      kernel.attend(in.queries().slice(first, count), panel.view,
                    {.causal = true, .keys = s.keys, .first_query = 300 + first}, scale,
                    got.out.heads(2).slice(first, count), got.log_sum_exp.view().slice_rows(first, count),
                    attention_result::replace);
      first += count;
    }
    EXPECT_TRUE(got == whole) << "the first of " << way.size() << " calls had " << way.front() << " queries";
  }
}

TEST_P(block_attention, refuses_what_breaks_its_conditions) {
  inputs in(type(), {4, 2, 1, 16, 600});
  panel_buffer panel = pack(kernel, in, 0, 600);
  attended got(type(), in.size);
  const auto attend_with = [&](const head_matrix& q, const attention_mask& mask) {
    kernel.attend(q, panel.view, mask, scale, got.out.heads(2), got.log_sum_exp.view(), attention_result::replace);
  };
  EXPECT_THROW(attend_with(in.queries(), {.keys = 601}), fault);
  EXPECT_THROW(attend_with(in.queries(), {.causal = true, .keys = 600, .first_query = 597}), fault);
  EXPECT_THROW(attend_with(in.queries().slice(0, 3), {.keys = 600}), fault);
  const head_matrix keys = in.keys.heads(1);
  const head_matrix values = in.values.heads(1);
  EXPECT_THROW(kernel.pack(keys.slice(0, 10), values.slice(0, 10), panel.view, 100), fault);
  EXPECT_THROW(kernel.pack(keys.slice(0, 100), values.slice(0, 100), panel.view, 512), fault);
  EXPECT_THROW(kernel.pack(keys.slice(0, 10), values.slice(0, 9), panel.view, 0), fault);
}

}  // namespace
}  // namespace baton
