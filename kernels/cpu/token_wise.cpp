#include "kernels/cpu/token_wise.hpp"

#include <cmath>
#include <cstring>

#include "kernels/cpu/launch.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/token_wise.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "hwy/contrib/math/math-inl.h"
#include "kernels/cpu/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace baton::cpu::HWY_NAMESPACE {
namespace {

template <class T>
void rms_norm_as(const matrix& x, const float* weight, float eps, const matrix& out, std::int64_t first,
                 std::int64_t count) {
  const float_lanes d;
  const auto columns = static_cast<std::size_t>(x.columns);
  for (std::int64_t row = first; row < first + count; ++row) {
    const T* from = row_of<T>(x, row);
    T* to = row_of<T>(out, row);
    const float mean = dot(from, from, columns) / static_cast<float>(columns);
    const auto scale = hn::Set(d, 1.0f / std::sqrt(mean + eps));
    for_vectors(columns, [&](std::size_t i, auto lanes) HWY_ATTR {
      store(d, hn::Mul(hn::Mul(load(d, from + i, lanes), scale), load(d, weight + i, lanes)), to + i, lanes);
    });
  }
}

HWY_INLINE float_vector silu_of(float_lanes d, float_vector x) {
  // Where e^-x would overflow, silu is 0 to within fp32's smallest normal numbers.
  const auto exponent = hn::Min(hn::Neg(x), hn::Set(d, 88.0f));
  return hn::Div(x, hn::Add(hn::Set(d, 1.0f), hn::Exp(d, exponent)));
}

template <class T>
void swiglu_as(const matrix& gate_up, const matrix& out, std::int64_t first, std::int64_t count) {
  const float_lanes d;
  for (std::int64_t row = first; row < first + count; ++row) {
    const T* gate = row_of<T>(gate_up, row);
    const T* up = gate + out.columns;
    T* to = row_of<T>(out, row);
    for_vectors(static_cast<std::size_t>(out.columns), [&](std::size_t i, auto lanes) HWY_ATTR {
      store(d, hn::Mul(silu_of(d, load(d, gate + i, lanes)), load(d, up + i, lanes)), to + i, lanes);
    });
  }
}

template <class T>
void silu_as(const matrix& x, std::int64_t first, std::int64_t count) {
  const float_lanes d;
  for (std::int64_t row = first; row < first + count; ++row) {
    T* at = row_of<T>(x, row);
    for_vectors(static_cast<std::size_t>(x.columns), [&](std::size_t i, auto lanes) HWY_ATTR {
      store(d, silu_of(d, load(d, at + i, lanes)), at + i, lanes);
    });
  }
}

template <class From, class To>
void convert_as(const matrix& from, const matrix& to, std::int64_t first, std::int64_t count) {
  const float_lanes d;
  for (std::int64_t row = first; row < first + count; ++row) {
    const From* source = row_of<From>(from, row);
    To* target = row_of<To>(to, row);
    for_vectors(static_cast<std::size_t>(from.columns),
                [&](std::size_t i, auto lanes) HWY_ATTR { store(d, load(d, source + i, lanes), target + i, lanes); });
  }
}

}  // namespace

void rms_norm_rows(const matrix& x, const float* weight, float eps, const matrix& out, std::int64_t first,
                   std::int64_t count) {
  if (x.type == element_type::f32) {
    rms_norm_as<float>(x, weight, eps, out, first, count);
  } else {
    rms_norm_as<std::uint16_t>(x, weight, eps, out, first, count);
  }
}

void swiglu_rows(const matrix& gate_up, const matrix& out, std::int64_t first, std::int64_t count) {
  if (out.type == element_type::f32) {
    swiglu_as<float>(gate_up, out, first, count);
  } else {
    swiglu_as<std::uint16_t>(gate_up, out, first, count);
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
  for_rows(pool, x.rows, x.columns, [&](std::int64_t first, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(rms_norm_rows)(x, weight, eps, out, first, count);
  });
}

void swiglu(thread_pool& pool, const matrix& gate_up, const matrix& out) {
  require(gate_up.type == out.type && gate_up.rows == out.rows && gate_up.columns == 2 * out.columns, "swiglu",
          "gate and up side by side, each as wide as the output");
  for_rows(pool, out.rows, gate_up.columns, [&](std::int64_t first, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(swiglu_rows)(gate_up, out, first, count);
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
