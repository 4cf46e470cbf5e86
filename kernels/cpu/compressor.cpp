#include "kernels/cpu/compressor.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

#include "kernels/cpu/launch.hpp"
#include "kernels/cpu/ranking.hpp"
#include "kernels/random_score.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/compressor.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace baton::cpu::HWY_NAMESPACE {
namespace {

template <class T>
void mean_query_as(const head_matrix& q, const matrix& out, std::int64_t kv_head) {
  const float_lanes d;
  const std::int64_t group = q.heads / out.rows;
  const auto share = hn::Set(d, 1.0f / static_cast<float>(std::max<std::int64_t>(q.tokens * group, 1)));
  float* mean = row_of<float>(out, kv_head);
  std::fill_n(mean, q.dim, 0.0f);
  for (std::int64_t token = 0; token < q.tokens; ++token) {
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const T* from = head_of<T>(q, token, head);
      for_vectors(static_cast<std::size_t>(q.dim), [&](std::size_t i, auto lanes) HWY_ATTR {
        store(d, hn::Add(load(d, mean + i, lanes), load(d, from + i, lanes)), mean + i, lanes);
      });
    }
  }
  for_vectors(static_cast<std::size_t>(q.dim), [&](std::size_t i, auto lanes) HWY_ATTR {
    store(d, hn::Mul(load(d, mean + i, lanes), share), mean + i, lanes);
  });
}

template <class T>
void score_keys_as(const head_matrix& keys, const matrix& mean_query, const matrix& scores, std::int64_t first,
                   std::int64_t count) {
  for (std::int64_t token = first; token < first + count; ++token) {
    float* to = row_of<float>(scores, token);
    for (int head = 0; head < keys.heads; ++head) {
      to[head] =
          dot(head_of<T>(keys, token, head), row_of<float>(mean_query, head), static_cast<std::size_t>(keys.dim));
    }
  }
}

}  // namespace

void mean_query_head(const head_matrix& q, const matrix& out, std::int64_t kv_head) {
  if (q.type == element_type::f32) {
    mean_query_as<float>(q, out, kv_head);
  } else {
    mean_query_as<std::uint16_t>(q, out, kv_head);
  }
}

void score_key_rows(const head_matrix& keys, const matrix& mean_query, const matrix& scores, std::int64_t first,
                    std::int64_t count) {
  if (keys.type == element_type::f32) {
    score_keys_as<float>(keys, mean_query, scores, first, count);
  } else {
    score_keys_as<std::uint16_t>(keys, mean_query, scores, first, count);
  }
}

}  // namespace baton::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::cpu {
namespace {

/// Calls body(token, scores of that token) for every token of (T, n_kv) fp32 scores.
template <class Body>
void for_tokens(thread_pool& pool, const matrix& scores, Body&& body) {
  for_rows(pool, scores.rows, scores.columns, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t token = first; token < first + count; ++token) body(token, row_of<float>(scores, token));
  });
}

}  // namespace

HWY_EXPORT(mean_query_head);
HWY_EXPORT(score_key_rows);

void mean_query(thread_pool& pool, const head_matrix& q, const matrix& out) {
  require(out.type == element_type::f32 && out.columns == q.dim, "mean_query", "an fp32 output as wide as a head");
  require(out.rows > 0 && q.heads % out.rows == 0, "mean_query", "a whole number of query heads per KV head");
  for_rows(pool, out.rows, q.tokens * (q.heads / out.rows) * q.dim, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t head = first; head < first + count; ++head) HWY_DYNAMIC_DISPATCH(mean_query_head)(q, out, head);
  });
}

void score_keys(thread_pool& pool, const head_matrix& keys, const matrix& mean_query, const matrix& scores) {
  require(scores.type == element_type::f32 && scores.rows == keys.tokens && scores.columns == keys.heads, "score_keys",
          "an fp32 score per key and KV head");
  require(mean_query.type == element_type::f32 && mean_query.rows == keys.heads && mean_query.columns == keys.dim,
          "score_keys", "an fp32 mean query per KV head");
  for_rows(pool, keys.tokens, std::int64_t{keys.heads} * keys.dim, [&](std::int64_t first, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(score_key_rows)(keys, mean_query, scores, first, count);
  });
}

void score_recent(thread_pool& pool, const matrix& scores) {
  require(scores.type == element_type::f32, "score_recent", "fp32 scores");
  for_tokens(pool, scores,
             [&](std::int64_t token, float* to) { std::fill_n(to, scores.columns, static_cast<float>(token)); });
}

void score_random(thread_pool& pool, std::uint64_t seed, int layer, std::int64_t first_token, const matrix& scores) {
  require(scores.type == element_type::f32, "score_random", "fp32 scores");
  for_tokens(pool, scores, [&](std::int64_t token, float* to) {
    for (std::int64_t head = 0; head < scores.columns; ++head) {
      to[head] = random_score(seed, layer, static_cast<int>(head), first_token + token);
    }
  });
}

void max_pool(thread_pool& pool, const matrix& scores, const matrix& out) {
  require(scores.type == element_type::f32 && out.type == element_type::f32, "max_pool", "fp32 scores");
  require(scores.rows == out.rows && scores.columns == out.columns, "max_pool", "an output like its input");
  for_tokens(pool, out, [&](std::int64_t token, float* to) {
    std::fill_n(to, out.columns, -std::numeric_limits<float>::infinity());
    for (auto near = std::max<std::int64_t>(token - 2, 0); near <= std::min(token + 2, scores.rows - 1); ++near) {
      const float* from = row_of<float>(scores, near);
      for (std::int64_t head = 0; head < out.columns; ++head) to[head] = from[head] > to[head] ? from[head] : to[head];
    }
  });
}

std::size_t select_workspace_bytes(std::int64_t tokens, int kv_heads) {
  return static_cast<std::size_t>(tokens) * static_cast<std::size_t>(kv_heads) * sizeof(std::uint64_t);
}

void select_top(thread_pool& pool, const matrix& scores, std::int64_t eligible_from, std::int64_t count,
                std::int32_t* indices, std::byte* workspace) {
  const std::int64_t eligible = scores.rows - eligible_from;
  require(scores.type == element_type::f32, "select_top", "fp32 scores");
  require(scores.rows <= std::numeric_limits<std::int32_t>::max(), "select_top", "indices of 31 bits");
  require(eligible_from >= 0 && count >= 0 && (count == 0 || count <= eligible), "select_top",
          "a count of at most the eligible tokens");
  if (count == 0) return;
  // Selecting costs some 8 passes over the scores.
  for_rows(pool, scores.columns, 8 * eligible, [&](std::int64_t first_head, std::int64_t heads) {
    for (std::int64_t head = first_head; head < first_head + heads; ++head) {
      auto* rankings = reinterpret_cast<std::uint64_t*>(workspace) + head * eligible;
      const auto ranking_at = [&](std::int64_t token) {
        return ranking_of(row_of<float>(scores, token)[head], static_cast<std::uint32_t>(token));
      };
      for (std::int64_t i = 0; i < eligible; ++i) rankings[i] = ranking_at(eligible_from + i);
      std::nth_element(rankings, rankings + count - 1, rankings + eligible, std::greater<>());
      const std::uint64_t last_chosen = rankings[count - 1];
      std::int32_t* to = indices + head * count;
      for (std::int64_t token = eligible_from; token < scores.rows; ++token) {
        if (ranking_at(token) >= last_chosen) *to++ = static_cast<std::int32_t>(token);
      }
    }
  });
}

void gather(thread_pool& pool, const head_matrix& x, const std::int32_t* indices, const head_matrix& out) {
  require(x.type == out.type && x.heads == out.heads && x.dim == out.dim, "gather", "an output of x's type and heads");
  const auto bytes = static_cast<std::size_t>(x.dim * bytes_of(x.type));
  for_rows(pool, out.tokens, std::int64_t{x.heads} * x.dim, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t unit = first; unit < first + count; ++unit) {
      for (std::int64_t head = 0; head < x.heads; ++head) {
        const std::int32_t token = indices[head * out.tokens + unit];
        require(token >= 0 && token < x.tokens, "gather", "indices inside x");
        std::memcpy(bytes_at(out.data, out.type, unit * out.stride + head * out.dim),
                    bytes_at(x.data, x.type, token * x.stride + head * x.dim), bytes);
      }
    }
  });
}

}  // namespace baton::cpu
#endif  // HWY_ONCE
