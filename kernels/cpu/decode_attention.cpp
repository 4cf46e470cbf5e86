#include "kernels/cpu/decode_attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "kernels/cpu/launch.hpp"

#ifndef BATON_KERNELS_CPU_DECODE_ATTENTION_ONCE
#define BATON_KERNELS_CPU_DECODE_ATTENTION_ONCE

namespace baton::cpu {
namespace {

/// One split's keys are seen by one thread: many splits for parallelism, long ones for little to combine.
constexpr std::int64_t split_keys = 1024;
/// Keys and values of a block stay in the nearest cache while all rows of a query group go over them.
constexpr std::int64_t block_keys = 64;
/// Queries of one pass over the keys: enough for arithmetic to outweigh reading, few enough for a small workspace.
constexpr std::int64_t pass_queries = 16;
/// Query rows that go over a block's keys and values together, and share what is loaded of them.
constexpr std::int64_t rows_at_once = 4;
/// Sums and queries in the order in which vectors hold them (load_two) are padded to multiples of this.
constexpr std::int64_t padding = 32;

constexpr float infinity = std::numeric_limits<float>::infinity();

std::int64_t splits_of(std::int64_t keys) { return (keys + split_keys - 1) / split_keys; }
std::int64_t padded(std::int64_t dim) { return (dim + padding - 1) / padding * padding; }

/// One pass: its part of the arguments, and where the partial results of each (split, query, head) stand.
struct few_queries {
  head_matrix q;
  head_matrix keys;
  head_matrix values;
  attention_mask mask;  ///< first_query is this pass's
  float scale;
  head_matrix out;
  matrix log_sum_exp;
  float* widened;  ///< (queries, heads, padded dim): q as load_two gives it
  float* sums;  ///< (splits, queries, heads, padded dim): of exp(score - largest) times the value, in load_two's order
  float* weights;  ///< (splits, queries, heads): of exp(score - largest)
  float* largest;  ///< (splits, queries, heads): of the scores

  [[nodiscard]] std::int64_t splits() const { return splits_of(mask.keys); }
  [[nodiscard]] std::int64_t width() const { return padded(q.dim); }
  [[nodiscard]] std::int64_t row(std::int64_t split, std::int64_t query, std::int64_t head) const {
    return (split * q.tokens + query) * q.heads + head;
  }
};

/// KV heads that one thread computes together.
struct head_range {
  std::int64_t first;
  std::int64_t count;
};

/// The running state of some query heads within a split.
struct query_rows {
  const float* q[rows_at_once];  ///< widened
  float* sums[rows_at_once];
  float* weight[rows_at_once];
  float* largest[rows_at_once];
  std::int64_t visible[rows_at_once];  ///< keys of the block that the row sees
  std::int64_t most_visible;
};

}  // namespace
}  // namespace baton::cpu

#endif  // BATON_KERNELS_CPU_DECODE_ATTENTION_ONCE

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/decode_attention.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace baton::cpu::HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_SCALAR

/// The sums of four vectors' lanes, times `scale`.
HWY_INLINE void store_sums(float_lanes d, float_vector a, float_vector b, float_vector c, float_vector e, float scale,
                           float* to) {
  to[0] = sum_of(d, a) * scale;
  to[1] = sum_of(d, b) * scale;
  to[2] = sum_of(d, c) * scale;
  to[3] = sum_of(d, e) * scale;
}

#else

using four_lanes = hn::FixedTag<float, 4>;

/// A vector's 128-bit blocks made one.
template <class Fold>
HWY_INLINE hn::Vec<four_lanes> folded(four_lanes, hn::Vec<four_lanes> v, Fold) {
  return v;
}
template <class D, class V, class Fold>
HWY_INLINE hn::Vec<four_lanes> folded(D, V v, Fold fold) {
  const hn::Half<D> half;
  return folded(half, fold(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), fold);
}

struct add {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Add(a, b);
  }
};
struct larger {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Max(a, b);
  }
};

/// The sums of four vectors' lanes, times `scale`. Together they take fewer shuffles than four reductions.
HWY_INLINE void store_sums(float_lanes d, float_vector a, float_vector b, float_vector c, float_vector e, float scale,
                           float* to) {
  const hn::Repartition<std::uint64_t, float_lanes> d64;
  const four_lanes d4;
  const auto ab = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  const auto ce = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
  const auto even = hn::BitCast(d, hn::InterleaveLower(d64, ab, ce));
  const auto odd = hn::BitCast(d, hn::InterleaveUpper(d64, ab, ce));
  hn::StoreU(hn::Mul(folded(d, hn::Add(even, odd), add()), hn::Set(d4, scale)), d4, to);
}

#endif

/// Both vectors' worth of numbers that stand side by side: of bf16 the even ones and the odd ones, which takes half the instructions of
/// widening them in their order.
HWY_INLINE void load_two(float_lanes d, const float* from, whole, float_vector& low, float_vector& high) {
  low = hn::LoadU(d, from);
  high = hn::LoadU(d, from + hn::Lanes(d));
}
HWY_INLINE void load_two(float_lanes d, const std::uint16_t* from, whole, float_vector& low, float_vector& high) {
#if HWY_TARGET == HWY_SCALAR
  low = load(d, from, whole{});
  high = load(d, from + 1, whole{});
#else
  const hn::Repartition<std::uint16_t, float_lanes> d16;
  const hn::Repartition<std::uint32_t, float_lanes> d32;
  const auto pairs = hn::BitCast(d32, hn::LoadU(d16, from));
  low = hn::BitCast(d, hn::ShiftLeft<16>(pairs));
  high = hn::BitCast(d, hn::And(pairs, hn::Set(d32, 0xffff0000U)));
#endif
}
template <class T>
HWY_INLINE void load_two(float_lanes d, const T* from, part numbers, float_vector& low, float_vector& high) {
  alignas(64) T buffer[2 * hn::MaxLanes(float_lanes())] = {};
  for (std::size_t i = 0; i < numbers.count; ++i) buffer[i] = from[i];
  load_two(d, buffer, whole{}, low, high);
}

/// `count` numbers in their order again; T: what load_two loaded.
template <class T>
HWY_INLINE void store_in_order(float_lanes d, float_vector low, float_vector high, std::size_t count, float* to) {
  alignas(64) float buffer[2 * hn::MaxLanes(float_lanes())];
  float* const into = count < 2 * hn::Lanes(d) ? buffer : to;
  if constexpr (HWY_TARGET == HWY_SCALAR || sizeof(T) == sizeof(float)) {
    hn::StoreU(low, d, into);
    hn::StoreU(high, d, into + hn::Lanes(d));
  } else {
    hn::StoreInterleaved2(low, high, d, into);
  }
  if (into == buffer) std::copy_n(buffer, count, to);
}

/// Calls body(i, whole or part) for the pairs of vectors that cover [0, count).
template <class Body>
HWY_INLINE void for_two_vectors(std::size_t count, Body&& body) {
  const std::size_t step = 2 * hn::Lanes(float_lanes());
  std::size_t i = 0;
  for (; i + step <= count; i += step) body(i, whole{});
  if (i < count) body(i, part{count - i});
}

/// The keys or values that the next block will read. Heads are computed one after another, which the hardware cannot foresee;
/// so each of them asks for its share of the next block's lines, in the order in which these lie in memory, and evenly over its work: who
/// asks for many at once waits for them.
template <class T>
class next_block {
 public:
  /// rows: (count, heads, dim), so many numbers `stride` apart; `share`: which head asks.
  next_block(const T* rows, std::int64_t stride, std::int64_t count, std::int64_t numbers, std::int64_t heads,
             std::int64_t share)
      : row_(rows), stride_(stride), lines_((numbers + line - 1) / line) {
    const std::int64_t first = count * lines_ * share / heads;
    left_ = total_ = count * lines_ * (share + 1) / heads - first;
    row_ += first / lines_ * stride;
    at_ = first % lines_;
  }

  /// How many lines each of `calls` calls is to ask for.
  [[nodiscard]] std::int64_t for_each_of(std::int64_t calls) const { return (total_ + calls - 1) / calls; }
  HWY_INLINE void prefetch(std::int64_t lines) {
    constexpr int into_second_level_cache = 2;
    for (; lines > 0 && left_ > 0; --lines, --left_) {
      __builtin_prefetch(row_ + at_ * line, 0, into_second_level_cache);
      if (++at_ < lines_) continue;
      at_ = 0;
      row_ += stride_;
    }
  }
  void ask_no_more() { left_ = 0; }

 private:
  static constexpr std::int64_t line = 64 / sizeof(T);
  const T* row_;
  std::int64_t stride_;
  std::int64_t lines_;  ///< of a row
  std::int64_t at_ = 0;
  std::int64_t total_ = 0;
  std::int64_t left_ = 0;
};

/// Scores stand key by key, and for each key of so many rows: what the rows take in a vector's 128-bit blocks.
template <std::size_t rows>
constexpr std::size_t row_places = rows == 3 ? 4 : rows;

/// Scores of some rows with the keys of a block that one of them sees; scores (block_keys, row_places).
template <std::size_t rows, class T>
HWY_INLINE void score_block(const query_rows& these, const T* keys, std::int64_t stride, std::size_t dim, float scale,
                            float* scores, next_block<T> next) {
  constexpr std::size_t keys_at_once = HWY_TARGET <= HWY_AVX3 || rows <= 2 ? 4 : 2;
  constexpr std::size_t places = row_places<rows>;
  const float_lanes d;
  const std::size_t width = hn::Lanes(d);
  const std::int64_t lines = next.for_each_of(block_keys / static_cast<std::int64_t>(keys_at_once));
  for (std::int64_t key = 0; key < these.most_visible; key += keys_at_once) {
    next.prefetch(lines);
    const T* k[keys_at_once];
    for (std::size_t j = 0; j < keys_at_once; ++j) {
      // Behind the last key the last one is read again; its scores are masked below.
      k[j] = keys + std::min(key + static_cast<std::int64_t>(j), these.most_visible - 1) * stride;
    }
    // Key by key, and row by row for each.
    float_vector sums[keys_at_once * places];
    unrolled<keys_at_once * places>([&](auto i) HWY_ATTR { sums[i] = hn::Zero(d); });
    for_two_vectors(dim, [&](std::size_t i, auto lanes) HWY_ATTR {
      float_vector low[keys_at_once], high[keys_at_once];
      unrolled<keys_at_once>([&](auto j) HWY_ATTR { load_two(d, k[j] + i, lanes, low[j], high[j]); });
      unrolled<rows>([&](auto r) HWY_ATTR {
        const auto q_low = hn::LoadU(d, these.q[r] + i);
        const auto q_high = hn::LoadU(d, these.q[r] + i + width);
        unrolled<keys_at_once>([&](auto j) HWY_ATTR {
          auto& sum = sums[j * places + r];
          sum = hn::MulAdd(q_low, low[j], sum);
        });
        unrolled<keys_at_once>([&](auto j) HWY_ATTR {
          auto& sum = sums[j * places + r];
          sum = hn::MulAdd(q_high, high[j], sum);
        });
      });
    });
    unrolled<keys_at_once * places / 4>([&](auto i) HWY_ATTR {
      store_sums(d, sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3], scale,
                 scores + key * static_cast<std::int64_t>(places) + 4 * i);
    });
  }
}

/// e^x of x <= 0; 0 where that is no normal number.
HWY_INLINE float_vector exp_of(float_lanes d, float_vector x) {
  const auto least = hn::Set(d, -86.0f);
  const auto raised = power_of_two_of(d, hn::Max(x, least), hn::Set(d, std::numbers::log2e_v<float>));
  return hn::IfThenElseZero(hn::Gt(x, least), raised);
}

#if HWY_TARGET != HWY_SCALAR

/// What `fold` makes of each row's lanes in a vector of row_places rows, over and over.
template <std::size_t rows, class Fold>
HWY_INLINE void fold_rows(float_lanes d, float_vector v, Fold fold, float* of_rows) {
  const four_lanes d4;
  auto four = folded(d, v, fold);
  if constexpr (row_places<rows> <= 2) four = fold(four, hn::Shuffle1032(four));
  if constexpr (row_places<rows> == 1) four = fold(four, hn::Shuffle2301(four));
  hn::Store(four, d4, of_rows);
}

#endif

/// Replaces scores by exp(score - largest so far) and says what the rows' earlier sums must be multiplied with.
template <std::size_t rows>
HWY_INLINE void soften(const query_rows& these, float* scores, float (&rescale)[rows_at_once]) {
  constexpr auto places = static_cast<std::int64_t>(row_places<rows>);
  const float_lanes d;
  // Whole vectors of keys.
  const auto step = std::max<std::int64_t>(static_cast<std::int64_t>(hn::Lanes(d)) / places, 1);
  const std::int64_t count = (these.most_visible + step - 1) / step * step;
  std::fill(scores + these.most_visible * places, scores + count * places, -infinity);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::int64_t key = these.visible[r]; key < these.most_visible; ++key) scores[key * places + r] = -infinity;
  }
  alignas(16) float block_largest[rows_at_once];
  alignas(16) float base[rows_at_once] = {};
  alignas(16) float total[rows_at_once];
#if HWY_TARGET == HWY_SCALAR
  for (std::size_t r = 0; r < rows; ++r) {
    block_largest[r] = -infinity;
    for (std::int64_t key = 0; key < count; ++key)
      block_largest[r] = std::max(block_largest[r], scores[key * places + r]);
  }
#else
  const auto end = static_cast<std::size_t>(count * places);
  auto most = hn::Set(d, -infinity);
  for (std::size_t i = 0; i < end; i += hn::Lanes(d)) most = hn::Max(most, hn::LoadU(d, scores + i));
  fold_rows<rows>(d, most, larger(), block_largest);
#endif
  for (std::size_t r = 0; r < rows; ++r) {
    const float before = *these.largest[r];
    const float now = these.visible[r] > 0 ? std::max(before, block_largest[r]) : before;
    rescale[r] = now == before ? 1.0f : std::exp(before - now);
    *these.largest[r] = now;
    for (std::size_t place = r; place < rows_at_once; place += row_places<rows>)
      base[place] = now == -infinity ? 0.0f : now;
  }
#if HWY_TARGET == HWY_SCALAR
  for (std::size_t r = 0; r < rows; ++r) {
    total[r] = 0;
    for (std::int64_t key = 0; key < count; ++key) {
      float& score = scores[key * places + r];
      score = hn::GetLane(exp_of(d, hn::Set(d, score - base[r])));
      total[r] += score;
    }
  }
#else
  const auto bases = hn::LoadDup128(d, base);
  auto sum = hn::Zero(d);
  for (std::size_t i = 0; i < end; i += hn::Lanes(d)) {
    const auto weight = exp_of(d, hn::Sub(hn::LoadU(d, scores + i), bases));
    hn::StoreU(weight, d, scores + i);
    sum = hn::Add(sum, weight);
  }
  fold_rows<rows>(d, sum, add(), total);
#endif
  for (std::size_t r = 0; r < rows; ++r) *these.weight[r] = *these.weight[r] * rescale[r] + total[r];
}

/// Sums of some rows, of `chunks` times two vectors of numbers: sums * rescale + weights times values.
template <std::size_t rows, std::size_t chunks, class T, class Lanes>
HWY_INLINE void add_value_strip(const query_rows& these, const T* values, std::int64_t stride, std::size_t first,
                                const float* weights, const float* rescale, next_block<T>& asks, std::int64_t lines,
                                Lanes lanes) {
  constexpr std::int64_t keys_a_call = 8;
  const float_lanes d;
  const std::size_t width = hn::Lanes(d);
  next_block<T> next = asks;
  float_vector sums[rows][2 * chunks];
  unrolled<rows>([&](auto r) HWY_ATTR {
    unrolled<2 * chunks>([&](auto v) HWY_ATTR {
      sums[r][v] = hn::Mul(hn::LoadU(d, these.sums[r] + first + v * width), hn::Set(d, rescale[r]));
    });
  });
  for (std::int64_t key = 0; key < these.most_visible;) {
    next.prefetch(lines);
    for (const std::int64_t end = std::min(key + keys_a_call, these.most_visible); key < end; ++key) {
      unrolled<chunks>([&](auto c) HWY_ATTR {
        float_vector low, high;
        load_two(d, values + first + 2 * c * width, lanes, low, high);
        unrolled<rows>([&](auto r) HWY_ATTR {
          const auto weight = hn::Set(d, weights[r]);
          sums[r][2 * c] = hn::MulAdd(weight, low, sums[r][2 * c]);
          sums[r][2 * c + 1] = hn::MulAdd(weight, high, sums[r][2 * c + 1]);
        });
      });
      values += stride;
      weights += row_places<rows>;
    }
  }
  unrolled<rows>([&](auto r) HWY_ATTR {
    unrolled<2 * chunks>([&](auto v) HWY_ATTR { hn::StoreU(sums[r][v], d, these.sums[r] + first + v * width); });
  });
  asks = next;
}

template <std::size_t rows, class T>
HWY_INLINE void add_values(const query_rows& these, const T* values, std::int64_t stride, std::size_t dim,
                           const float* weights, const float* rescale, next_block<T>& next) {
  constexpr std::size_t chunks = (HWY_TARGET <= HWY_AVX3 ? 8 : 4) / (rows <= 2 ? 2 : 4);
  const std::size_t two = 2 * hn::Lanes(float_lanes());
  const auto strips = static_cast<std::int64_t>((dim + chunks * two - 1) / (chunks * two));
  const std::int64_t lines = next.for_each_of(strips * block_keys / 8);
  std::size_t first = 0;
  for (; first + chunks * two <= dim; first += chunks * two)
    add_value_strip<rows, chunks>(these, values, stride, first, weights, rescale, next, lines, whole{});
  for (; first + two <= dim; first += two)
    add_value_strip<rows, 1>(these, values, stride, first, weights, rescale, next, lines, whole{});
  if (first < dim)
    add_value_strip<rows, 1>(these, values, stride, first, weights, rescale, next, lines, part{dim - first});
}

/// Some query rows with one KV head's keys of one block of a split.
template <std::size_t rows, class T>
HWY_NOINLINE void attend_rows(const few_queries& few, const query_rows& these, const T* keys, const T* values,
                              next_block<T>& next_keys, next_block<T>& next_values) {
  const auto dim = static_cast<std::size_t>(few.q.dim);
  alignas(64) float scores[block_keys * rows_at_once];
  alignas(16) float rescale[rows_at_once];
  score_block<rows>(these, keys, few.keys.stride, dim, few.scale, scores, next_keys);
  soften<rows>(these, scores, rescale);
  add_values<rows>(these, values, few.values.stride, dim, scores, rescale, next_values);
}

/// One KV head's keys of one block of a split.
template <class T>
void attend_block_as(const few_queries& few, const head_range& heads, std::int64_t kv_head, std::int64_t split,
                     std::int64_t block, std::int64_t last) {
  const int group = few.q.heads / few.keys.heads;
  const std::int64_t rows = few.q.tokens * group;
  const std::int64_t count = std::min(block_keys, last - block);
  const auto next_of = [&](const head_matrix& m) {
    const std::int64_t next_count = std::min(block_keys, last - block - count);
    const T* const next = head_of<T>(m, next_count > 0 ? block + count : block, heads.first);
    return next_block<T>(next, m.stride, std::max<std::int64_t>(next_count, 0), heads.count * m.dim, heads.count,
                         kv_head - heads.first);
  };
  next_block<T> next_keys = next_of(few.keys);
  next_block<T> next_values = next_of(few.values);
  const T* const keys = head_of<T>(few.keys, block, kv_head);
  const T* const values = head_of<T>(few.values, block, kv_head);
  for (std::int64_t index = 0; index < rows; index += rows_at_once) {
    const std::int64_t together = std::min(rows_at_once, rows - index);
    query_rows these{};
    for (std::int64_t r = 0; r < together; ++r) {
      const std::int64_t query = (index + r) / group;
      const std::int64_t head = kv_head * group + (index + r) % group;
      const std::int64_t place = few.row(split, query, head);
      const std::int64_t seen = few.mask.causal ? few.mask.first_query + query + 1 - block : count;
      these.q[r] = few.widened + (query * few.q.heads + head) * few.width();
      these.sums[r] = few.sums + place * few.width();
      these.weight[r] = few.weights + place;
      these.largest[r] = few.largest + place;
      these.visible[r] = std::clamp<std::int64_t>(seen, 0, count);
      these.most_visible = std::max(these.most_visible, these.visible[r]);
    }
    if (these.most_visible == 0) continue;
    switch (together) {
      case 1: attend_rows<1>(few, these, keys, values, next_keys, next_values); break;
      case 2: attend_rows<2>(few, these, keys, values, next_keys, next_values); break;
      case 3: attend_rows<3>(few, these, keys, values, next_keys, next_values); break;
      default: attend_rows<4>(few, these, keys, values, next_keys, next_values);
    }
    next_keys.ask_no_more();
    next_values.ask_no_more();
  }
}

/// One split of some KV heads, block by block, so that memory is read from front to back.
template <class T>
void attend_split_as(const few_queries& few, const head_range& heads, std::int64_t split) {
  const int group = few.q.heads / few.keys.heads;
  for (std::int64_t query = 0; query < few.q.tokens; ++query) {
    const std::int64_t first = few.row(split, query, heads.first * group);
    std::fill_n(few.sums + first * few.width(), heads.count * group * few.width(), 0.0f);
    std::fill_n(few.weights + first, heads.count * group, 0.0f);
    std::fill_n(few.largest + first, heads.count * group, -infinity);
  }
  const std::int64_t last = std::min(few.mask.keys, (split + 1) * split_keys);
  for (std::int64_t block = split * split_keys; block < last; block += block_keys) {
    for (std::int64_t head = heads.first; head < heads.first + heads.count; ++head) {
      attend_block_as<T>(few, heads, head, split, block, last);
    }
  }
}

template <class T>
void widen_as(const few_queries& few) {
  const float_lanes d;
  const auto dim = static_cast<std::size_t>(few.q.dim);
  float* to = few.widened;
  for (std::int64_t query = 0; query < few.q.tokens; ++query) {
    for (std::int64_t head = 0; head < few.q.heads; ++head, to += few.width()) {
      const T* const from = head_of<T>(few.q, query, head);
      for_two_vectors(dim, [&](std::size_t i, auto lanes) HWY_ATTR {
        float_vector low, high;
        load_two(d, from + i, lanes, low, high);
        hn::StoreU(low, d, to + i);
        hn::StoreU(high, d, to + i + hn::Lanes(d));
      });
    }
  }
}

template <class T>
void combine_as(const few_queries& few, std::int64_t query, std::int64_t head) {
  const float_lanes d;
  float* const out = head_of<float>(few.out, query, head);
  float largest = -infinity;
  for (std::int64_t split = 0; split < few.splits(); ++split) {
    largest = std::max(largest, few.largest[few.row(split, query, head)]);
  }
  // From now on the splits' weights are what their sums count.
  float total = 0;
  for (std::int64_t split = 0; split < few.splits(); ++split) {
    const std::int64_t row = few.row(split, query, head);
    const float weight = few.weights[row] == 0 ? 0.0f : std::exp(few.largest[row] - largest);
    total += weight * few.weights[row];
    few.weights[row] = weight;
  }
  row_of<float>(few.log_sum_exp, query)[head] = total > 0 ? largest + std::log(total) : -infinity;
  const auto scale = hn::Set(d, total > 0 ? 1 / total : 0.0f);
  const auto dim = static_cast<std::size_t>(few.out.dim);
  for (std::size_t i = 0; i < dim; i += 2 * hn::Lanes(d)) {
    auto low = hn::Zero(d);
    auto high = low;
    for (std::int64_t split = 0; split < few.splits(); ++split) {
      const std::int64_t row = few.row(split, query, head);
      if (few.weights[row] == 0) continue;
      const auto weight = hn::Set(d, few.weights[row]);
      const float* const sums = few.sums + row * few.width() + i;
      low = hn::MulAdd(weight, hn::LoadU(d, sums), low);
      high = hn::MulAdd(weight, hn::LoadU(d, sums + hn::Lanes(d)), high);
    }
    store_in_order<T>(d, hn::Mul(low, scale), hn::Mul(high, scale), std::min(dim - i, 2 * hn::Lanes(d)), out + i);
  }
}

template <class T>
void merge_rows_as(std::span<const head_matrix> parts, std::span<const matrix> lse, const head_matrix& out,
                   std::int64_t first, std::int64_t count) {
  const float_lanes d;
  thread_local std::vector<float> weights;
  weights.resize(parts.size());
  for (std::int64_t token = first; token < first + count; ++token) {
    for (int head = 0; head < out.heads; ++head) {
      float largest = -infinity;
      for (const matrix& part : lse) largest = std::max(largest, row_of<float>(part, token)[head]);
      float total = 0;
      for (std::size_t p = 0; p < parts.size(); ++p) {
        weights[p] = largest == -infinity ? 0.0f : std::exp(row_of<float>(lse[p], token)[head] - largest);
        total += weights[p];
      }
      const auto scale = hn::Set(d, total > 0 ? 1 / total : 0.0f);
      T* to = head_of<T>(out, token, head);
      for_vectors(static_cast<std::size_t>(out.dim), [&](std::size_t i, auto lanes) HWY_ATTR {
        auto sum = hn::Zero(d);
        for (std::size_t p = 0; p < parts.size(); ++p) {
          if (weights[p] == 0) continue;
          sum = hn::MulAdd(hn::Set(d, weights[p]), load(d, head_of<float>(parts[p], token, head) + i, lanes), sum);
        }
        store(d, hn::Mul(sum, scale), to + i, lanes);
      });
    }
  }
}

}  // namespace

void attend_split(const few_queries& few, const head_range& heads, std::int64_t split) {
  if (few.q.type == element_type::f32) {
    attend_split_as<float>(few, heads, split);
  } else {
    attend_split_as<std::uint16_t>(few, heads, split);
  }
}

void widen_queries(const few_queries& few) {
  if (few.q.type == element_type::f32) {
    widen_as<float>(few);
  } else {
    widen_as<std::uint16_t>(few);
  }
}

/// The results of one query and head out of those of its splits, in their order.
void combine_splits(const few_queries& few, std::int64_t query, std::int64_t head) {
  if (few.q.type == element_type::f32) {
    combine_as<float>(few, query, head);
  } else {
    combine_as<std::uint16_t>(few, query, head);
  }
}

void merge_rows(std::span<const head_matrix> parts, std::span<const matrix> lse, const head_matrix& out,
                std::int64_t first, std::int64_t count) {
  if (out.type == element_type::f32) {
    merge_rows_as<float>(parts, lse, out, first, count);
  } else {
    merge_rows_as<std::uint16_t>(parts, lse, out, first, count);
  }
}

}  // namespace baton::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::cpu {

HWY_EXPORT(widen_queries);
HWY_EXPORT(attend_split);
HWY_EXPORT(combine_splits);
HWY_EXPORT(merge_rows);

std::size_t decode_attention_workspace_bytes(std::int64_t keys, int heads, int dim) {
  const std::int64_t rows = pass_queries * heads;
  return static_cast<std::size_t>(rows * padded(dim) + splits_of(keys) * rows * (padded(dim) + 2)) * sizeof(float);
}

void attend_few(thread_pool& pool, const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                const attention_mask& mask, float scale, const head_matrix& out, const matrix& log_sum_exp,
                std::byte* workspace) {
  require(keys.type == q.type && values.type == q.type, "attend_few", "queries, keys and values of one type");
  require(keys.heads > 0 && q.heads % keys.heads == 0 && values.heads == keys.heads, "attend_few",
          "a whole number of query heads per KV head");
  require(keys.dim == q.dim && values.dim == q.dim, "attend_few", "queries, keys and values of one head size");
  require(mask.keys <= keys.tokens && mask.keys <= values.tokens, "attend_few", "as many keys as the mask says");
  require(out.type == element_type::f32 && out.tokens == q.tokens && out.heads == q.heads && out.dim == q.dim,
          "attend_few", "an fp32 output shaped like the queries");
  require(log_sum_exp.type == element_type::f32 && log_sum_exp.rows == q.tokens && log_sum_exp.columns == q.heads,
          "attend_few", "an fp32 log-sum-exp per query and head");
  for (std::int64_t first = 0; first < q.tokens; first += pass_queries) {
    const std::int64_t count = std::min(pass_queries, q.tokens - first);
    attention_mask pass_mask = mask;
    pass_mask.first_query += first;
    const std::int64_t splits = splits_of(mask.keys);
    const std::int64_t rows = splits * count * q.heads;
    const std::int64_t head_numbers = 2 * std::min(mask.keys, split_keys) * q.dim * count;
    auto* widened = reinterpret_cast<float*>(workspace);
    auto* sums = widened + count * q.heads * padded(q.dim);
    const few_queries few{q.slice(first, count),
                          keys,
                          values,
                          pass_mask,
                          scale,
                          out.slice(first, count),
                          log_sum_exp.slice_rows(first, count),
                          widened,
                          sums,
                          sums + rows * padded(q.dim),
                          sums + rows * (padded(q.dim) + 1)};
    HWY_DYNAMIC_DISPATCH(widen_queries)(few);
    // A token's heads lie side by side: a thread takes as many of them as leave work for every thread. A head's result does
    // not depend on the others.
    const std::int64_t together = std::clamp<std::int64_t>(splits * keys.heads / (2 * pool.size()), 1, keys.heads);
    const std::int64_t parts = (keys.heads + together - 1) / together;
    for_rows(pool, splits * parts, together * head_numbers, [&](std::int64_t first_part, std::int64_t part_count) {
      for (std::int64_t part = first_part; part < first_part + part_count; ++part) {
        const std::int64_t first_head = part % parts * together;
        const head_range heads{first_head, std::min(together, keys.heads - first_head)};
        HWY_DYNAMIC_DISPATCH(attend_split)(few, heads, part / parts);
      }
    });
    for_rows(pool, count * q.heads, splits * q.dim, [&](std::int64_t piece, std::int64_t pieces) {
      for (std::int64_t index = piece; index < piece + pieces; ++index) {
        HWY_DYNAMIC_DISPATCH(combine_splits)(few, index / q.heads, index % q.heads);
      }
    });
  }
}

void merge_attention(thread_pool& pool, std::span<const head_matrix> parts, std::span<const matrix> lse,
                     const head_matrix& out) {
  require(parts.size() == lse.size(), "merge_attention", "a log-sum-exp with each part");
  for (std::size_t p = 0; p < parts.size(); ++p) {
    require(parts[p].type == element_type::f32 && parts[p].tokens == out.tokens && parts[p].heads == out.heads &&
                parts[p].dim == out.dim,
            "merge_attention", "fp32 parts shaped like the output");
    require(lse[p].type == element_type::f32 && lse[p].rows == out.tokens && lse[p].columns == out.heads,
            "merge_attention", "an fp32 log-sum-exp per query and head");
  }
  const auto numbers = static_cast<std::int64_t>(parts.size()) * out.heads * out.dim;
  for_rows(pool, out.tokens, numbers, [&](std::int64_t first, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(merge_rows)(parts, lse, out, first, count);
  });
}

}  // namespace baton::cpu
#endif  // HWY_ONCE
