#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/thread_pool.hpp"
#include "kernels/tensor.hpp"

namespace baton::cpu {

/// What chooses the KV units that travel: scores per token and KV head, (T, n_kv) fp32, pooled, the best of them selected and
/// gathered (APB, arXiv 2502.12085, section 3.3). Contracts in kernels/backend.hpp. Called by the device's compute thread.

/// out (n_kv, D) fp32: the mean of q (T, n_q, D) over tokens and over the heads of each group; 0 where T = 0.
void mean_query(thread_pool& pool, const head_matrix& q, const matrix& out);

/// scores[t, g] = keys[t, g] . mean_query[g].
void score_keys(thread_pool& pool, const head_matrix& keys, const matrix& mean_query, const matrix& scores);

/// scores[t, g] = t.
void score_recent(thread_pool& pool, const matrix& scores);

/// scores[t, g] = random_score(seed, layer, g, first_token + t).
void score_random(thread_pool& pool, std::uint64_t seed, int layer, std::int64_t first_token, const matrix& scores);

/// out[t] = max of scores[t - 2 .. t + 2] inside [0, T). A NaN counts as -inf.
void max_pool(thread_pool& pool, const matrix& scores, const matrix& out);

/// Bytes that select_top needs for `tokens` scores of each of `kv_heads`.
[[nodiscard]] std::size_t select_workspace_bytes(std::int64_t tokens, int kv_heads);

/// Per KV head the `count` best of tokens [eligible_from, T), ascending; of equal scores the lower index, NaN below all.
/// indices (n_kv, count). `workspace` is aligned to 8 bytes.
void select_top(thread_pool& pool, const matrix& scores, std::int64_t eligible_from, std::int64_t count,
                std::int32_t* indices, std::byte* workspace);

/// out[u, g] = x[indices[g, u], g]. x (T, n_kv, D), indices (n_kv, count), out (count, n_kv, D) of x's type.
void gather(thread_pool& pool, const head_matrix& x, const std::int32_t* indices, const head_matrix& out);

}  // namespace baton::cpu
