#pragma once

#include "kernels/cuda/stream_handle.hpp"
#include "kernels/tensor.hpp"

namespace baton::cuda {

/// Rows that launch_matvec takes at most.
constexpr std::int64_t matvec_rows_max = 4;

/// Whether launch_matvec takes these: few rows, all of them read by vectors of 16 bytes.
bool takes_matvec(const matrix& x, const matrix& weights, const matrix& out);

/// out = x W^T + bias, or out += that: as backend::linear, for the few rows of decoding, where reading the weights once is all the
/// work. weights (outputs, inputs) bf16; out bf16 or fp32.
void launch_matvec(stream_handle s, const matrix& x, const matrix& weights, const float* bias, const matrix& out,
                   bool accumulate);

/// The same for any shape and alignment, slowly: what no library takes.
void launch_plain_product(stream_handle s, const matrix& x, const matrix& weights, const float* bias, const matrix& out,
                          bool accumulate);

}  // namespace baton::cuda
