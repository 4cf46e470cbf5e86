#include "kernels/cpu/rope.hpp"

#include <cmath>

#include "kernels/cpu/launch.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rope.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace baton::cpu::HWY_NAMESPACE {
namespace {

template <class T>
void rotate_as(const head_matrix& x, const std::int32_t* positions, const rope_table& table, std::int64_t first,
               std::int64_t count) {
  const float_lanes d;
  const auto half = static_cast<std::size_t>(x.dim / 2);
  for (std::int64_t token = first; token < first + count; ++token) {
    const float* cosines = row_of<float>(table.cosines, positions[token]);
    const float* sines = row_of<float>(table.sines, positions[token]);
    for (int head = 0; head < x.heads; ++head) {
      T* low = head_of<T>(x, token, head);
      T* high = low + half;
      for_vectors(half, [&](std::size_t i, auto lanes) HWY_ATTR {
        const auto cosine = load(d, cosines + i, lanes);
        const auto sine = load(d, sines + i, lanes);
        const auto a = load(d, low + i, lanes);
        const auto b = load(d, high + i, lanes);
        store(d, hn::NegMulAdd(b, sine, hn::Mul(a, cosine)), low + i, lanes);
        store(d, hn::MulAdd(a, sine, hn::Mul(b, cosine)), high + i, lanes);
      });
    }
  }
}

}  // namespace

void rotate_tokens(const head_matrix& x, const std::int32_t* positions, const rope_table& table, std::int64_t first,
                   std::int64_t count) {
  if (x.type == element_type::f32) {
    rotate_as<float>(x, positions, table, first, count);
  } else {
    rotate_as<std::uint16_t>(x, positions, table, first, count);
  }
}

}  // namespace baton::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::cpu {
namespace {

bool alike(const rope_table& table, std::int64_t columns) {
  return table.cosines.type == element_type::f32 && table.sines.type == element_type::f32 &&
         table.cosines.columns == columns && table.sines.columns == columns && table.cosines.rows == table.sines.rows;
}

}  // namespace

HWY_EXPORT(rotate_tokens);

void fill_rope_table(thread_pool& pool, std::span<const float> inverse_frequencies, float amplitude,
                     const rope_table& table) {
  const auto columns = static_cast<std::int64_t>(inverse_frequencies.size());
  require(alike(table, columns), "fill_rope_table", "fp32 cosines and sines of one shape, a column per frequency");
  // A cosine costs as much as some 20 numbers of other kernels.
  for_rows(pool, table.cosines.rows, 20 * columns, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t position = first; position < first + count; ++position) {
      float* cosines = row_of<float>(table.cosines, position);
      float* sines = row_of<float>(table.sines, position);
      for (std::size_t i = 0; i < inverse_frequencies.size(); ++i) {
        const float angle = static_cast<float>(position) * inverse_frequencies[i];
        cosines[i] = std::cos(angle) * amplitude;
        sines[i] = std::sin(angle) * amplitude;
      }
    }
  });
}

void rotate(thread_pool& pool, const head_matrix& x, const std::int32_t* positions, const rope_table& table) {
  require(x.dim % 2 == 0 && alike(table, x.dim / 2), "rotate", "a table of half the head's columns");
  const std::int64_t numbers = std::int64_t{x.heads} * x.dim;
  for_rows(pool, x.tokens, numbers, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t token = first; token < first + count; ++token) {
      require(positions[token] >= 0 && positions[token] < table.cosines.rows, "rotate", "positions inside the table");
    }
    HWY_DYNAMIC_DISPATCH(rotate_tokens)(x, positions, table, first, count);
  });
}

}  // namespace baton::cpu
#endif  // HWY_ONCE
