#include "kernels/cpu/convert.hpp"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/launch.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/convert.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace baton::cpu::HWY_NAMESPACE {
namespace {

template <class From, class To>
void convert_as(const matrix& from, const matrix& to) {
  const float_lanes d;
  for (std::int64_t row = 0; row < from.rows; ++row) {
    const From* source = row_of<From>(from, row);
    To* target = row_of<To>(to, row);
    map_to(target, static_cast<std::size_t>(from.columns),
           [&](std::size_t i, auto lanes) HWY_ATTR { return load(d, source + i, lanes); });
  }
}

template <class To>
void add_as(const matrix& from, const matrix& to) {
  const float_lanes d;
  for (std::int64_t row = 0; row < from.rows; ++row) {
    const float* source = row_of<float>(from, row);
    To* target = row_of<To>(to, row);
    map_to(target, static_cast<std::size_t>(from.columns), [&](std::size_t i, auto lanes) HWY_ATTR {
      return hn::Add(load(d, source + i, lanes), load(d, target + i, lanes));
    });
  }
}

}  // namespace

void add_to_float(const matrix& from, const matrix& to) { add_as<float>(from, to); }
void add_to_bf16(const matrix& from, const matrix& to) { add_as<std::uint16_t>(from, to); }
void widen_rows(const matrix& from, const matrix& to) { convert_as<std::uint16_t, float>(from, to); }
void round_rows(const matrix& from, const matrix& to) { convert_as<float, std::uint16_t>(from, to); }

void widen_halves_of(const std::uint16_t* from, float* to, std::size_t count) {
  const float_lanes d;
  const hn::Rebind<hwy::float16_t, float_lanes> d16;
  const std::size_t step = hn::Lanes(d);
  const auto widen = [&](const std::uint16_t* at) HWY_ATTR {
    const hn::Rebind<std::uint16_t, float_lanes> bits;
    return hn::PromoteTo(d, hn::BitCast(d16, hn::LoadU(bits, at)));
  };
  std::size_t i = 0;
  for (; i + step <= count; i += step) hn::StoreU(widen(from + i), d, to + i);
  if (i == count) return;
  std::uint16_t rest[hn::MaxLanes(float_lanes())] = {};
  std::copy(from + i, from + count, rest);
  store(d, widen(rest), to + i, part{count - i});
}

}  // namespace baton::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::cpu {

HWY_EXPORT(widen_rows);
HWY_EXPORT(round_rows);
HWY_EXPORT(add_to_float);
HWY_EXPORT(add_to_bf16);
HWY_EXPORT(widen_halves_of);

void convert(const matrix& from, const matrix& to) {
  require(from.rows == to.rows && from.columns == to.columns, "convert", "two matrices of one shape");
  if (from.type != to.type) {
    if (from.type == element_type::bf16) return HWY_DYNAMIC_DISPATCH(widen_rows)(from, to);
    return HWY_DYNAMIC_DISPATCH(round_rows)(from, to);
  }
  const auto row_bytes = static_cast<std::size_t>(from.columns * bytes_of(from.type));
  for (std::int64_t row = 0; row < from.rows; ++row) {
    std::memcpy(bytes_at(to.data, to.type, row * to.stride), bytes_at(from.data, from.type, row * from.stride),
                row_bytes);
  }
}

void add(const matrix& from, const matrix& to) {
  require(from.type == element_type::f32 && from.rows == to.rows && from.columns == to.columns, "add",
          "two matrices of one shape, the first in fp32");
  if (to.type == element_type::f32) return HWY_DYNAMIC_DISPATCH(add_to_float)(from, to);
  HWY_DYNAMIC_DISPATCH(add_to_bf16)(from, to);
}

void widen_halves(const std::uint16_t* from, std::span<float> to) {
  HWY_DYNAMIC_DISPATCH(widen_halves_of)(from, to.data(), to.size());
}

}  // namespace baton::cpu
#endif  // HWY_ONCE
