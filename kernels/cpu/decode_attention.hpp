#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/backend.hpp"
#include "kernels/cpu/thread_pool.hpp"
#include "kernels/tensor.hpp"

namespace baton::cpu {

/// Attention of few queries over a long KV shard (query stage and decode), and the merge of partial results over ranks.
/// Contracts in kernels/backend.hpp. Called by the device's compute thread.

/// Bytes that attend_few needs for up to `keys` keys (of any number of queries), `heads` query heads of size `dim`.
[[nodiscard]] std::size_t decode_attention_workspace_bytes(std::int64_t keys, int heads, int dim);

/// softmax(scale q K^T) V over the first mask.keys of `keys` and `values`, in fixed splits of 1024 keys whose partial results
/// are combined in order (as in Flash-Decoding). q (T, n_q, D) and keys, values (keys, n_kv, D) of one type; out (T, n_q, D)
/// and log_sum_exp (T, n_q) fp32. A query without keys gets 0 and -inf. `workspace` is aligned to 64 bytes.
void attend_few(thread_pool& pool, const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                const attention_mask& mask, float scale, const head_matrix& out, const matrix& log_sum_exp,
                std::byte* workspace);

/// out = sum of exp(lse[i] - max) parts[i] over the sum of exp(lse[i] - max), in the order given. A part whose lse is -inf is
/// not read; where all are, out is 0.
void merge_attention(thread_pool& pool, std::span<const head_matrix> parts, std::span<const matrix> lse,
                     const head_matrix& out);

}  // namespace baton::cpu
