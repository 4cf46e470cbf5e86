#pragma once

#include "actors/bench_options.hpp"

namespace baton {

/// `baton bench prefill` and `baton bench kernels`. Returns the exit code: 0 done, 1 something failed, 2 bad input.
int bench_command(const bench_options& options);

}  // namespace baton
