#pragma once

#include "kernels/tensor.hpp"

namespace baton::cpu {

/// Both on the calling thread, for matrices of the same rows and columns that do not overlap.

/// to = from: widened, rounded to nearest even, or copied.
void convert(const matrix& from, const matrix& to);

/// to += from, `from` in fp32; rounded once.
void add(const matrix& from, const matrix& to);

}  // namespace baton::cpu
