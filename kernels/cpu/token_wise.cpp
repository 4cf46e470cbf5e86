#include "kernels/cpu/token_wise.hpp"

#include <cmath>
#include <cstring>
#include <numbers>

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
    map_to(to, columns, [&](std::size_t i, auto lanes) HWY_ATTR {
      return hn::Mul(hn::Mul(load(d, from + i, lanes), scale), load(d, weight + i, lanes));
    });
  }
}

/// x / (1 + e^-x). The power is 2^t with t = -x log2(e), cut where it would overflow or add nothing to 1: there silu is 0, or x, to within
/// fp32's smallest normal numbers. Relative error of the power below 1e-6, as in online_softmax.cpp.
HWY_INLINE float_vector silu_of(float_lanes d, float_vector x) {
  const hn::RebindToSigned<float_lanes> di;
  constexpr float round = 0x1.8p23f;  // added, it leaves no place for a fraction: the exponent stands in the low bits
  const auto log2e = hn::Set(d, -std::numbers::log2e_v<float>);
  const auto bounded = hn::Min(hn::Max(x, hn::Set(d, -86.0f)), hn::Set(d, 86.0f));
  const auto rounded = hn::MulAdd(bounded, log2e, hn::Set(d, round));
  const auto rest = hn::MulSub(bounded, log2e, hn::Sub(rounded, hn::Set(d, round)));
  auto power = hn::Set(d, 0x1.5c08e6p-10f);
  power = hn::MulAdd(power, rest, hn::Set(d, 0x1.3d0c52p-7f));
  power = hn::MulAdd(power, rest, hn::Set(d, 0x1.c6b6e4p-5f));
  power = hn::MulAdd(power, rest, hn::Set(d, 0x1.ebf918p-3f));
  power = hn::MulAdd(power, rest, hn::Set(d, 0x1.62e428p-1f));
  power = hn::MulAdd(power, rest, hn::Set(d, 0x1.000002p+0f));
  const auto shifted = hn::ShiftLeft<23>(hn::BitCast(di, rounded));
  const auto raised = hn::BitCast(d, hn::Add(hn::BitCast(di, power), shifted));
  return hn::Div(x, hn::Add(hn::Set(d, 1.0f), raised));
}

template <class T>
void swiglu_as(const matrix& gate_up, const matrix& out, std::int64_t first, std::int64_t count) {
  const float_lanes d;
  for (std::int64_t row = first; row < first + count; ++row) {
    const T* gate = row_of<T>(gate_up, row);
    const T* up = gate + out.columns;
    T* to = row_of<T>(out, row);
    map_to(to, static_cast<std::size_t>(out.columns), [&](std::size_t i, auto lanes) HWY_ATTR {
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
