#pragma once

#include <cstdint>
#include <span>

#include "kernels/backend.hpp"
#include "kernels/cuda/stream_handle.hpp"
#include "kernels/tensor.hpp"

/// Token-wise kernels. Contracts in kernels/backend.hpp; what they leave undefined: an id outside the table gives a row of NaN,
/// a position outside the table turns nothing.
namespace baton::cuda {

void launch_embed(stream_handle s, const matrix& table, const std::int32_t* ids, const matrix& out);
void launch_rms_norm(stream_handle s, const matrix& x, const float* weight, float eps, const matrix& out);
void launch_swiglu(stream_handle s, const matrix& gate_up, const matrix& out);
void launch_silu(stream_handle s, const matrix& x);
/// Between views of one shape; numbers are converted where the types differ.
void launch_copy(stream_handle s, const matrix& from, const matrix& to);
/// `count` numbers of a checkpoint's type to bf16.
void launch_round(stream_handle s, const void* from, host_type type, void* to, std::int64_t count);
/// out += x, or x + bias, or both: x (T, columns) fp32, bias (columns) fp32 or null.
void launch_add(stream_handle s, const matrix& x, const float* bias, const matrix& out, bool accumulate);

void launch_fill_rope_table(stream_handle s, std::span<const float> inverse_frequencies, float amplitude,
                            const rope_table& table);
void launch_rotate(stream_handle s, const head_matrix& x, const std::int32_t* positions, const rope_table& table);
void launch_rotate_and_store(stream_handle s, const head_matrix& queries_keys, const head_matrix& values,
                             const std::int32_t* positions, const rope_table& table, std::int64_t skip,
                             const kv_rows& to);

}  // namespace baton::cuda
