#pragma once

#include <cstdint>

#include "kernels/cpu/thread_pool.hpp"
#include "kernels/tensor.hpp"

namespace baton::cpu {

/// The kernels that treat every token alone. Contracts in kernels/backend.hpp; here `T` = 0 does nothing, a broken shape is
/// fault(internal). Called by the device's compute thread.

/// out[t] = table[ids[t]]. An id outside the table is fault(internal).
void embed(thread_pool& pool, const matrix& table, const std::int32_t* ids, const matrix& out);

/// out = x / sqrt(mean(x^2) + eps) * weight, in fp32 with one rounding at the end. `out` may be `x`.
void rms_norm(thread_pool& pool, const matrix& x, const float* weight, float eps, const matrix& out);

/// out = silu(gate) * up; gate_up (T, 2 F) with gate first.
void swiglu(thread_pool& pool, const matrix& gate_up, const matrix& out);

/// x = silu(x), in place.
void silu(thread_pool& pool, const matrix& x);

/// to = from, rounded or widened where the types differ. The two do not overlap.
void copy(thread_pool& pool, const matrix& from, const matrix& to);

}  // namespace baton::cpu
