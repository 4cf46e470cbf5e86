#include "kernels/cpu/online_softmax.hpp"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/kernel_buffer.hpp"
#include "tests/support/kernel_test.hpp"

namespace baton {
namespace {

BATON_KERNEL_SUITE(online_softmax);

/// The buffer's rows as one piece.
cpu::key_weights in_one_piece(kernel_buffer& weights) {
  const matrix view = weights.view();
  return {view.data, view.type, view.columns, view.rows * view.columns};
}

/// Weights times 2^reference, so that tiles with different references can be compared.
double power_of(const kernel_buffer& weights, std::int64_t row, std::int64_t key, float reference) {
  return weights.at(row, key) * std::exp2(static_cast<double>(reference));
}

TEST_P(online_softmax, weighs_keys_with_powers_of_two) {
  constexpr float scale = 0.37F;
  constexpr std::int64_t columns = 4096;
  kernel_buffer scores(element_type::f32, 1, columns);
  // The whole range that counts, in steps that are not round.
  for (std::int64_t key = 0; key < columns; ++key) scores.set(0, key, -0.0417 * static_cast<double>(key) + 11.3);
  kernel_buffer weights(type(), 1, columns);
  kernel_buffer sums(element_type::f32, 1, 8);
  float reference = 0;
  float sum = 0;
  const cpu::softmax_rows state{&reference, &sum};
  state.clear(1);
  cpu::soften(scores.view(), scale, {columns, false}, state, in_one_piece(weights), sums.view());
  // Without fused multiply-add the product with the scale is rounded.
  const bool fused = GetParam().target != HWY_SCALAR && GetParam().target != HWY_EMU128;
  const double fp32_error = fused ? 1e-6 : 4e-6;
  const double largest_error = type() == element_type::f32 ? fp32_error : 1.0 / 256;
  double total = 0;
  for (std::int64_t key = 0; key < columns; ++key) {
    const double exact = std::exp2(static_cast<double>(scale) * scores.at(0, key));
    total += exact;
    if (exact < std::exp2(static_cast<double>(reference) - 90)) continue;
    ASSERT_NEAR(power_of(weights, 0, key, reference) / exact, 1, largest_error) << key;
  }
  EXPECT_NEAR(sum * std::exp2(static_cast<double>(reference)) / total, 1, fp32_error);
}

TEST_P(online_softmax, gives_no_weight_to_keys_that_a_row_does_not_see) {
  constexpr std::int64_t rows = 70;
  constexpr std::int64_t columns = 64;
  kernel_buffer scores(element_type::f32, rows, columns);
  scores.fill_random(1);
  for (const std::int64_t first : {-5, 0, 1, 3, 40}) {
    kernel_buffer weights(type(), rows, columns + 32);
    weights.fill(-1);
    kernel_buffer sums(element_type::f32, rows, 8);
    std::vector<float> reference(rows);
    std::vector<float> sum(rows);
    const cpu::softmax_rows state{reference.data(), sum.data()};
    state.clear(rows);
    cpu::soften(scores.view(), 1, {first, true}, state, in_one_piece(weights), sums.view());
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t key = 0; key < columns + 32; ++key) {
        const bool seen = key < columns && key < first + row;
        const double weight = weights.at(row, key);
        ASSERT_TRUE(seen ? weight > 0 : weight == 0) << "row " << row << ", key " << key;
      }
    }
  }
}

TEST_P(online_softmax, divides_the_weights_into_pieces) {
  constexpr std::int64_t rows = 3;
  kernel_buffer scores(element_type::f32, rows, 96);
  scores.fill_random(1);
  kernel_buffer sums(element_type::f32, rows, 8);
  const auto soften_into = [&](const cpu::key_weights& weights, std::int64_t seen) {
    std::vector<float> reference(rows);
    std::vector<float> sum(rows);
    const cpu::softmax_rows state{reference.data(), sum.data()};
    state.clear(rows);
    cpu::soften(scores.view(), 1, {seen, false}, state, weights, sums.view());
  };
  for (const std::int64_t seen : {5, 64, 70, 96}) {
    kernel_buffer whole(type(), rows, 128);
    soften_into({whole.view().data, type(), 128, rows * 128}, seen);
    kernel_buffer pieces(type(), 2 * rows, 64);
    pieces.fill(-1);
    soften_into({pieces.view().data, type(), 64, rows * 64}, seen);
    for (std::int64_t row = 0; row < rows; ++row) {
      EXPECT_EQ(pieces.row(row), whole.part(row, 0, 64));
      EXPECT_EQ(pieces.row(rows + row), whole.part(row, 64, 64));
    }
  }
}

TEST_P(online_softmax, rescales_what_was_summed_before_a_larger_score) {
  kernel_buffer scores(element_type::f32, 2, 32);
  kernel_buffer weights(type(), 2, 32);
  kernel_buffer sums(element_type::f32, 2, 8);
  float reference[2];
  float sum[2];
  const cpu::softmax_rows state{reference, sum};
  state.clear(2);
  scores.fill(2);
  cpu::soften(scores.view(), 1, {32, false}, state, in_one_piece(weights), sums.view());
  sums.fill(3);
  for (std::int64_t key = 0; key < 32; ++key) scores.set(1, key, 5);  // of the second row only
  cpu::soften(scores.view(), 1, {32, false}, state, in_one_piece(weights), sums.view());
  EXPECT_EQ(sums.row(0), std::vector<double>(8, 3.0));
  EXPECT_EQ(sums.row(1), std::vector<double>(8, 3.0 / 8));
  EXPECT_NEAR(sum[0] * std::exp2(reference[0]), 64 * 4.0, 1e-3);
  EXPECT_NEAR(sum[1] * std::exp2(reference[1]), 32 * 4.0 + 32 * 32.0, 1e-2);
}

}  // namespace
}  // namespace baton
