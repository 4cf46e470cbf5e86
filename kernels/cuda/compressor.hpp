#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/stream_handle.hpp"
#include "kernels/tensor.hpp"

/// The compressor's kernels. Contracts in kernels/backend.hpp.
namespace baton::cuda {

void launch_mean_query(stream_handle s, const head_matrix& q, const matrix& out);
void launch_score_keys(stream_handle s, const head_matrix& keys, const matrix& mean_query, const matrix& scores);
void launch_score_recent(stream_handle s, const matrix& scores);
void launch_score_random(stream_handle s, std::uint64_t seed, int layer, std::int64_t first_token,
                         const matrix& scores);
void launch_max_pool(stream_handle s, const matrix& scores, const matrix& out);

/// An order of 32 bits for each token and KV head.
constexpr std::size_t select_workspace_bytes(std::int64_t tokens, int kv_heads) {
  return static_cast<std::size_t>(tokens) * static_cast<std::size_t>(kv_heads) * 4;
}
void launch_select_top(stream_handle s, const matrix& scores, std::int64_t eligible_from, std::int64_t count,
                       std::int32_t* indices, std::byte* workspace);
/// Of an index outside x, a unit of NaN comes.
void launch_gather(stream_handle s, const head_matrix& x, const std::int32_t* indices, const head_matrix& out);

}  // namespace baton::cuda
