#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/stream_handle.hpp"
#include "kernels/tensor.hpp"

/// Choosing the next token. Contracts in kernels/backend.hpp.
namespace baton::cuda {

/// A weight and an order for each id.
constexpr std::size_t sample_workspace_bytes(std::int64_t vocabulary) {
  return static_cast<std::size_t>(vocabulary) * 12;
}

void launch_sample_greedy(stream_handle s, const matrix& logits, std::int32_t* token);
/// Probabilities are whole numbers of 2^-44 of the likeliest one's, so that their sums have no order.
void launch_sample_top_p(stream_handle s, const matrix& logits, float temperature, float top_p, float uniform,
                         std::int32_t* token, std::byte* workspace);

}  // namespace baton::cuda
