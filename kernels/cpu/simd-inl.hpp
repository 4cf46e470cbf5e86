// Loads, stores and reductions of activations for one instruction set. Include it after hwy/foreach_target.h; like Highway's
// own headers it is read once per target, hence this guard.
#if defined(BATON_KERNELS_CPU_SIMD_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#ifdef BATON_KERNELS_CPU_SIMD_INL_HPP
#undef BATON_KERNELS_CPU_SIMD_INL_HPP
#else
#define BATON_KERNELS_CPU_SIMD_INL_HPP
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace baton::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Activations are float or bf16, the latter held as std::uint16_t. All arithmetic is fp32.
using float_lanes = hn::ScalableTag<float>;
using float_vector = hn::Vec<float_lanes>;

/// How much of a vector a load or store means: all of it, or the first `count` lanes (the others load as 0 and are not stored).
struct whole {};
struct part {
  std::size_t count;
};

HWY_INLINE float_vector load(float_lanes d, const float* from, whole) { return hn::LoadU(d, from); }

HWY_INLINE float_vector load(float_lanes d, const std::uint16_t* from, whole) {
  const hn::Rebind<std::uint16_t, float_lanes> d16;
  const hn::Rebind<std::uint32_t, float_lanes> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, from))));
}

HWY_INLINE void store(float_lanes d, float_vector v, float* to, whole) { hn::StoreU(v, d, to); }

/// The bits of bf16 in the upper halves. Rounds to nearest, ties to even, with integers: every instruction set gives the same bits. A NaN
/// stays one.
HWY_INLINE hn::Vec<hn::Rebind<std::uint32_t, float_lanes>> rounded_bits(float_vector v) {
  const hn::Rebind<std::uint32_t, float_lanes> d32;
  const auto bits = hn::BitCast(d32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fff)));
  const auto quiet_nan = hn::Or(bits, hn::Set(d32, 0x00400000));
  return hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(v)), quiet_nan, rounded);
}

HWY_INLINE void store(float_lanes, float_vector v, std::uint16_t* to, whole) {
  const hn::Rebind<std::uint16_t, float_lanes> d16;
  const hn::Rebind<std::int32_t, float_lanes> di32;
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di32, hn::ShiftRight<16>(rounded_bits(v)))), d16, to);
}

/// Two vectors one behind the other, the same bits as `store` gives each; faster, for narrowing one vector alone wastes half a register.
HWY_INLINE void store_two(float_lanes d, float_vector low, float_vector high, float* to) {
  hn::StoreU(low, d, to);
  hn::StoreU(high, d, to + hn::Lanes(d));
}

HWY_INLINE void store_two(float_lanes d, float_vector low, float_vector high, std::uint16_t* to) {
#if HWY_TARGET == HWY_SCALAR
  store(d, low, to, whole{});
  store(d, high, to + hn::Lanes(d), whole{});
#else
  const hn::Repartition<std::uint16_t, float_lanes> d16;
  static_cast<void>(d);
  hn::StoreU(hn::ConcatOdd(d16, hn::BitCast(d16, rounded_bits(high)), hn::BitCast(d16, rounded_bits(low))), d16, to);
#endif
}

// Parts go through a buffer: a masked load may touch memory behind the row on some targets.
template <class T>
HWY_INLINE float_vector load(float_lanes d, const T* from, part lanes) {
  alignas(64) T buffer[hn::MaxLanes(float_lanes())] = {};
  for (std::size_t i = 0; i < lanes.count; ++i) buffer[i] = from[i];
  return load(d, buffer, whole{});
}

template <class T>
HWY_INLINE void store(float_lanes d, float_vector v, T* to, part lanes) {
  alignas(64) T buffer[hn::MaxLanes(float_lanes())];
  store(d, v, buffer, whole{});
  for (std::size_t i = 0; i < lanes.count; ++i) to[i] = buffer[i];
}

/// Calls body(i, whole or part) for the vectors that cover [0, count).
template <class Body>
HWY_INLINE void for_vectors(std::size_t count, Body&& body) {
  const std::size_t step = hn::Lanes(float_lanes());
  std::size_t i = 0;
  for (; i + step <= count; i += step) body(i, whole{});
  if (i < count) body(i, part{count - i});
}

/// to[i] = value(i, whole or part) for [0, count), in vectors. `to` may be what `value` reads, at the same places.
template <class T, class Value>
HWY_INLINE void map_to(T* to, std::size_t count, Value&& value) {
  const float_lanes d;
  const std::size_t step = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + 2 * step <= count; i += 2 * step) store_two(d, value(i, whole{}), value(i + step, whole{}), to + i);
  for_vectors(count - i, [&](std::size_t j, auto lanes) HWY_ATTR { store(d, value(i + j, lanes), to + i + j, lanes); });
}

/// body(0), body(1), ... body(count - 1) with constants, so that what they index stays in registers.
template <std::size_t count, class Body>
HWY_INLINE void unrolled(Body&& body) {
  [&]<std::size_t... i>(std::index_sequence<i...>) HWY_ATTR { (body(std::integral_constant<std::size_t, i>{}), ...); }
  (std::make_index_sequence<count>{});
}

/// As map_to, but what is written goes to memory past the caches, which saves reading it first: for results that no cache holds until
/// they are read. `to` starts at a multiple of 64 bytes. Others see them after hwy::FlushStream.
template <class T, class Value>
HWY_INLINE void map_past_cache(T* to, std::size_t count, Value&& value) {
  const float_lanes d;
  const std::size_t step = hn::Lanes(d);
  alignas(64) T buffer[2 * hn::MaxLanes(float_lanes())];
  const hn::ScalableTag<T> all;
  std::size_t i = 0;
  for (; i + 2 * step <= count; i += 2 * step) {
    store_two(d, value(i, whole{}), value(i + step, whole{}), buffer);
    for (std::size_t j = 0; j < 2 * step; j += hn::Lanes(all)) hn::Stream(hn::Load(all, buffer + j), all, to + i + j);
  }
  for_vectors(count - i, [&](std::size_t j, auto lanes) HWY_ATTR { store(d, value(i + j, lanes), to + i + j, lanes); });
}

/// 2^(x factor), where that is a normal number. Relative error below 1e-6, as in online_softmax.cpp.
HWY_INLINE float_vector power_of_two_of(float_lanes d, float_vector x, float_vector factor) {
  const hn::RebindToSigned<float_lanes> di;
  constexpr float round = 0x1.8p23f;  // added, it leaves no place for a fraction: the exponent stands in the low bits
  const auto rounded = hn::MulAdd(x, factor, hn::Set(d, round));
  const auto rest = hn::MulSub(x, factor, hn::Sub(rounded, hn::Set(d, round)));
  auto power = hn::Set(d, 0x1.5c08e6p-10f);
  power = hn::MulAdd(power, rest, hn::Set(d, 0x1.3d0c52p-7f));
  power = hn::MulAdd(power, rest, hn::Set(d, 0x1.c6b6e4p-5f));
  power = hn::MulAdd(power, rest, hn::Set(d, 0x1.ebf918p-3f));
  power = hn::MulAdd(power, rest, hn::Set(d, 0x1.62e428p-1f));
  power = hn::MulAdd(power, rest, hn::Set(d, 0x1.000002p+0f));
  const auto shifted = hn::ShiftLeft<23>(hn::BitCast(di, rounded));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, power), shifted));
}

HWY_INLINE float sum_of(float_lanes d, float_vector v) { return hn::GetLane(hn::SumOfLanes(d, v)); }

/// a . b in fp32, in an order that depends on `count` alone.
template <class A, class B>
HWY_INLINE float dot(const A* a, const B* b, std::size_t count) {
  const float_lanes d;
  const std::size_t step = hn::Lanes(d);
  auto sum0 = hn::Zero(d);
  auto sum1 = sum0;
  auto sum2 = sum0;
  auto sum3 = sum0;
  std::size_t i = 0;
  for (; i + 4 * step <= count; i += 4 * step) {
    sum0 = hn::MulAdd(load(d, a + i, whole{}), load(d, b + i, whole{}), sum0);
    sum1 = hn::MulAdd(load(d, a + i + step, whole{}), load(d, b + i + step, whole{}), sum1);
    sum2 = hn::MulAdd(load(d, a + i + 2 * step, whole{}), load(d, b + i + 2 * step, whole{}), sum2);
    sum3 = hn::MulAdd(load(d, a + i + 3 * step, whole{}), load(d, b + i + 3 * step, whole{}), sum3);
  }
  for_vectors(count - i, [&](std::size_t j, auto lanes) HWY_ATTR {
    sum0 = hn::MulAdd(load(d, a + i + j, lanes), load(d, b + i + j, lanes), sum0);
  });
  return sum_of(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3)));
}

}  // namespace baton::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // BATON_KERNELS_CPU_SIMD_INL_HPP
