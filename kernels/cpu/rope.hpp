#pragma once

#include <cstdint>
#include <span>

#include "kernels/backend.hpp"
#include "kernels/cpu/thread_pool.hpp"
#include "kernels/tensor.hpp"

namespace baton::cpu {

/// Rotary position embedding. Contracts in kernels/backend.hpp. Called by the device's compute thread.

/// cos and sin of fp32(position) * inverse_frequencies[i], times amplitude, for the positions 0..rows-1 of the table,
/// (rows, D / 2) each.
void fill_rope_table(thread_pool& pool, std::span<const float> inverse_frequencies, float amplitude,
                     const rope_table& table);

/// Rotates x (T, heads, D) in place, the pairs being (i, i + D / 2). A position outside the table is fault(internal).
void rotate(thread_pool& pool, const head_matrix& x, const std::int32_t* positions, const rope_table& table);

}  // namespace baton::cpu
