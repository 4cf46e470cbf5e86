#include "kernels/cpu/few_rows.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/isa.hpp"
#include "kernels/cpu/matmul.hpp"
#include "kernels/fault.hpp"
#include "tests/support/kernel_buffer.hpp"
#include "tests/support/kernel_test.hpp"
#include "tests/support/reference_arithmetic.hpp"

namespace baton {
namespace {

BATON_KERNEL_SUITE(few_rows);

using tag = dnnl::memory::format_tag;

dnnl::engine& engine() {
  static dnnl::engine made(dnnl::engine::kind::cpu, 0);
  return made;
}

dnnl::memory::desc described(element_type type, std::int64_t inputs, std::int64_t columns, tag format) {
  const auto data = type == element_type::f32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
  return {{inputs, columns}, data, format};
}

/// The ways in which oneDNN's matmuls for AVX2, AVX-512 and AMX want a panel.
std::vector<tag> formats_of(element_type type) {
  if (type == element_type::f32) return {tag::ab, tag::BA16a64b, tag::BA16a48b, tag::BA16a32b, tag::BA16a16b};
  return {tag::BA16a64b2a, tag::BA16a48b2a, tag::BA16a32b2a, tag::BA16a16b2a};
}

/// Random weights (inputs, columns) as they are, and as oneDNN's own reorder lays them.
struct panel {
  panel(element_type type, std::int64_t inputs, std::int64_t columns, tag format)
      : weights(type, inputs, columns), layout(described(type, inputs, columns, format)), packed(layout.get_size()) {
    weights.fill_random(2);
    const auto plain = described(type, inputs, columns, tag::ab);
    dnnl::memory from(plain, engine(), weights.view().data);
    dnnl::memory to(layout, engine(), packed.data());
    dnnl::stream stream(engine());
    dnnl::reorder(from, to).execute(stream, from, to);
    stream.wait();
  }

  [[nodiscard]] std::vector<double> column(std::int64_t index) const {
    std::vector<double> numbers;
    for (std::int64_t input = 0; input < layout.dims()[0]; ++input) numbers.push_back(weights.at(input, index));
    return numbers;
  }

  kernel_buffer weights;
  dnnl::memory::desc layout;
  std::vector<std::byte> packed;
};

struct sizes {
  std::int64_t inputs;
  std::int64_t columns;
};

constexpr std::array all_sizes{sizes{1, 1},   sizes{31, 7},   sizes{64, 256},  sizes{77, 130},
                               sizes{2, 100}, sizes{33, 255}, sizes{1001, 49}, sizes{513, 192}};

/// Rows as multiply_few_rows wants them: fp32, and zero behind the inputs.
std::vector<float> padded(const kernel_buffer& x, std::int64_t rows, std::int64_t inputs, std::int64_t width) {
  std::vector<float> wide(static_cast<std::size_t>(rows * width), 0.0F);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < inputs; ++i)
      wide[static_cast<std::size_t>(row * width + i)] = static_cast<float>(x.at(row, i));
  }
  return wide;
}

TEST_P(few_rows, equal_the_product_in_double_whatever_way_weights_lie) {
  for (const sizes& s : all_sizes) {
    for (const tag format : formats_of(type())) {
      const panel p(type(), s.inputs, s.columns, format);
      const auto blocks = cpu::column_blocks_of(p.layout);
      ASSERT_TRUE(blocks);
      for (std::int64_t rows = 1; rows <= cpu::few_rows_max; ++rows) {
        kernel_buffer x(type(), rows, s.inputs);
        x.fill_random(1);
        const auto wide = padded(x, rows, s.inputs, blocks->padded_inputs());
        kernel_buffer bias(element_type::f32, 1, s.columns);
        bias.fill_random(4);
        for (const std::int64_t first : {std::int64_t{0}, s.columns / 3}) {
          const std::int64_t count = std::max<std::int64_t>(s.columns - 2 * first, 1);
          for (const bool accumulate : {false, true}) {
            SCOPED_TRACE(testing::Message()
                         << rows << " x " << s.inputs << " x " << s.columns << ", format " << static_cast<int>(format)
                         << ", columns from " << first << ", accumulate " << accumulate);
            kernel_buffer out(type(), rows, count, 5);
            out.fill_random(3);
            kernel_buffer before(type(), rows, count);
            before.fill_random(3);
            const float* const added = accumulate ? nullptr : static_cast<const float*>(bias.view().data) + first;
            cpu::multiply_few_rows(*blocks, p.packed.data(), first, wide.data(), added, out.view(), accumulate);
            for (std::int64_t row = 0; row < rows; ++row) {
              std::vector<double> exact;
              for (std::int64_t column = 0; column < count; ++column) {
                exact.push_back(reference::dot(x.row(row), p.column(first + column)) +
                                (accumulate ? before.at(row, column) : bias.at(0, first + column)));
              }
              ASSERT_NO_FATAL_FAILURE(expect_close(out, row, 0, exact, 5e-5));
            }
            EXPECT_TRUE(out.gaps_untouched());
          }
        }
      }
    }
  }
}

TEST_P(few_rows, give_a_number_the_same_bits_whatever_rows_and_columns_stand_beside_it) {
  const sizes s{517, 250};
  for (const tag format : formats_of(type())) {
    const panel p(type(), s.inputs, s.columns, format);
    const auto blocks = cpu::column_blocks_of(p.layout);
    ASSERT_TRUE(blocks);
    kernel_buffer x(type(), cpu::few_rows_max, s.inputs);
    x.fill_random(1);
    const std::int64_t width = blocks->padded_inputs();
    const auto wide = padded(x, cpu::few_rows_max, s.inputs, width);
    kernel_buffer whole(element_type::f32, cpu::few_rows_max, s.columns);
    cpu::multiply_few_rows(*blocks, p.packed.data(), 0, wide.data(), nullptr, whole.view(), false);
    for (const std::int64_t rows : {1, 2, 3}) {
      for (const std::int64_t first_row : {std::int64_t{0}, cpu::few_rows_max - rows}) {
        for (const std::int64_t first : {0, 64, 5, 249}) {
          const std::int64_t count = std::min<std::int64_t>(s.columns - first, 67);
          kernel_buffer some(element_type::f32, rows, count);
          cpu::multiply_few_rows(*blocks, p.packed.data(), first, wide.data() + first_row * width, nullptr, some.view(),
                                 false);
          for (std::int64_t row = 0; row < rows; ++row)
            ASSERT_EQ(some.row(row), whole.part(first_row + row, first, count)) << rows << " rows from " << first;
        }
      }
    }
  }
}

TEST_P(few_rows, refuse_more_rows_and_other_columns_than_there_are) {
  const panel p(type(), 8, 16, formats_of(type()).back());
  const auto blocks = cpu::column_blocks_of(p.layout);
  ASSERT_TRUE(blocks);
  const std::vector<float> x(static_cast<std::size_t>(5 * blocks->padded_inputs()));
  kernel_buffer many(element_type::f32, 5, 16);
  kernel_buffer wide(element_type::f32, 1, 17);
  for (kernel_buffer* out : {&many, &wide})
    EXPECT_THROW(cpu::multiply_few_rows(*blocks, p.packed.data(), 0, x.data(), nullptr, out->view(), false), fault);
}

TEST(column_blocks, are_not_seen_in_orders_that_are_none) {
  EXPECT_FALSE(cpu::column_blocks_of(described(element_type::f32, 64, 64, tag::ba))) << "columns apart";
  EXPECT_FALSE(cpu::column_blocks_of(described(element_type::bf16, 64, 64, tag::ab))) << "no pairs";
  EXPECT_FALSE(cpu::column_blocks_of(described(element_type::bf16, 64, 64, tag::BA16a64b))) << "no pairs";
  EXPECT_FALSE(cpu::column_blocks_of(described(element_type::f32, 64, 64, tag::AB16b16a4b))) << "other blocks";
}

TEST(column_blocks, are_seen_in_what_onednn_chooses_on_this_machine) {
  for (const std::int64_t inputs : {1024, 31}) {
    for (const std::int64_t columns : {256, 40}) {
      EXPECT_TRUE(cpu::column_blocks_of(cpu::weight_format(inputs, columns, element_type::f32).layout()));
      if (!cpu::effective_isa().bf16_matmul) continue;
      EXPECT_TRUE(cpu::column_blocks_of(cpu::weight_format(inputs, columns, element_type::bf16).layout()));
    }
  }
}

}  // namespace
}  // namespace baton
