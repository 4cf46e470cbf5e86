#include "kernels/cpu/token_wise.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/memory.hpp"
#include "kernels/fault.hpp"
#include "tests/support/kernel_buffer.hpp"
#include "tests/support/kernel_test.hpp"
#include "tests/support/reference_arithmetic.hpp"

namespace baton {
namespace {

BATON_KERNEL_SUITE(token_wise);

constexpr std::int64_t widths[] = {1, 3, 7, 8, 16, 33, 64, 100, 257};

TEST_P(token_wise, embeds_rows_of_the_table) {
  for (const std::int64_t width : widths) {
    kernel_buffer table(type(), 11, width, 5);
    table.fill_random(1);
    const std::vector<std::int32_t> ids{10, 0, 3, 3, 7};
    kernel_buffer out(type(), 5, width, 2);
    cpu::embed(pool, table.view(), ids.data(), out.view());
    for (std::int64_t row = 0; row < 5; ++row) EXPECT_EQ(out.row(row), table.row(ids[static_cast<std::size_t>(row)]));
    EXPECT_TRUE(out.gaps_untouched());
  }
}

TEST_P(token_wise, refuses_ids_outside_the_table) {
  kernel_buffer table(type(), 3, 4);
  table.fill_random(1);
  kernel_buffer out(type(), 1, 4);
  for (const std::int32_t id : {-1, 3}) EXPECT_THROW(cpu::embed(pool, table.view(), &id, out.view()), fault);
}

TEST_P(token_wise, gives_the_same_bits_where_there_are_more_results_than_a_cache_keeps) {
  constexpr std::int64_t columns = 1000;
  constexpr std::int64_t stride = 1024;
  constexpr std::int64_t results_bytes = 33 << 20;
  const auto bytes = static_cast<std::size_t>(columns * bytes_of(type()));
  const auto stride_bytes = static_cast<std::size_t>(stride * bytes_of(type()));
  const std::int64_t rows = results_bytes / static_cast<std::int64_t>(bytes);
  kernel_buffer x(type(), 1, 2 * columns);
  x.fill_random(7);
  const std::vector<float> weight(columns, 0.75F);
  const cpu::host_memory memory(static_cast<std::size_t>(rows) * stride_bytes);
  const std::vector<std::byte> zero(stride_bytes - bytes);
  const auto expect_each_row = [&](const char* kernel, const auto& compute) {
    SCOPED_TRACE(kernel);
    kernel_buffer alone(type(), 1, columns);
    compute(1, alone.view());
    compute(rows, matrix{memory.data(), type(), rows, columns, stride});
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::byte* const at = memory.data() + static_cast<std::size_t>(row) * stride_bytes;
      ASSERT_EQ(std::memcmp(at, alone.bytes().data(), bytes), 0) << "row " << row;
      if (row + 1 == rows) break;
      ASSERT_EQ(std::memcmp(at + bytes, zero.data(), zero.size()), 0) << "behind row " << row;
    }
  };
  // All rows of the input are one.
  const auto norm = [&](std::int64_t count, const matrix& out) {
    cpu::rms_norm(pool, {x.view().data, type(), count, columns, 0}, weight.data(), 1e-5f, out);
  };
  const auto gated = [&](std::int64_t count, const matrix& out) {
    cpu::swiglu(pool, {x.view().data, type(), count, 2 * columns, 0}, out);
  };
  expect_each_row("rms_norm", norm);
  expect_each_row("swiglu", gated);
}

TEST_P(token_wise, normalises_by_the_root_mean_square) {
  for (const std::int64_t width : widths) {
    kernel_buffer x(type(), 3, width, 3);
    x.fill_random(2, 3);
    kernel_buffer weight(element_type::f32, 1, width);
    weight.fill_random(3);
    const std::vector<double> wide = weight.row(0);
    const std::vector<float> narrow(wide.begin(), wide.end());
    kernel_buffer out(type(), 3, width, 1);
    cpu::rms_norm(pool, x.view(), narrow.data(), 1e-5f, out.view());
    for (std::int64_t row = 0; row < 3; ++row) {
      expect_close(out, row, 0, reference::rms_normed(x.row(row), narrow, 1e-5));
    }
    EXPECT_TRUE(out.gaps_untouched());
    cpu::rms_norm(pool, x.view(), narrow.data(), 1e-5f, x.view());
    for (std::int64_t row = 0; row < 3; ++row) EXPECT_EQ(x.row(row), out.row(row)) << "in place";
  }
}

TEST_P(token_wise, normalises_zeros_to_zeros) {
  kernel_buffer x(type(), 1, 40);
  x.fill(0);
  const std::vector<float> weight(40, 1.0f);
  cpu::rms_norm(pool, x.view(), weight.data(), 1e-6f, x.view());
  EXPECT_EQ(x.row(0), std::vector<double>(40, 0.0));
}

TEST_P(token_wise, gates_with_silu) {
  for (const std::int64_t width : widths) {
    kernel_buffer gate_up(type(), 3, 2 * width, 3);
    gate_up.fill_random(4, 4);
    kernel_buffer out(type(), 3, width, 2);
    cpu::swiglu(pool, gate_up.view(), out.view());
    for (std::int64_t row = 0; row < 3; ++row) {
      std::vector<double> exact;
      for (std::int64_t i = 0; i < width; ++i) {
        exact.push_back(reference::silu(gate_up.at(row, i)) * gate_up.at(row, width + i));
      }
      expect_close(out, row, 0, exact);
    }
    EXPECT_TRUE(out.gaps_untouched());
  }
}

TEST_P(token_wise, computes_silu_in_place) {
  for (const std::int64_t width : widths) {
    kernel_buffer x(type(), 3, width, 3);
    x.fill_random(5, 4);
    std::vector<std::vector<double>> exact(3);
    for (std::int64_t row = 0; row < 3; ++row) {
      for (const double number : x.row(row)) exact[static_cast<std::size_t>(row)].push_back(reference::silu(number));
    }
    cpu::silu(pool, x.view());
    for (std::int64_t row = 0; row < 3; ++row) expect_close(x, row, 0, exact[static_cast<std::size_t>(row)]);
    EXPECT_TRUE(x.gaps_untouched());
  }
}

TEST_P(token_wise, keeps_silu_finite_for_huge_numbers) {
  const std::vector<double> numbers{-1e30, -1e4, -104, -100, -90, -88, -20, 0, 20, 88, 90, 104, 1e4, 1e30};
  kernel_buffer x(type(), 1, static_cast<std::int64_t>(numbers.size()));
  for (std::size_t i = 0; i < numbers.size(); ++i) x.set(0, static_cast<std::int64_t>(i), numbers[i]);
  std::vector<double> exact;
  for (const double number : x.row(0)) exact.push_back(number < -700 ? 0 : reference::silu(number));
  cpu::silu(pool, x.view());
  expect_close(x, 0, 0, exact);
}

TEST_P(token_wise, copies_between_all_types_and_strides) {
  for (const std::int64_t width : widths) {
    for (const element_type to_type : {element_type::f32, element_type::bf16}) {
      for (const std::int64_t gap : {0, 3}) {
        kernel_buffer from(type(), 4, width, gap);
        from.fill_random(6);
        kernel_buffer to(to_type, 4, width, gap);
        kernel_buffer exact(to_type, 4, width);
        for (std::int64_t row = 0; row < 4; ++row) {
          for (std::int64_t i = 0; i < width; ++i) exact.set(row, i, from.at(row, i));
        }
        cpu::copy(pool, from.view(), to.view());
        for (std::int64_t row = 0; row < 4; ++row) EXPECT_EQ(to.row(row), exact.row(row));
        EXPECT_TRUE(to.gaps_untouched());
      }
    }
  }
}

TEST_P(token_wise, rounds_to_bf16_to_the_nearest_with_ties_to_even) {
  // Every tie, its two neighbours, the largest numbers, the smallest, infinities; then anything.
  std::vector<std::uint32_t> bits{0x00000000, 0x80000000, 0x00000001, 0x00008000, 0x00018000, 0x3f800000,
                                  0x3f807fff, 0x3f808000, 0x3f808001, 0x3f818000, 0xbf808000, 0xbf818000,
                                  0x7f7f7fff, 0x7f7f8000, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000};
  std::mt19937 generator(7);
  while (bits.size() < 5000) {
    const auto any = static_cast<std::uint32_t>(generator());
    if (!std::isnan(std::bit_cast<float>(any))) bits.push_back(any);
  }
  const auto count = static_cast<std::int64_t>(bits.size());
  kernel_buffer from(element_type::f32, 1, count);
  kernel_buffer exact(element_type::bf16, 1, count);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto number = static_cast<double>(std::bit_cast<float>(bits[static_cast<std::size_t>(i)]));
    from.set(0, i, number);
    exact.set(0, i, number);
  }
  kernel_buffer to(element_type::bf16, 1, count);
  cpu::copy(pool, from.view(), to.view());
  EXPECT_EQ(to.bytes(), exact.bytes());
}

TEST_P(token_wise, keeps_a_nan_a_nan_in_bf16) {
  kernel_buffer from(element_type::f32, 1, 20);
  for (std::int64_t i = 0; i < 20; ++i) {
    const std::uint32_t payload = i % 2 == 0 ? 0x7f800001 : 0xffffffff;
    static_cast<std::uint32_t*>(from.view().data)[i] = payload;
  }
  kernel_buffer to(element_type::bf16, 1, 20);
  cpu::copy(pool, from.view(), to.view());
  for (const double number : to.row(0)) EXPECT_TRUE(std::isnan(number));
}

TEST_P(token_wise, does_nothing_for_no_tokens) {
  const matrix none{nullptr, type(), 0, 8, 8};
  const matrix none_wide{nullptr, type(), 0, 16, 16};
  EXPECT_NO_THROW(cpu::embed(pool, none, nullptr, none));
  EXPECT_NO_THROW(cpu::rms_norm(pool, none, nullptr, 1e-5f, none));
  EXPECT_NO_THROW(cpu::swiglu(pool, none_wide, none));
  EXPECT_NO_THROW(cpu::silu(pool, none));
  EXPECT_NO_THROW(cpu::copy(pool, none, none));
}

TEST_P(token_wise, refuses_outputs_of_another_shape) {
  kernel_buffer x(type(), 2, 8);
  x.fill_random(1);
  kernel_buffer narrow(type(), 2, 7);
  kernel_buffer low(type(), 1, 8);
  const std::vector<float> weight(8, 1.0f);
  EXPECT_THROW(cpu::rms_norm(pool, x.view(), weight.data(), 1e-5f, narrow.view()), fault);
  EXPECT_THROW(cpu::swiglu(pool, x.view(), narrow.view()), fault);
  EXPECT_THROW(cpu::copy(pool, x.view(), low.view()), fault);
}

TEST_P(token_wise, gives_the_same_bits_with_any_number_of_threads) {
  const std::int64_t rows = 331;
  const std::int64_t width = 515;
  const std::vector<float> weight(static_cast<std::size_t>(width), 0.7f);
  expect_same_bits_with_any_threads([&](cpu::thread_pool& threads) {
    kernel_buffer x(type(), rows, 2 * width);
    x.fill_random(8);
    const matrix left = x.view().slice_columns(0, width);
    cpu::rms_norm(threads, left, weight.data(), 1e-5f, left);
    cpu::silu(threads, x.view());
    kernel_buffer gated(type(), rows, width, 1);
    cpu::swiglu(threads, x.view(), gated.view());
    kernel_buffer other(type() == element_type::f32 ? element_type::bf16 : element_type::f32, rows, width);
    cpu::copy(threads, gated.view(), other.view());
    kernel_buffer again(other.type(), rows, width);
    cpu::copy(threads, other.view(), again.view());
    std::vector<std::int32_t> ids;
    for (std::int32_t id = 0; id < rows; ++id) ids.push_back(id * 7 % static_cast<std::int32_t>(rows));
    kernel_buffer embedded(again.type(), rows, width);
    cpu::embed(threads, again.view(), ids.data(), embedded.view());
    return embedded.bytes();
  });
}

}  // namespace
}  // namespace baton
