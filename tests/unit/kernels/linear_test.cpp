#include "kernels/cpu/linear.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/isa.hpp"
#include "kernels/cpu/random_fill.hpp"
#include "kernels/fault.hpp"
#include "kernels/random_weight.hpp"
#include "tests/support/kernel_buffer.hpp"
#include "tests/support/kernel_test.hpp"
#include "tests/support/reference_arithmetic.hpp"

namespace baton {
namespace {

std::string name_of_precision(const ::testing::TestParamInfo<element_type>& tested) {
  return tested.param == element_type::f32 ? "f32" : "bf16";
}

/// Runs for both types of activations.
class linear : public ::testing::TestWithParam<element_type> {
 protected:
  static element_type type() { return GetParam(); }

  /// Types that results can have.
  static std::vector<element_type> result_types() {
    if (type() == element_type::f32) return {element_type::f32};
    return {element_type::bf16, element_type::f32};
  }

  static host_matrix host(kernel_buffer& weights) {
    const matrix view = weights.view();
    const auto type = view.type == element_type::f32 ? host_type::f32 : host_type::bf16;
    return {view.data, type, view.rows, view.columns};
  }

  cpu::thread_pool pool{2};
  cpu::linear_layers layers{pool, type()};
};

INSTANTIATE_TEST_SUITE_P(kernels, linear, ::testing::Values(element_type::f32, element_type::bf16), name_of_precision);

struct sizes {
  std::int64_t rows;
  std::int64_t inputs;
  std::int64_t outputs;
};

constexpr std::array all_sizes{sizes{1, 1, 1},      sizes{1, 64, 300},   sizes{5, 31, 7},     sizes{37, 64, 257},
                               sizes{256, 80, 256}, sizes{290, 77, 513}, sizes{600, 128, 40}, sizes{33, 1001, 130},
                               sizes{1, 513, 700},  sizes{2, 77, 1300},  sizes{3, 1024, 257}, sizes{4, 130, 1025}};

struct inputs {
  inputs(element_type type, const sizes& s) : x(type, s.rows, s.inputs, 3), weights(type, s.outputs, s.inputs) {
    x.fill_random(1);
    weights.fill_random(2);
  }

  /// x W^T in double.
  [[nodiscard]] std::vector<std::vector<double>> product() const {
    std::vector<std::vector<double>> columns;
    for (std::int64_t output = 0; output < weights.view().rows; ++output) columns.push_back(weights.row(output));
    std::vector<std::vector<double>> result;
    for (std::int64_t row = 0; row < x.view().rows; ++row) {
      const std::vector<double> numbers = x.row(row);
      result.emplace_back();
      for (const auto& column : columns) result.back().push_back(reference::dot(numbers, column));
    }
    return result;
  }

  mutable kernel_buffer x;
  mutable kernel_buffer weights;
};

TEST_P(linear, equals_the_product_in_double) {
  for (const sizes& s : all_sizes) {
    const inputs in(type(), s);
    const auto exact = in.product();
    const auto packed = layers.pack(std::array{host(in.weights)});
    for (const element_type result_type : result_types()) {
      for (const bool accumulate : {false, true}) {
        SCOPED_TRACE(testing::Message() << s.rows << " x " << s.inputs << " x " << s.outputs << ", accumulate "
                                        << accumulate);
        kernel_buffer out(result_type, s.rows, s.outputs, 5);
        out.fill_random(3);
        kernel_buffer before(result_type, s.rows, s.outputs);
        before.fill_random(3);
        layers.run(in.x.view(), *packed, nullptr, out.view(), accumulate);
        for (std::int64_t row = 0; row < s.rows; ++row) {
          std::vector<double> expected = exact[static_cast<std::size_t>(row)];
          if (accumulate) {
            for (std::size_t i = 0; i < expected.size(); ++i)
              expected[i] += before.at(row, static_cast<std::int64_t>(i));
          }
          expect_close(out, row, 0, expected, 5e-5);
          if (HasFatalFailure()) return;
        }
        EXPECT_TRUE(out.gaps_untouched());
      }
    }
  }
}

TEST_P(linear, adds_a_bias_and_rounds_once) {
  for (const sizes& s : all_sizes) {
    const inputs in(type(), s);
    const auto exact = in.product();
    const auto packed = layers.pack(std::array{host(in.weights)});
    kernel_buffer bias(element_type::f32, 1, s.outputs);
    bias.fill_random(4);
    for (const element_type result_type : result_types()) {
      for (const bool accumulate : {false, true}) {
        SCOPED_TRACE(testing::Message() << s.rows << " x " << s.inputs << " x " << s.outputs << ", accumulate "
                                        << accumulate);
        kernel_buffer out(result_type, s.rows, s.outputs, 5);
        out.fill_random(3);
        kernel_buffer before(result_type, s.rows, s.outputs);
        before.fill_random(3);
        layers.run(in.x.view(), *packed, static_cast<const float*>(bias.view().data), out.view(), accumulate);
        for (std::int64_t row = 0; row < s.rows; ++row) {
          std::vector<double> expected = exact[static_cast<std::size_t>(row)];
          for (std::size_t i = 0; i < expected.size(); ++i) {
            const auto column = static_cast<std::int64_t>(i);
            expected[i] += bias.at(0, column) + (accumulate ? before.at(row, column) : 0);
          }
          expect_close(out, row, 0, expected, 5e-5);
          if (HasFatalFailure()) return;
        }
        EXPECT_TRUE(out.gaps_untouched());
      }
    }
  }
}

TEST_P(linear, takes_half_precision_weights_as_the_numbers_that_they_are) {
  const sizes s{7, 41, 300};
  // Every exponent that half precision has, its subnormals too, and both signs.
  std::vector<std::uint16_t> halves;
  kernel_buffer wide(element_type::f32, s.outputs, s.inputs);
  for (std::int64_t row = 0; row < s.outputs; ++row) {
    for (std::int64_t column = 0; column < s.inputs; ++column) {
      const auto i = static_cast<int>(row * s.inputs + column);
      const int exponent = i % 21;  // up to 32
      const int fraction = i * 37 % 1024;
      const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                            : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
      halves.push_back(static_cast<std::uint16_t>((i % 2) << 15 | exponent << 10 | fraction));
      wide.set(row, column, i % 2 == 0 ? magnitude : -magnitude);
    }
  }
  const inputs in(type(), s);
  kernel_buffer from_halves(type(), s.rows, s.outputs);
  kernel_buffer from_wide(type(), s.rows, s.outputs);
  const host_matrix half{halves.data(), host_type::f16, s.outputs, s.inputs};
  layers.run(in.x.view(), *layers.pack(std::array{half}), nullptr, from_halves.view(), false);
  layers.run(in.x.view(), *layers.pack(std::array{host(wide)}), nullptr, from_wide.view(), false);
  EXPECT_TRUE(from_halves.bytes() == from_wide.bytes());
}

TEST_P(linear, says_which_host_memory_it_has_read_each_byte_once_and_in_order) {
  kernel_buffer first(type(), 300, 9000);
  kernel_buffer second(element_type::f32, 1, 9000);
  kernel_buffer third(element_type::bf16, 2100, 9000);
  const std::array parts{host(first), host(second), host(third)};
  std::vector<std::span<const std::byte>> pieces;
  const auto packed = layers.pack(parts, [&](std::span<const std::byte> bytes) { pieces.push_back(bytes); });
  ASSERT_GT(pieces.size(), parts.size());
  std::size_t next = 0;
  for (const host_matrix& part : parts) {
    const auto* at = static_cast<const std::byte*>(part.data);
    const auto* const end = at + part.rows * part.columns * bytes_of(part.type);
    for (; at != end; at += pieces[next++].size()) {
      ASSERT_LT(next, pieces.size());
      ASSERT_EQ(pieces[next].data(), at);
      ASSERT_FALSE(pieces[next].empty());
    }
  }
  EXPECT_EQ(next, pieces.size());
}

TEST_P(linear, stacks_the_rows_of_fused_parts) {
  const sizes s{9, 50, 700};
  const inputs in(type(), s);
  const auto whole = layers.pack(std::array{host(in.weights)});
  const host_matrix all = host(in.weights);
  const auto rows = [&](std::int64_t first, std::int64_t count) {
    return host_matrix{static_cast<const std::byte*>(all.data) + first * s.inputs * bytes_of(all.type), all.type, count,
                       s.inputs};
  };
  const auto fused = layers.pack(std::array{rows(0, 300), rows(300, 1), rows(301, 399)});
  EXPECT_EQ(fused->outputs(), 700);
  EXPECT_EQ(fused->inputs(), 50);
  kernel_buffer expected(type(), s.rows, s.outputs);
  kernel_buffer out(type(), s.rows, s.outputs);
  layers.run(in.x.view(), *whole, nullptr, expected.view(), false);
  layers.run(in.x.view(), *fused, nullptr, out.view(), false);
  EXPECT_TRUE(out.bytes() == expected.bytes());
}

TEST_P(linear, rounds_weights_to_the_type_of_activations) {
  const inputs in(type(), {7, 40, 60});
  kernel_buffer exact_weights(element_type::f32, 60, 40);
  exact_weights.fill_random(2);  // in.weights are these, rounded
  kernel_buffer from_exact(type(), 7, 60);
  kernel_buffer from_rounded(type(), 7, 60);
  layers.run(in.x.view(), *layers.pack(std::array{host(exact_weights)}), nullptr, from_exact.view(), false);
  layers.run(in.x.view(), *layers.pack(std::array{host(in.weights)}), nullptr, from_rounded.view(), false);
  EXPECT_TRUE(from_exact.bytes() == from_rounded.bytes());
}

TEST_P(linear, widens_bf16_weights_exactly) {
  kernel_buffer weights(element_type::bf16, 60, 40);
  weights.fill_random(2);
  kernel_buffer wide(element_type::f32, 60, 40);
  for (std::int64_t row = 0; row < 60; ++row) {
    for (std::int64_t column = 0; column < 40; ++column) wide.set(row, column, weights.at(row, column));
  }
  const inputs in(type(), {7, 40, 60});
  kernel_buffer a(type(), 7, 60);
  kernel_buffer b(type(), 7, 60);
  layers.run(in.x.view(), *layers.pack(std::array{host(weights)}), nullptr, a.view(), false);
  layers.run(in.x.view(), *layers.pack(std::array{host(wide)}), nullptr, b.view(), false);
  EXPECT_TRUE(a.bytes() == b.bytes());
}

TEST_P(linear, draws_random_weights_as_if_a_checkpoint_held_them) {
  for (const sizes& s : {sizes{5, 31, 7}, sizes{37, 64, 513}}) {
    const inputs in(type(), s);
    kernel_buffer drawn(element_type::f32, s.outputs, s.inputs);
    const random_weights draw(7, 0.25F);
    for (std::int64_t row = 0; row < s.outputs; ++row) {
      for (std::int64_t column = 0; column < s.inputs; ++column)
        drawn.set(row, column, draw(static_cast<std::uint64_t>(row * s.inputs + column)));
    }
    kernel_buffer expected(type(), s.rows, s.outputs);
    kernel_buffer out(type(), s.rows, s.outputs);
    layers.run(in.x.view(), *layers.pack(std::array{host(drawn)}), nullptr, expected.view(), false);
    layers.run(in.x.view(), *layers.pack_random(s.outputs, s.inputs, 7, 0.25F), nullptr, out.view(), false);
    EXPECT_TRUE(out.bytes() == expected.bytes());

    kernel_buffer rounded(type(), s.outputs, s.inputs, 3);
    cpu::fill_random(pool, rounded.view(), 7, 0.25F);
    kernel_buffer by_hand(type(), s.outputs, s.inputs, 3);
    for (std::int64_t row = 0; row < s.outputs; ++row) {
      for (std::int64_t column = 0; column < s.inputs; ++column) by_hand.set(row, column, drawn.at(row, column));
    }
    EXPECT_TRUE(rounded.bytes() == by_hand.bytes());
  }
}

TEST(random_weights, are_spread_evenly_over_their_range_and_differ_from_seed_to_seed) {
  constexpr std::uint64_t count = 100'000;
  const random_weights draw(1, 2);
  const random_weights other(2, 2);
  double sum = 0;
  double squares = 0;
  double product = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    ASSERT_GE(draw(i), -2);
    ASSERT_LT(draw(i), 2);
    sum += draw(i);
    squares += static_cast<double>(draw(i)) * draw(i);
    product += static_cast<double>(draw(i)) * other(i);
  }
  EXPECT_NEAR(sum / count, 0, 0.02);
  EXPECT_NEAR(squares / count, 4.0 / 3, 0.02);
  EXPECT_NEAR(product / count, 0, 0.02);
}

TEST_P(linear, gives_the_same_bits_with_any_number_of_threads) {
  for (const sizes& s : {sizes{600, 70, 600}, sizes{1, 300, 1100}, sizes{3, 64, 2000}}) {
    const inputs in(type(), s);
    expect_same_bits_with_any_threads([&](cpu::thread_pool& some) {
      cpu::linear_layers own(some, type());
      const auto packed = own.pack(std::array{host(in.weights)});
      kernel_buffer out(type(), s.rows, s.outputs);
      own.run(in.x.view(), *packed, nullptr, out.view(), false);
      return out.bytes();
    });
  }
}

TEST_P(linear, gives_a_row_the_same_bits_whatever_rows_stand_beside_it) {
  if (!cpu::effective_isa().name.starts_with("avx512")) {
    GTEST_SKIP() << "oneDNN's other matmuls sum in an order that may depend on the number of rows";
  }
  for (const sizes& s : {sizes{600, 1000, 300}, sizes{600, 64, 40}}) {
    const inputs in(type(), s);
    const auto packed = layers.pack(std::array{host(in.weights)});
    for (const element_type result_type : result_types()) {
      kernel_buffer whole(result_type, s.rows, s.outputs);
      layers.run(in.x.view(), *packed, nullptr, whole.view(), false);
      for (const std::int64_t rows : {1, 2, 7, 31, 32, 33, 100, 255, 256, 257, 300}) {
        for (const std::int64_t first : {0, 13, 300}) {
          kernel_buffer alone(result_type, rows, s.outputs);
          layers.run(in.x.view().slice_rows(first, rows), *packed, nullptr, alone.view(), false);
          for (std::int64_t row = 0; row < rows; ++row)
            ASSERT_EQ(alone.row(row), whole.row(first + row)) << rows << " rows";
        }
      }
    }
  }
}

TEST_P(linear, says_beforehand_how_much_memory_packed_weights_take) {
  for (const sizes& s : all_sizes) {
    const inputs in(type(), s);
    EXPECT_EQ(layers.pack(std::array{host(in.weights)})->bytes(), layers.packed_bytes(s.outputs, s.inputs));
  }
}

TEST_P(linear, does_nothing_for_no_rows) {
  const inputs in(type(), {0, 8, 8});
  kernel_buffer out(type(), 0, 8);
  EXPECT_NO_THROW(layers.run(in.x.view(), *layers.pack(std::array{host(in.weights)}), nullptr, out.view(), false));
}

TEST_P(linear, refuses_views_that_do_not_fit_the_weights) {
  const inputs in(type(), {3, 8, 8});
  const auto packed = layers.pack(std::array{host(in.weights)});
  kernel_buffer narrow(type(), 3, 7);
  kernel_buffer few(type(), 2, 8);
  kernel_buffer out(type(), 3, 8);
  EXPECT_THROW(layers.run(in.x.view(), *packed, nullptr, narrow.view(), false), fault);
  EXPECT_THROW(layers.run(in.x.view(), *packed, nullptr, few.view(), false), fault);
  EXPECT_THROW(layers.run(narrow.view(), *packed, nullptr, out.view(), false), fault);
}

TEST_P(linear, refuses_to_fuse_parts_of_different_widths) {
  kernel_buffer wide(type(), 3, 8);
  kernel_buffer narrow(type(), 3, 7);
  EXPECT_THROW((void)layers.pack(std::array{host(wide), host(narrow)}), fault);
  EXPECT_THROW((void)layers.pack({}), fault);
}

}  // namespace
}  // namespace baton
