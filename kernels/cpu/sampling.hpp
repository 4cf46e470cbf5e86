#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/thread_pool.hpp"
#include "kernels/tensor.hpp"

namespace baton::cpu {

/// Choosing the next token from logits (1, vocabulary) fp32. Contracts in kernels/backend.hpp. Called by the device's compute
/// thread. Of equal logits the lower id comes first; a NaN comes last and has no probability.

/// The id of the largest logit.
void sample_greedy(thread_pool& pool, const matrix& logits, std::int32_t* token);

/// Nucleus sampling (Holtzman et al. 2019): of softmax(logits / temperature) the smallest set of best tokens that has
/// probability >= top_p, its distribution inverted at `uniform` in [0, 1). temperature > 0, top_p in (0, 1].
/// `workspace` is aligned to 8 bytes.
void sample_top_p(thread_pool& pool, const matrix& logits, float temperature, float top_p, float uniform,
                  std::int32_t* token, std::byte* workspace);

/// Bytes that sample_top_p needs.
[[nodiscard]] std::size_t sample_workspace_bytes(std::int64_t vocabulary);

}  // namespace baton::cpu
