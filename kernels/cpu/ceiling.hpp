#pragma once

#include "kernels/cpu/cpu_backend.hpp"

namespace baton::cpu {

/// Floating-point operations a second of the fastest matmul that oneDNN gives these threads and cores, each on numbers of its own:
/// (2048, 512) by (512, 2048) packed weights, in the type that the CPU multiplies for such activations. Takes about a second; the
/// calling thread computes along, on the device's cores.
double measure_matmul_ceiling(const cpu_options& options);

}  // namespace baton::cpu
