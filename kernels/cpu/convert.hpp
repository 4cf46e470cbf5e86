#pragma once

#include "kernels/tensor.hpp"

namespace baton::cpu {

/// to = from on the calling thread: widened, rounded to nearest even, or copied. Same rows and columns; no overlap.
void convert(const matrix& from, const matrix& to);

}  // namespace baton::cpu
