#pragma once

#include <cstdint>
#include <span>

#include "kernels/tensor.hpp"

namespace baton::cpu {

/// All on the calling thread, for matrices of the same rows and columns that do not overlap.

/// to = from: widened, rounded to nearest even, or copied.
void convert(const matrix& from, const matrix& to);

/// to += from, `from` in fp32; rounded once.
void add(const matrix& from, const matrix& to);

/// to = from, IEEE half-precision numbers of which there are as many as `to` has; exact.
void widen_halves(const std::uint16_t* from, std::span<float> to);

}  // namespace baton::cpu
