#include "kernels/cpu/decode_attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
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

constexpr float infinity = std::numeric_limits<float>::infinity();

std::int64_t splits_of(std::int64_t keys) { return (keys + split_keys - 1) / split_keys; }

/// One pass: its part of the arguments, and where the partial results of each (split, query, head) stand.
struct few_queries {
  head_matrix q;
  head_matrix keys;
  head_matrix values;
  attention_mask mask;  ///< first_query is this pass's
  float scale;
  head_matrix out;
  matrix log_sum_exp;
  float* sums;     ///< (splits, queries, heads, dim): of exp(score - largest) times the value
  float* weights;  ///< (splits, queries, heads): of exp(score - largest)
  float* largest;  ///< (splits, queries, heads): of the scores

  [[nodiscard]] std::int64_t splits() const { return splits_of(mask.keys); }
  [[nodiscard]] std::int64_t row(std::int64_t split, std::int64_t query, std::int64_t head) const {
    return (split * q.tokens + query) * q.heads + head;
  }
};

/// KV heads that one thread computes together.
struct head_range {
  std::int64_t first;
  std::int64_t count;
};

}  // namespace
}  // namespace baton::cpu

#endif  // BATON_KERNELS_CPU_DECODE_ATTENTION_ONCE

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/decode_attention.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "hwy/contrib/math/math-inl.h"
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

HWY_INLINE hn::Vec<four_lanes> folded(four_lanes, hn::Vec<four_lanes> v) { return v; }

/// The sum of a vector's 128-bit blocks.
template <class D, class V>
HWY_INLINE hn::Vec<four_lanes> folded(D, V v) {
  const hn::Half<D> half;
  return folded(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
}

/// The sums of four vectors' lanes, times `scale`. Together they take fewer shuffles than four reductions.
HWY_INLINE void store_sums(float_lanes d, float_vector a, float_vector b, float_vector c, float_vector e, float scale,
                           float* to) {
  const hn::Repartition<std::uint64_t, float_lanes> d64;
  const four_lanes d4;
  const auto ab = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  const auto ce = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
  const auto even = hn::BitCast(d, hn::InterleaveLower(d64, ab, ce));
  const auto odd = hn::BitCast(d, hn::InterleaveUpper(d64, ab, ce));
  hn::StoreU(hn::Mul(folded(d, hn::Add(even, odd)), hn::Set(d4, scale)), d4, to);
}

#endif

/// One query head's running state within a split, and its scores of the current block.
template <class T>
struct query_row {
  const T* q;
  float* sums;
  float* weight;
  float* largest;
  std::int64_t visible;  ///< keys of the block that the query sees
  float* scores;         ///< (block_keys)
};

/// The keys or values that the next block will read. Heads are computed one after another, which the hardware cannot foresee;
/// so each of them asks for its share of the next block's rows, in the order in which these lie in memory.
template <class T>
struct next_block {
  const T* rows;  ///< (count, heads, dim)
  std::int64_t stride;
  std::int64_t count;  ///< 0: nothing to ask for
  std::int64_t heads;
  std::int64_t share;  ///< which head asks

  HWY_INLINE void prefetch(std::int64_t key, std::size_t dim) const {
    const std::int64_t place = share * block_keys + key;
    if (place >= count * heads) return;
    const T* row = rows + place / heads * stride + place % heads * static_cast<std::int64_t>(dim);
    constexpr int into_second_level_cache = 2;
    for (std::size_t i = 0; i < dim; i += 64 / sizeof(T)) __builtin_prefetch(row + i, 0, into_second_level_cache);
  }
};

/// Scores of both rows with keys [0, visible) of a block. Two rows and four keys at a time share their loads.
template <class T>
HWY_INLINE void score_block(const query_row<T>& a, const query_row<T>& b, const T* keys, std::int64_t stride,
                            std::int64_t visible, std::size_t dim, float scale, const next_block<T>& next) {
  const float_lanes d;
  for (std::int64_t key = 0; key < visible; key += 4) {
    for (std::int64_t i = key; i < key + 4; ++i) next.prefetch(i, dim);
    // Behind the last key the last one is read again; its scores are masked below.
    const T* k0 = keys + key * stride;
    const T* k1 = keys + std::min(key + 1, visible - 1) * stride;
    const T* k2 = keys + std::min(key + 2, visible - 1) * stride;
    const T* k3 = keys + std::min(key + 3, visible - 1) * stride;
    auto a0 = hn::Zero(d), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
    for_vectors(dim, [&](std::size_t i, auto lanes) HWY_ATTR {
      const auto qa = load(d, a.q + i, lanes);
      const auto qb = load(d, b.q + i, lanes);
      const auto v0 = load(d, k0 + i, lanes);
      a0 = hn::MulAdd(qa, v0, a0);
      b0 = hn::MulAdd(qb, v0, b0);
      const auto v1 = load(d, k1 + i, lanes);
      a1 = hn::MulAdd(qa, v1, a1);
      b1 = hn::MulAdd(qb, v1, b1);
      const auto v2 = load(d, k2 + i, lanes);
      a2 = hn::MulAdd(qa, v2, a2);
      b2 = hn::MulAdd(qb, v2, b2);
      const auto v3 = load(d, k3 + i, lanes);
      a3 = hn::MulAdd(qa, v3, a3);
      b3 = hn::MulAdd(qb, v3, b3);
    });
    store_sums(d, a0, a1, a2, a3, scale, a.scores + key);
    store_sums(d, b0, b1, b2, b3, scale, b.scores + key);
  }
}

/// Replaces a row's scores by exp(score - largest so far) and returns what its earlier sums must be multiplied with.
template <class T>
HWY_INLINE float soften(const query_row<T>& row) {
  const float_lanes d;
  std::fill(row.scores + row.visible, row.scores + block_keys, -infinity);
  auto block_largest = hn::Set(d, -infinity);
  for (std::size_t i = 0; i < block_keys; i += hn::Lanes(d)) {
    block_largest = hn::Max(block_largest, hn::LoadU(d, row.scores + i));
  }
  const float before = *row.largest;
  const float largest = row.visible > 0 ? std::max(before, hn::GetLane(hn::MaxOfLanes(d, block_largest))) : before;
  const auto base = hn::Set(d, largest == -infinity ? 0.0f : largest);
  auto total = hn::Zero(d);
  for (std::size_t i = 0; i < block_keys; i += hn::Lanes(d)) {
    const auto weight = hn::Exp(d, hn::Sub(hn::LoadU(d, row.scores + i), base));
    hn::StoreU(weight, d, row.scores + i);
    total = hn::Add(total, weight);
  }
  const float rescale = largest == before ? 1.0f : std::exp(before - largest);
  *row.weight = *row.weight * rescale + sum_of(d, total);
  *row.largest = largest;
  return rescale;
}

/// Both rows' sums = sums * rescale + weights times values [0, visible) of a block.
template <class T>
HWY_INLINE void add_values(const query_row<T>& a, const query_row<T>& b, float rescale_a, float rescale_b,
                           const T* values, std::int64_t stride, std::int64_t visible, std::size_t dim,
                           const next_block<T>& next) {
  const float_lanes d;
  const std::size_t step = hn::Lanes(d);
  const auto ra = hn::Set(d, rescale_a);
  const auto rb = hn::Set(d, rescale_b);
  std::size_t i = 0;
  for (; i + 4 * step <= dim; i += 4 * step) {
    auto a0 = hn::Mul(hn::LoadU(d, a.sums + i), ra);
    auto a1 = hn::Mul(hn::LoadU(d, a.sums + i + step), ra);
    auto a2 = hn::Mul(hn::LoadU(d, a.sums + i + 2 * step), ra);
    auto a3 = hn::Mul(hn::LoadU(d, a.sums + i + 3 * step), ra);
    auto b0 = hn::Mul(hn::LoadU(d, b.sums + i), rb);
    auto b1 = hn::Mul(hn::LoadU(d, b.sums + i + step), rb);
    auto b2 = hn::Mul(hn::LoadU(d, b.sums + i + 2 * step), rb);
    auto b3 = hn::Mul(hn::LoadU(d, b.sums + i + 3 * step), rb);
    for (std::int64_t key = 0; key < visible; ++key) {
      if (i == 0) next.prefetch(key, dim);
      const T* value = values + key * stride + i;
      const auto wa = hn::Set(d, a.scores[key]);
      const auto wb = hn::Set(d, b.scores[key]);
      const auto v0 = load(d, value, whole{});
      a0 = hn::MulAdd(wa, v0, a0);
      b0 = hn::MulAdd(wb, v0, b0);
      const auto v1 = load(d, value + step, whole{});
      a1 = hn::MulAdd(wa, v1, a1);
      b1 = hn::MulAdd(wb, v1, b1);
      const auto v2 = load(d, value + 2 * step, whole{});
      a2 = hn::MulAdd(wa, v2, a2);
      b2 = hn::MulAdd(wb, v2, b2);
      const auto v3 = load(d, value + 3 * step, whole{});
      a3 = hn::MulAdd(wa, v3, a3);
      b3 = hn::MulAdd(wb, v3, b3);
    }
    hn::StoreU(a0, d, a.sums + i);
    hn::StoreU(a1, d, a.sums + i + step);
    hn::StoreU(a2, d, a.sums + i + 2 * step);
    hn::StoreU(a3, d, a.sums + i + 3 * step);
    hn::StoreU(b0, d, b.sums + i);
    hn::StoreU(b1, d, b.sums + i + step);
    hn::StoreU(b2, d, b.sums + i + 2 * step);
    hn::StoreU(b3, d, b.sums + i + 3 * step);
  }
  for_vectors(dim - i, [&](std::size_t j, auto lanes) HWY_ATTR {
    auto sum_a = hn::Mul(load(d, a.sums + i + j, lanes), ra);
    auto sum_b = hn::Mul(load(d, b.sums + i + j, lanes), rb);
    for (std::int64_t key = 0; key < visible; ++key) {
      const auto v = load(d, values + key * stride + i + j, lanes);
      sum_a = hn::MulAdd(hn::Set(d, a.scores[key]), v, sum_a);
      sum_b = hn::MulAdd(hn::Set(d, b.scores[key]), v, sum_b);
    }
    store(d, sum_a, a.sums + i + j, lanes);
    store(d, sum_b, b.sums + i + j, lanes);
  });
}

/// One KV head's keys of one block of a split.
template <class T>
void attend_block_as(const few_queries& few, const head_range& heads, std::int64_t kv_head, std::int64_t split,
                     std::int64_t block, std::int64_t last) {
  const int group = few.q.heads / few.keys.heads;
  const std::int64_t rows = few.q.tokens * group;
  const auto dim = static_cast<std::size_t>(few.q.dim);
  const std::int64_t count = std::min(block_keys, last - block);
  const auto row_at = [&](std::int64_t index, float* scores) {
    const std::int64_t query = index / group;
    const std::int64_t head = kv_head * group + index % group;
    const std::int64_t place = few.row(split, query, head);
    const std::int64_t seen = few.mask.causal ? few.mask.first_query + query + 1 - block : count;
    return query_row<T>{head_of<T>(few.q, query, head),
                        few.sums + place * few.q.dim,
                        few.weights + place,
                        few.largest + place,
                        std::clamp<std::int64_t>(seen, 0, count),
                        scores};
  };
  const auto next_of = [&](const head_matrix& m) {
    const std::int64_t next_count = std::min(block_keys, last - block - count);
    return next_block<T>{next_count > 0 ? head_of<T>(m, block + count, heads.first) : nullptr, m.stride, next_count,
                         heads.count, kv_head - heads.first};
  };
  next_block<T> next_keys = next_of(few.keys);
  next_block<T> next_values = next_of(few.values);
  alignas(64) float scores[2][block_keys];
  for (std::int64_t index = 0; index < rows; index += 2) {
    const auto a = row_at(index, scores[0]);
    // An odd row is paired with itself: both write the same.
    const bool paired = index + 1 < rows;
    const auto b = paired ? row_at(index + 1, scores[1]) : a;
    const std::int64_t visible = std::max(a.visible, b.visible);
    if (visible == 0) continue;
    score_block(a, b, head_of<T>(few.keys, block, kv_head), few.keys.stride, visible, dim, few.scale, next_keys);
    const float rescale_a = soften(a);
    const float rescale_b = paired ? soften(b) : rescale_a;
    add_values(a, b, rescale_a, rescale_b, head_of<T>(few.values, block, kv_head), few.values.stride, visible, dim,
               next_values);
    next_keys.count = next_values.count = 0;
  }
}

/// One split of some KV heads, block by block, so that memory is read from front to back.
template <class T>
void attend_split_as(const few_queries& few, const head_range& heads, std::int64_t split) {
  const int group = few.q.heads / few.keys.heads;
  for (std::int64_t query = 0; query < few.q.tokens; ++query) {
    const std::int64_t first = few.row(split, query, heads.first * group);
    std::fill_n(few.sums + first * few.q.dim, heads.count * group * few.q.dim, 0.0f);
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

/// The results of one query and head out of those of its splits, in their order.
void combine_splits(const few_queries& few, std::int64_t query, std::int64_t head) {
  const float_lanes d;
  float* out = head_of<float>(few.out, query, head);
  float largest = -infinity;
  for (std::int64_t split = 0; split < few.splits(); ++split) {
    largest = std::max(largest, few.largest[few.row(split, query, head)]);
  }
  std::fill_n(out, few.out.dim, 0.0f);
  float total = 0;
  for (std::int64_t split = 0; split < few.splits(); ++split) {
    const std::int64_t row = few.row(split, query, head);
    if (few.weights[row] == 0) continue;
    const float weight = std::exp(few.largest[row] - largest);
    total += weight * few.weights[row];
    const float* sums = few.sums + row * few.q.dim;
    for_vectors(static_cast<std::size_t>(few.out.dim), [&](std::size_t i, auto lanes) HWY_ATTR {
      store(d, hn::MulAdd(hn::Set(d, weight), load(d, sums + i, lanes), load(d, out + i, lanes)), out + i, lanes);
    });
  }
  row_of<float>(few.log_sum_exp, query)[head] = total > 0 ? largest + std::log(total) : -infinity;
  const auto scale = hn::Set(d, total > 0 ? 1 / total : 0.0f);
  for_vectors(static_cast<std::size_t>(few.out.dim), [&](std::size_t i, auto lanes) HWY_ATTR {
    store(d, hn::Mul(load(d, out + i, lanes), scale), out + i, lanes);
  });
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

HWY_EXPORT(attend_split);
HWY_EXPORT(combine_splits);
HWY_EXPORT(merge_rows);

std::size_t decode_attention_workspace_bytes(std::int64_t keys, int heads, int dim) {
  const std::int64_t rows = splits_of(keys) * pass_queries * heads;
  return static_cast<std::size_t>(rows * (dim + 2)) * sizeof(float);
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
    auto* sums = reinterpret_cast<float*>(workspace);
    const few_queries few{q.slice(first, count),
                          keys,
                          values,
                          pass_mask,
                          scale,
                          out.slice(first, count),
                          log_sum_exp.slice_rows(first, count),
                          sums,
                          sums + rows * q.dim,
                          sums + rows * (q.dim + 1)};
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
