#include "kernels/cpu/rope.hpp"

#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "tests/support/kernel_buffer.hpp"
#include "tests/support/kernel_reference.hpp"
#include "tests/support/kernel_test.hpp"

namespace baton {
namespace {

BATON_KERNEL_SUITE(rope);

std::vector<float> inverse_frequencies(int dim) {
  std::vector<float> frequencies;
  for (int i = 0; i < dim / 2; ++i) {
    frequencies.push_back(1 / std::pow(10000.0f, static_cast<float>(2 * i) / static_cast<float>(dim)));
  }
  return frequencies;
}

/// Cosines and sines for `positions` positions of heads of size `dim`.
struct filled_table {
  filled_table(cpu::thread_pool& pool, std::int64_t positions, int dim, std::int64_t gap = 0, float amplitude = 1)
      : frequencies(inverse_frequencies(dim)),
        cosines(element_type::f32, positions, dim / 2, gap),
        sines(element_type::f32, positions, dim / 2, gap) {
    cpu::fill_rope_table(pool, frequencies, amplitude, view());
  }
  [[nodiscard]] rope_table view() { return {cosines.view(), sines.view()}; }

  std::vector<float> frequencies;
  kernel_buffer cosines;
  kernel_buffer sines;
};

TEST(rope_table, holds_cosine_and_sine_of_the_fp32_angle_at_far_positions) {
  cpu::thread_pool pool(2);
  filled_table table(pool, 140'003, 10, 1);
  for (std::int64_t position = 0; position < 140'003; position += position < 1000 ? 1 : 997) {
    for (std::size_t i = 0; i < table.frequencies.size(); ++i) {
      const auto angle = static_cast<double>(static_cast<float>(position) * table.frequencies[i]);
      const auto column = static_cast<std::int64_t>(i);
      ASSERT_NEAR(table.cosines.at(position, column), std::cos(angle), 6.1e-8) << position << ' ' << column;
      ASSERT_NEAR(table.sines.at(position, column), std::sin(angle), 6.1e-8) << position << ' ' << column;
    }
  }
  EXPECT_TRUE(table.cosines.gaps_untouched());
  EXPECT_TRUE(table.sines.gaps_untouched());
}

TEST(rope_table, multiplies_cosine_and_sine_by_the_amplitude) {
  cpu::thread_pool pool(2);
  filled_table plain(pool, 301, 10);
  filled_table stretched(pool, 301, 10, 0, 1.25f);
  for (std::int64_t position = 0; position < 301; ++position) {
    for (std::int64_t column = 0; column < 5; ++column) {
      ASSERT_NEAR(stretched.cosines.at(position, column), 1.25 * plain.cosines.at(position, column), 1e-7);
      ASSERT_NEAR(stretched.sines.at(position, column), 1.25 * plain.sines.at(position, column), 1e-7);
    }
  }
}

TEST_P(rope, turns_each_head_to_its_tokens_position) {
  const std::vector<std::int32_t> positions{5, 0, 99, 98, 1};
  for (const int dim : {2, 6, 14, 32, 34, 64, 128, 130}) {
    for (const int heads : {1, 3}) {
      filled_table table(pool, 100, dim, 3);
      kernel_buffer x(type(), 5, std::int64_t{heads} * dim, 7);
      x.fill_random(1);
      std::vector<std::vector<double>> exact;
      for (std::int64_t token = 0; token < 5; ++token) {
        for (int head = 0; head < heads; ++head) {
          exact.push_back(reference::rotated(x.part(token, std::int64_t{head} * dim, dim),
                                             positions[static_cast<std::size_t>(token)], table.frequencies));
        }
      }
      cpu::rotate(pool, x.heads(heads), positions.data(), table.view());
      for (std::int64_t token = 0; token < 5; ++token) {
        for (int head = 0; head < heads; ++head) {
          expect_close(x, token, std::int64_t{head} * dim, exact[static_cast<std::size_t>(token * heads + head)], 1e-6);
        }
      }
      EXPECT_TRUE(x.gaps_untouched());
    }
  }
}

TEST_P(rope, leaves_position_zero_as_it_is) {
  filled_table table(pool, 1, 64);
  kernel_buffer x(type(), 1, 128);
  x.fill_random(2);
  const auto before = x.row(0);
  const std::int32_t position = 0;
  cpu::rotate(pool, x.heads(2), &position, table.view());
  EXPECT_EQ(x.row(0), before);
}

TEST_P(rope, refuses_positions_outside_the_table_and_tables_of_another_width) {
  filled_table table(pool, 4, 8);
  kernel_buffer x(type(), 1, 8);
  x.fill_random(3);
  for (const std::int32_t position : {-1, 4}) {
    EXPECT_THROW(cpu::rotate(pool, x.heads(1), &position, table.view()), fault);
  }
  const std::int32_t position = 0;
  EXPECT_THROW(cpu::rotate(pool, x.heads(2), &position, table.view()), fault);
}

TEST_P(rope, does_nothing_for_no_tokens) {
  filled_table table(pool, 4, 8);
  EXPECT_NO_THROW(cpu::rotate(pool, head_matrix{nullptr, type(), 0, 2, 8, 16}, nullptr, table.view()));
}

TEST_P(rope, gives_the_same_bits_with_any_number_of_threads) {
  std::vector<std::int32_t> positions;
  for (std::int32_t token = 0; token < 601; ++token) positions.push_back(token * 13 % 601);
  expect_same_bits_with_any_threads([&](cpu::thread_pool& threads) {
    filled_table table(threads, 601, 72);
    kernel_buffer x(type(), 601, 5 * 72);
    x.fill_random(4);
    cpu::rotate(threads, x.heads(5), positions.data(), table.view());
    auto bytes = x.bytes();
    bytes.insert(bytes.end(), table.sines.bytes().begin(), table.sines.bytes().end());
    bytes.insert(bytes.end(), table.cosines.bytes().begin(), table.cosines.bytes().end());
    return bytes;
  });
}

}  // namespace
}  // namespace baton
