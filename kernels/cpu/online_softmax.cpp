#include "kernels/cpu/online_softmax.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "kernels/cpu/launch.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/online_softmax.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace baton::cpu::HWY_NAMESPACE {
namespace {

/// 2^(scale x - reference), for a whole reference that is at least scale x.
class power_of_two {
 public:
  HWY_INLINE power_of_two(float scale, float reference)
      : scale_(hn::Set(d_, scale)), shift_(hn::Set(d_, round_ - reference)) {}

  HWY_INLINE float_vector operator()(float_vector x) const {
    const hn::RebindToSigned<float_lanes> di;
    // Adding 1.5 * 2^23 leaves no place for a fraction: the exponent stands in the low bits, and rest in [-1/2, 1/2]
    // is exact.
    const auto rounded = hn::MulAdd(x, scale_, shift_);
    const auto rest = hn::MulSub(x, scale_, hn::Sub(rounded, shift_));
    auto power = hn::Set(d_, 0x1.5c08e6p-10f);
    power = hn::MulAdd(power, rest, hn::Set(d_, 0x1.3d0c52p-7f));
    power = hn::MulAdd(power, rest, hn::Set(d_, 0x1.c6b6e4p-5f));
    power = hn::MulAdd(power, rest, hn::Set(d_, 0x1.ebf918p-3f));
    power = hn::MulAdd(power, rest, hn::Set(d_, 0x1.62e428p-1f));
    power = hn::MulAdd(power, rest, hn::Set(d_, 0x1.000002p+0f));
    // 2^-100 stands for all that is less: it adds nothing to a sum that has a term above 1/2.
    const auto exponent = hn::BitCast(di, hn::Max(rounded, hn::Set(d_, round_ - 100.0f)));
    return hn::BitCast(d_, hn::Add(hn::BitCast(di, power), hn::ShiftLeft<23>(exponent)));
  }

 private:
  static constexpr float round_ = 0x1.8p23f;
  float_lanes d_;
  float_vector scale_;
  float_vector shift_;
};

HWY_INLINE float largest(const float* row, std::size_t count) {
  const float_lanes d;
  const std::size_t step = hn::Lanes(d);
  auto max0 = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto max1 = max0;
  std::size_t i = 0;
  for (; i + 2 * step <= count; i += 2 * step) {
    max0 = hn::Max(max0, hn::LoadU(d, row + i));
    max1 = hn::Max(max1, hn::LoadU(d, row + i + step));
  }
  for (; i < count; i += step) {
    const auto inside = hn::FirstN(d, count - i);
    max0 = hn::IfThenElse(inside, hn::Max(max0, hn::LoadU(d, row + i)), max0);
  }
  return hn::GetLane(hn::MaxOfLanes(d, hn::Max(max0, max1)));
}

HWY_INLINE void store_pair(float_vector low, float_vector high, float* to) {
  const float_lanes d;
  hn::StoreU(low, d, to);
  hn::StoreU(high, d, to + hn::Lanes(d));
}

HWY_INLINE void store_pair(float_vector low, float_vector high, std::uint16_t* to) {
#if HWY_TARGET == HWY_SCALAR
  const float_lanes d;
  store(d, low, to, whole{});
  store(d, high, to + 1, whole{});
#else
  // Powers are neither negative nor NaN, so that half a unit more and a cut round to nearest.
  const hn::RebindToUnsigned<float_lanes> d32;
  const hn::Repartition<std::uint16_t, float_lanes> d16;
  const auto half = hn::Set(d32, 0x8000);
  const auto low_bits = hn::BitCast(d16, hn::Add(hn::BitCast(d32, low), half));
  const auto high_bits = hn::BitCast(d16, hn::Add(hn::BitCast(d32, high), half));
  hn::StoreU(hn::ConcatOdd(d16, high_bits, low_bits), d16, to);
#endif
}

/// Writes the powers of a row's first `count` scores and 0 for the rest; returns their sum.
template <class T>
HWY_INLINE float raise(const float* scores, std::size_t count, std::size_t columns, const power_of_two& power, T* to) {
  const float_lanes d;
  const std::size_t step = hn::Lanes(d);
  auto sum0 = hn::Zero(d);
  auto sum1 = sum0;
  std::size_t i = 0;
  for (; i + 2 * step <= count; i += 2 * step) {
    const auto low = power(hn::LoadU(d, scores + i));
    const auto high = power(hn::LoadU(d, scores + i + step));
    sum0 = hn::Add(sum0, low);
    sum1 = hn::Add(sum1, high);
    store_pair(low, high, to + i);
  }
  if (i < count) {
    const auto low = hn::IfThenElseZero(hn::FirstN(d, count - i), power(hn::LoadU(d, scores + i)));
    const auto rest = count - i > step ? count - i - step : 0;
    const auto high = hn::IfThenElseZero(hn::FirstN(d, rest), power(hn::LoadU(d, scores + i + step)));
    sum0 = hn::Add(sum0, low);
    sum1 = hn::Add(sum1, high);
    store_pair(low, high, to + i);
    i += 2 * step;
  }
  std::fill(to + std::min(i, columns), to + columns, T{0});
  return sum_of(d, hn::Add(sum0, sum1));
}

HWY_INLINE void multiply(float* row, std::size_t count, float factor) {
  const float_lanes d;
  const auto factors = hn::Set(d, factor);
  for_vectors(count, [&](std::size_t i, auto lanes)
                         HWY_ATTR { store(d, hn::Mul(load(d, row + i, lanes), factors), row + i, lanes); });
}

template <class T>
void soften_as(const matrix& scores, float scale, const visible_keys& visible, const softmax_rows& state,
               const key_weights& weights, const matrix& sums) {
  const auto piece_keys = static_cast<std::size_t>(weights.piece_keys);
  for (std::int64_t row = 0; row < scores.rows; ++row) {
    const float* from = row_of<float>(scores, row);
    T* to = static_cast<T*>(weights.data) + row * weights.piece_keys;
    const std::int64_t seen = visible.of_first_row + (visible.causal ? row : 0);
    const auto count = static_cast<std::size_t>(std::clamp<std::int64_t>(seen, 0, scores.columns));
    float& reference = state.reference[row];
    float& sum = state.sum[row];
    if (count > 0) {
      const float moved = std::ceil(scale * largest(from, count));
      if (moved > reference) {
        const float factor = std::exp2(reference - moved);
        // Before the first key there is nothing to rescale, and the sums may hold anything.
        if (sum > 0) multiply(row_of<float>(sums, row), static_cast<std::size_t>(sums.columns), factor);
        sum *= factor;
        reference = moved;
      }
    }
    const power_of_two power(scale, reference);
    for (std::size_t first = 0; first < static_cast<std::size_t>(scores.columns); first += piece_keys) {
      const std::size_t seen_here = std::clamp(count, first, first + piece_keys) - first;
      sum += raise(from + first, seen_here, piece_keys, power, to);
      to += weights.piece_numbers;
    }
  }
}

template <class T>
void finish_row(const float* sums, float factor, T* out, float factor_of_old, std::size_t dim) {
  const float_lanes d;
  const auto factors = hn::Set(d, factor);
  const auto factors_of_old = hn::Set(d, factor_of_old);
  for_vectors(dim, [&](std::size_t i, auto lanes) HWY_ATTR {
    auto value = hn::Mul(load(d, sums + i, lanes), factors);
    if (factor_of_old != 0) value = hn::MulAdd(load(d, out + i, lanes), factors_of_old, value);
    store(d, value, out + i, lanes);
  });
}

template <class T>
void finish_as(const matrix& sums, const softmax_rows& state, const matrix& out, const matrix& log_sum_exp,
               attention_result result) {
  const auto dim = static_cast<std::size_t>(sums.columns);
  for (std::int64_t row = 0; row < sums.rows; ++row) {
    T* to = row_of<T>(out, row);
    float& total = *row_of<float>(log_sum_exp, row);
    const float old = result == attention_result::merge ? total : -std::numeric_limits<float>::infinity();
    const double sum = state.sum[row];
    if (sum == 0) {
      if (std::isinf(old)) std::fill(to, to + dim, T{0});
      total = old;
      continue;
    }
    const double own = (state.reference[row] + std::log2(sum)) * std::numbers::ln2;
    const double both = std::max<double>(old, own) + std::log1p(std::exp(-std::abs(old - own)));
    finish_row(row_of<float>(sums, row), static_cast<float>(std::exp(own - both) / sum), to,
               static_cast<float>(std::exp(old - both)), dim);
    total = static_cast<float>(both);
  }
}

}  // namespace

void soften_tile(const matrix& scores, float scale, const visible_keys& visible, const softmax_rows& state,
                 const key_weights& weights, const matrix& sums) {
  if (weights.type == element_type::f32) {
    soften_as<float>(scores, scale, visible, state, weights, sums);
  } else {
    soften_as<std::uint16_t>(scores, scale, visible, state, weights, sums);
  }
}

void finish_tile(const matrix& sums, const softmax_rows& state, const matrix& out, const matrix& log_sum_exp,
                 attention_result result) {
  if (out.type == element_type::f32) {
    finish_as<float>(sums, state, out, log_sum_exp, result);
  } else {
    finish_as<std::uint16_t>(sums, state, out, log_sum_exp, result);
  }
}

}  // namespace baton::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::cpu {

HWY_EXPORT(soften_tile);
HWY_EXPORT(finish_tile);

void softmax_rows::clear(std::int64_t rows) const {
  std::fill(reference, reference + rows, -std::numeric_limits<float>::infinity());
  std::fill(sum, sum + rows, 0.0f);
}

void soften(const matrix& scores, float scale_log2, const visible_keys& visible, const softmax_rows& state,
            const key_weights& weights, const matrix& sums) {
  HWY_DYNAMIC_DISPATCH(soften_tile)(scores, scale_log2, visible, state, weights, sums);
}

void finish(const matrix& sums, const softmax_rows& state, const matrix& out, const matrix& log_sum_exp,
            attention_result result) {
  HWY_DYNAMIC_DISPATCH(finish_tile)(sums, state, out, log_sum_exp, result);
}

}  // namespace baton::cpu
#endif  // HWY_ONCE
