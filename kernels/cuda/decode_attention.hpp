#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/backend.hpp"
#include "kernels/cuda/stream_handle.hpp"
#include "kernels/tensor.hpp"

/// Attention of few queries over a long KV shard (query stage and decode), and the merge of partial results over ranks.
/// Contracts in kernels/backend.hpp.
namespace baton::cuda {

/// Into how many parts the keys are split, each of so many keys (the last may have fewer).
struct key_splits {
  std::int64_t count = 1;
  std::int64_t keys = 0;
};

/// Queries that one launch takes; more go in several.
constexpr std::int64_t few_queries_max = 64;

constexpr int splits_max = 384;

/// As many splits as keep a GPU busy, from shapes alone, so that every GPU sums in the same order.
constexpr key_splits splits_for(std::int64_t queries, int heads, int kv_heads, std::int64_t keys) {
  constexpr std::int64_t blocks_wanted = splits_max;  // three on each of some 130 multiprocessors: one round
  constexpr std::int64_t step = 256;                  // four warps take 64 keys each
  const std::int64_t rows = queries * (heads / kv_heads);
  const std::int64_t blocks = kv_heads * ((rows + 15) / 16);
  const std::int64_t wanted = (blocks_wanted + blocks - 1) / blocks;
  const std::int64_t each = (keys + wanted - 1) / wanted;
  const std::int64_t rounded = each < step ? step : (each + step - 1) / step * step;
  return {keys <= rounded ? 1 : (keys + rounded - 1) / rounded, rounded};
}

/// For any number of queries, keys and KV heads: splits times queries (of a launch) times heads is bounded.
constexpr std::size_t decode_attention_workspace_bytes(int heads, int dim) {
  return static_cast<std::size_t>(16 * 384 + 2 * few_queries_max * heads) * static_cast<std::size_t>(dim + 1) * 4;
}

void launch_attend_few(stream_handle s, const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                       const attention_mask& mask, float scale, const head_matrix& out, const matrix& log_sum_exp,
                       std::byte* workspace);

/// At most 1000 parts.
void launch_merge_attention(stream_handle s, std::span<const head_matrix> parts, std::span<const matrix> lse,
                            const head_matrix& out);

}  // namespace baton::cuda
