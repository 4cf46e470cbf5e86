#pragma once

#include <cstddef>
#include <cstdint>

namespace baton {

/// What one number of a device buffer is.
enum class element_type : std::uint8_t { f32, bf16 };

constexpr std::int64_t bytes_of(element_type type) { return type == element_type::f32 ? 4 : 2; }

/// A view of (rows, columns) numbers in device memory, row-major, rows `stride` numbers apart. Borrowed; only kernels of the
/// backend that the memory belongs to may read through `data`.
struct matrix {
  void* data = nullptr;
  element_type type = element_type::f32;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t stride = 0;

  [[nodiscard]] matrix slice_rows(std::int64_t first, std::int64_t count) const {
    return {static_cast<std::byte*>(data) + first * stride * bytes_of(type), type, count, columns, stride};
  }
  [[nodiscard]] matrix slice_columns(std::int64_t first, std::int64_t count) const {
    return {static_cast<std::byte*>(data) + first * bytes_of(type), type, rows, count, stride};
  }
};

/// A view of (tokens, heads, dim) in device memory: a token's heads lie one after another, tokens `stride` numbers apart.
/// It is how queries, keys and values stand in a fused projection, in a KV shard and in a compressed block.
struct head_matrix {
  void* data = nullptr;
  element_type type = element_type::f32;
  std::int64_t tokens = 0;
  int heads = 0;
  int dim = 0;
  std::int64_t stride = 0;

  [[nodiscard]] head_matrix slice(std::int64_t first, std::int64_t count) const {
    return {static_cast<std::byte*>(data) + first * stride * bytes_of(type), type, count, heads, dim, stride};
  }
  /// The same memory as (tokens, heads * dim).
  [[nodiscard]] matrix as_matrix() const {
    return {data, type, tokens, static_cast<std::int64_t>(heads) * dim, stride};
  }
};

/// Columns [first, first + heads * dim) of `rows` read as (tokens, heads, dim).
inline head_matrix as_heads(const matrix& rows, std::int64_t first, int heads, int dim) {
  const matrix part = rows.slice_columns(first, static_cast<std::int64_t>(heads) * dim);
  return {part.data, part.type, part.rows, heads, dim, part.stride};
}

}  // namespace baton
