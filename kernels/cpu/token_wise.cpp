#include "kernels/cpu/token_wise.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <numbers>

#include <hwy/cache_control.h>

#include "kernels/cpu/launch.hpp"

#ifndef BATON_KERNELS_CPU_TOKEN_WISE_ONCE
#define BATON_KERNELS_CPU_TOKEN_WISE_ONCE

namespace baton::cpu {
namespace {

/// Where results are written to.
enum class written : std::uint8_t {
  as_usual,    ///< into the caches, from where the next kernel reads them
  past_cache,  ///< to memory: there are more than a cache keeps
};

}  // namespace
}  // namespace baton::cpu

#endif  // BATON_KERNELS_CPU_TOKEN_WISE_ONCE

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/token_wise.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace baton::cpu::HWY_NAMESPACE {
namespace {

/// to[i] = value(i, whole or part) for [0, count).
template <class T, class Value>
HWY_INLINE void map_row(T* to, std::size_t count, written where, Value&& value) {
  if (where == written::past_cache && reinterpret_cast<std::uintptr_t>(to) % 64 == 0) {
    map_past_cache(to, count, value);
  } else {
    map_to(to, count, value);
  }
}

template <class T>
void rms_norm_as(const matrix& x, const float* weight, float eps, const matrix& out, std::int64_t first,
                 std::int64_t count, written where) {
  const float_lanes d;
  const auto columns = static_cast<std::size_t>(x.columns);
  for (std::int64_t row = first; row < first + count; ++row) {
    const T* from = row_of<T>(x, row);
    T* to = row_of<T>(out, row);
    const float mean = dot(from, from, columns) / static_cast<float>(columns);
    const auto scale = hn::Set(d, 1.0f / std::sqrt(mean + eps));
    map_row(to, columns, where, [&](std::size_t i, auto lanes) HWY_ATTR {
      return hn::Mul(hn::Mul(load(d, from + i, lanes), scale), load(d, weight + i, lanes));
    });
  }
}

/// x / (1 + e^-x). The power is 2^t with t = -x log2(e), cut where it would overflow or add nothing to 1: there silu is 0, or x, to within
/// fp32's smallest normal numbers.
HWY_INLINE float_vector silu_of(float_lanes d, float_vector x) {
  const auto bounded = hn::Min(hn::Max(x, hn::Set(d, -86.0f)), hn::Set(d, 86.0f));
  const auto raised = power_of_two_of(d, bounded, hn::Set(d, -std::numbers::log2e_v<float>));
  return hn::Div(x, hn::Add(hn::Set(d, 1.0f), raised));
}

template <class T>
void swiglu_as(const matrix& gate_up, const matrix& out, std::int64_t first, std::int64_t count, written where) {
  const float_lanes d;
  for (std::int64_t row = first; row < first + count; ++row) {
    const T* gate = row_of<T>(gate_up, row);
    const T* up = gate + out.columns;
    T* to = row_of<T>(out, row);
    map_row(to, static_cast<std::size_t>(out.columns), where, [&](std::size_t i, auto lanes) HWY_ATTR {
      return hn::Mul(silu_of(d, load(d, gate + i, lanes)), load(d, up + i, lanes));
    });
  }
}

template <class T>
void silu_as(const matrix& x, std::int64_t first, std::int64_t count) {
  const float_lanes d;
  for (std::int64_t row = first; row < first + count; ++row) {
    T* at = row_of<T>(x, row);
    map_to(at, static_cast<std::size_t>(x.columns),
           [&](std::size_t i, auto lanes) HWY_ATTR { return silu_of(d, load(d, at + i, lanes)); });
  }
}

template <class From, class To>
void convert_as(const matrix& from, const matrix& to, std::int64_t first, std::int64_t count) {
  const float_lanes d;
  for (std::int64_t row = first; row < first + count; ++row) {
    const From* source = row_of<From>(from, row);
    To* target = row_of<To>(to, row);
    map_to(target, static_cast<std::size_t>(from.columns),
           [&](std::size_t i, auto lanes) HWY_ATTR { return load(d, source + i, lanes); });
  }
}

}  // namespace

void rms_norm_rows(const matrix& x, const float* weight, float eps, const matrix& out, std::int64_t first,
                   std::int64_t count, written where) {
  if (x.type == element_type::f32) {
    rms_norm_as<float>(x, weight, eps, out, first, count, where);
  } else {
    rms_norm_as<std::uint16_t>(x, weight, eps, out, first, count, where);
  }
}

void swiglu_rows(const matrix& gate_up, const matrix& out, std::int64_t first, std::int64_t count, written where) {
  if (out.type == element_type::f32) {
    swiglu_as<float>(gate_up, out, first, count, where);
  } else {
    swiglu_as<std::uint16_t>(gate_up, out, first, count, where);
  }
}

void silu_rows(const matrix& x, std::int64_t first, std::int64_t count) {
  if (x.type == element_type::f32) {
    silu_as<float>(x, first, count);
  } else {
    silu_as<std::uint16_t>(x, first, count);
  }
}

void convert_rows(const matrix& from, const matrix& to, std::int64_t first, std::int64_t count) {
  if (from.type == element_type::f32) {
    convert_as<float, std::uint16_t>(from, to, first, count);
  } else {
    convert_as<std::uint16_t, float>(from, to, first, count);
  }
}

}  // namespace baton::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::cpu {

HWY_EXPORT(rms_norm_rows);
HWY_EXPORT(swiglu_rows);
HWY_EXPORT(silu_rows);
HWY_EXPORT(convert_rows);

namespace {

/// A chunk's results stay in a cache until the next kernel reads them. More than this would leave it before, and each line of them would
/// have been read from memory only to be written over.
written where_to(const matrix& out) {
  constexpr std::int64_t most_cached_bytes = 32 << 20;
  return out.rows * out.columns * bytes_of(out.type) >= most_cached_bytes ? written::past_cache : written::as_usual;
}

}  // namespace

void embed(thread_pool& pool, const matrix& table, const std::int32_t* ids, const matrix& out) {
  require(table.type == out.type && table.columns == out.columns, "embed", "rows like those of the table");
  const auto bytes = static_cast<std::size_t>(out.columns * bytes_of(out.type));
  for_rows(pool, out.rows, out.columns, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t row = first; row < first + count; ++row) {
      require(ids[row] >= 0 && ids[row] < table.rows, "embed", "ids inside the table");
      std::memcpy(bytes_at(out.data, out.type, row * out.stride),
                  bytes_at(table.data, table.type, ids[row] * table.stride), bytes);
    }
  });
}

void rms_norm(thread_pool& pool, const matrix& x, const float* weight, float eps, const matrix& out) {
  require(x.type == out.type && x.rows == out.rows && x.columns == out.columns, "rms_norm", "an output like its input");
  const written where = where_to(out);
  for_rows(pool, x.rows, x.columns, [&](std::int64_t first, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(rms_norm_rows)(x, weight, eps, out, first, count, where);
    if (where == written::past_cache) hwy::FlushStream();
  });
}

void swiglu(thread_pool& pool, const matrix& gate_up, const matrix& out) {
  require(gate_up.type == out.type && gate_up.rows == out.rows && gate_up.columns == 2 * out.columns, "swiglu",
          "gate and up side by side, each as wide as the output");
  const written where = where_to(out);
  for_rows(pool, out.rows, gate_up.columns, [&](std::int64_t first, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(swiglu_rows)(gate_up, out, first, count, where);
    if (where == written::past_cache) hwy::FlushStream();
  });
}

void silu(thread_pool& pool, const matrix& x) {
  for_rows(pool, x.rows, x.columns, [&](std::int64_t first, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(silu_rows)(x, first, count);
  });
}

void copy(thread_pool& pool, const matrix& from, const matrix& to) {
  require(from.rows == to.rows && from.columns == to.columns, "copy", "two views of one shape");
  if (from.type != to.type) {
    for_rows(pool, from.rows, from.columns, [&](std::int64_t first, std::int64_t count) {
      HWY_DYNAMIC_DISPATCH(convert_rows)(from, to, first, count);
    });
  } else if (from.stride == from.columns && to.stride == to.columns) {
    for_rows(pool, from.rows * from.columns, 1, [&](std::int64_t first, std::int64_t count) {
      std::memcpy(bytes_at(to.data, to.type, first), bytes_at(from.data, from.type, first),
                  static_cast<std::size_t>(count * bytes_of(from.type)));
    });
  } else {
    const auto bytes = static_cast<std::size_t>(from.columns * bytes_of(from.type));
    for_rows(pool, from.rows, from.columns, [&](std::int64_t first, std::int64_t count) {
      for (std::int64_t row = first; row < first + count; ++row) {
        std::memcpy(bytes_at(to.data, to.type, row * to.stride), bytes_at(from.data, from.type, row * from.stride),
                    bytes);
      }
    });
  }
}

}  // namespace baton::cpu
#endif  // HWY_ONCE
