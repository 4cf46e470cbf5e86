#include "tests/support/kernel_buffer.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "tests/support/reference_weights.hpp"

namespace baton {
namespace {

constexpr std::byte gap_byte{0xa5};

}  // namespace

kernel_buffer::kernel_buffer(element_type type, std::int64_t rows, std::int64_t columns, std::int64_t gap) {
  const std::int64_t stride = columns + gap;
  bytes_.assign(static_cast<std::size_t>(rows == 0 ? 0 : (rows * stride - gap) * bytes_of(type)), gap_byte);
  view_ = {bytes_.data(), type, rows, columns, stride};
}

double kernel_buffer::at(std::int64_t row, std::int64_t column) const {
  const std::int64_t index = row * view_.stride + column;
  if (view_.type == element_type::f32) return static_cast<double>(static_cast<const float*>(view_.data)[index]);
  const std::uint32_t bits = static_cast<const std::uint16_t*>(view_.data)[index];
  return static_cast<double>(std::bit_cast<float>(bits << 16));
}

std::vector<double> kernel_buffer::part(std::int64_t row, std::int64_t first, std::int64_t count) const {
  std::vector<double> numbers;
  for (std::int64_t column = first; column < first + count; ++column) numbers.push_back(at(row, column));
  return numbers;
}

void kernel_buffer::set(std::int64_t row, std::int64_t column, double value) {
  const std::int64_t index = row * view_.stride + column;
  if (view_.type == element_type::f32) {
    static_cast<float*>(view_.data)[index] = static_cast<float>(value);
  } else {
    const auto bits = std::bit_cast<std::uint32_t>(reference::to_bf16(static_cast<float>(value)));
    static_cast<std::uint16_t*>(view_.data)[index] = static_cast<std::uint16_t>(bits >> 16);
  }
}

void kernel_buffer::fill_random(unsigned seed, double deviation) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, deviation);
  for (std::int64_t row = 0; row < view_.rows; ++row) {
    for (std::int64_t column = 0; column < view_.columns; ++column) set(row, column, normal(generator));
  }
}

void kernel_buffer::fill(double value) {
  for (std::int64_t row = 0; row < view_.rows; ++row) {
    for (std::int64_t column = 0; column < view_.columns; ++column) set(row, column, value);
  }
}

bool kernel_buffer::gaps_untouched() const {
  const std::int64_t number = bytes_of(view_.type);
  for (std::int64_t row = 0; row + 1 < view_.rows; ++row) {
    for (std::int64_t i = (row * view_.stride + view_.columns) * number; i < (row + 1) * view_.stride * number; ++i) {
      if (bytes_[static_cast<std::size_t>(i)] != gap_byte) return false;
    }
  }
  return true;
}

double allowed_error(element_type type, double exact, double fp32_error) {
  const double stored = type == element_type::bf16 ? std::ldexp(1.0, -8) : 0;
  return std::abs(exact) * stored + (1 + std::abs(exact)) * fp32_error;
}

}  // namespace baton
