#pragma once

#include <cstdint>

#include "kernels/cuda/stream_handle.hpp"
#include "kernels/tensor.hpp"

namespace baton::cuda {

/// to[row, column] = random_weights(seed, scale)(row * columns + column), rounded (kernels/random_weight.hpp).
void launch_fill_random(stream_handle s, const matrix& to, std::uint64_t seed, float scale);

}  // namespace baton::cuda
