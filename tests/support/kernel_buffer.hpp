#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/tensor.hpp"

namespace baton {

/// (rows, columns) numbers of either type for tests of CPU kernels. Between the rows lie `gap` numbers that no kernel may
/// touch; behind the last row lies nothing, so that AddressSanitizer sees who reads on.
class kernel_buffer {
 public:
  kernel_buffer(element_type type, std::int64_t rows, std::int64_t columns, std::int64_t gap = 0);
  kernel_buffer(kernel_buffer&&) = default;
  kernel_buffer& operator=(kernel_buffer&&) = default;

  [[nodiscard]] matrix view() { return view_; }
  [[nodiscard]] head_matrix heads(int count) {
    return as_heads(view_, 0, count, static_cast<int>(view_.columns) / count);
  }
  [[nodiscard]] element_type type() const { return view_.type; }

  [[nodiscard]] double at(std::int64_t row, std::int64_t column) const;
  /// `count` numbers of a row from `first` on.
  [[nodiscard]] std::vector<double> part(std::int64_t row, std::int64_t first, std::int64_t count) const;
  [[nodiscard]] std::vector<double> row(std::int64_t row) const { return part(row, 0, view_.columns); }
  /// Rounded to the buffer's type.
  void set(std::int64_t row, std::int64_t column, double value);
  /// Normally distributed numbers.
  void fill_random(unsigned seed, double deviation = 1);
  void fill(double value);

  [[nodiscard]] bool gaps_untouched() const;
  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
  matrix view_;
};

/// How far a kernel's result may be from the exact one: some roundings of fp32, and one of the type that it is stored in.
double allowed_error(element_type type, double exact, double fp32_error = 2e-6);

}  // namespace baton
