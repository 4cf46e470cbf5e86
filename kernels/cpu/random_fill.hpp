#pragma once

#include <cstdint>

#include "kernels/cpu/thread_pool.hpp"
#include "kernels/tensor.hpp"

namespace baton::cpu {

/// Contract in backend::fill_random. Called by the device's compute thread, or while a model is loaded.
void fill_random(thread_pool& pool, const matrix& to, std::uint64_t seed, float scale);

}  // namespace baton::cpu
