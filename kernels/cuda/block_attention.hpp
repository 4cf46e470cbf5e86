#pragma once

#include "kernels/backend.hpp"
#include "kernels/cuda/stream_handle.hpp"
#include "kernels/tensor.hpp"

namespace baton::cuda {

/// Throws fault(internal) where attention was given what backend::attend does not take.
void require_attention(const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                       const attention_mask& mask, const head_matrix& out, const matrix& log_sum_exp);

/// backend::attend by a kernel of our own, for any lengths and heads of up to 256 numbers: what cuDNN does not take, or where it is
/// not there. keys, values (keys, n_kv, D) as they stand, in whatever stride.
void launch_block_attention(stream_handle s, const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                            const attention_mask& mask, float scale, const head_matrix& out, const matrix& log_sum_exp,
                            attention_result result);

/// Puts an attention that stands apart where it belongs: part (T, n_q, D) without gaps, part_log_sum_exp (n_q, T) fp32. Merging
/// reads and overwrites out and log_sum_exp; otherwise `part` may be `out` itself, and only log_sum_exp is written.
void launch_settle_attention(stream_handle s, const head_matrix& part, const float* part_log_sum_exp,
                             const head_matrix& out, const matrix& log_sum_exp, attention_result result);

}  // namespace baton::cuda
