#include "kernels/cpu/matmul.hpp"

#include <array>

#include <gtest/gtest.h>

#include "kernels/cpu/isa.hpp"
#include "tests/support/kernel_buffer.hpp"

namespace baton {
namespace {

TEST(matmul, never_runs_onednns_reference_implementation) {
  std::vector<element_type> types{element_type::f32};
  if (cpu::effective_isa().bf16_matmul) types.push_back(element_type::bf16);
  cpu::matmul_cache cache(1);
  for (const element_type type : types) {
    for (const std::int64_t rows : {1, 7, 16, 32, 128, 256}) {
      for (const auto& [inputs, columns, packed] : {std::array<std::int64_t, 3>{64, 256, 512},
                                                    {1024, 256, 256},
                                                    {333, 40, 40},
                                                    {256, 128, 128},
                                                    {16, 128, 512},
                                                    {256, 80, 80}}) {
        for (const bool accumulate : {false, true}) {
          for (const bool bias : {false, true}) {
            const auto& product = cache.get({rows, inputs, columns, packed, type, element_type::f32, accumulate, bias});
            EXPECT_FALSE(product.implementation().starts_with("ref")) << rows << " x " << inputs << " x " << columns;
          }
        }
      }
    }
  }
}

TEST(matmul, multiplies_by_the_leading_columns_of_packed_weights) {
  constexpr std::int64_t inputs = 40;
  kernel_buffer weights(element_type::f32, inputs, 256);
  weights.fill_random(1);
  kernel_buffer x(element_type::f32, 5, inputs);
  x.fill_random(2);
  const cpu::weight_format format(inputs, 256, element_type::f32);
  std::vector<std::byte> packed(format.bytes());
  cpu::weight_packer(format, false)(weights.view().data, packed.data());
  cpu::matmul_cache cache(1);
  const auto multiply = [&](std::int64_t columns) {
    kernel_buffer out(element_type::f32, 5, columns);
    cache.get({5, inputs, columns, 256, element_type::f32, element_type::f32, false})
        .run(0, x.view().data, packed.data(), out.view().data);
    return out;
  };
  const kernel_buffer whole = multiply(256);
  for (const std::int64_t columns : {64, 128, 192}) {
    const kernel_buffer part = multiply(columns);
    for (std::int64_t row = 0; row < 5; ++row) {
      for (std::int64_t column = 0; column < columns; ++column) {
        ASSERT_NEAR(part.at(row, column), whole.at(row, column), 1e-4);
      }
    }
  }
}

TEST(matmul, makes_each_shape_once) {
  cpu::matmul_cache cache(2);
  const cpu::matmul_shape shape{3, 16, 32, 32, element_type::f32, element_type::f32, false};
  EXPECT_EQ(&cache.get(shape), &cache.get(shape));
}

}  // namespace
}  // namespace baton
