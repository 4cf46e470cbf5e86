#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "kernels/cpu/thread_pool.hpp"
#include "kernels/fault.hpp"
#include "kernels/tensor.hpp"

namespace baton::cpu {

/// What the host part of every light kernel needs: conditions, row pointers, and rows divided among threads.

/// Throws fault(internal) where a kernel was given something that it does not take.
inline void require(bool condition, const char* kernel, const char* what) {
  if (!condition) throw fault(fault_code::internal, std::string("the kernel wants ") + what, kernel);
}

template <class T>
T* row_of(const matrix& m, std::int64_t row) {
  return static_cast<T*>(m.data) + row * m.stride;
}

template <class T>
T* head_of(const head_matrix& m, std::int64_t token, std::int64_t head) {
  return static_cast<T*>(m.data) + token * m.stride + head * m.dim;
}

inline std::byte* bytes_at(void* data, element_type type, std::int64_t index) {
  return static_cast<std::byte*>(data) + index * bytes_of(type);
}

/// Calls body(first, count) for pieces of [0, rows), by all threads. `row_numbers`: how many numbers one row reads. What is too
/// little to be worth waking a thread is one piece. The rows' results must not depend on one another.
template <class Body>
void for_rows(thread_pool& pool, std::int64_t rows, std::int64_t row_numbers, Body&& body) {
  constexpr std::int64_t piece_numbers = 1 << 14;
  constexpr std::int64_t alone_numbers = 1 << 16;
  if (rows <= 0) return;
  row_numbers = std::max<std::int64_t>(row_numbers, 1);
  if (rows <= alone_numbers / row_numbers) return body(std::int64_t{0}, rows);
  const std::int64_t piece = std::max<std::int64_t>(piece_numbers / row_numbers, 1);
  pool.parallel_for((rows + piece - 1) / piece,
                    [&](std::int64_t index, int) { body(index * piece, std::min(piece, rows - index * piece)); });
}

}  // namespace baton::cpu
