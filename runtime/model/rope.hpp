#pragma once

#include <vector>

#include "runtime/model/model_config.hpp"

namespace baton {

/// RoPE's inverse frequencies, (head_dim / 2), in radians per position: dimensions i and i + head_dim / 2 of a head
/// turn by the i-th of them for every position. Computed in fp32 in the order of transformers' operations, scaling
/// included. They are the same bits as PyTorch's without vector instructions; its vectorized `pow` is one unit in the
/// last place off in about one frequency of a hundred.
std::vector<float> rope_inverse_frequencies(const model_config& config);

/// What cosines and sines are multiplied by: 1, but for yarn.
float rope_amplitude(const model_config& config);

}  // namespace baton
