#pragma once

#include <memory>
#include <vector>

#include "kernels/backend.hpp"

namespace baton::cpu {

struct cpu_options {
  int threads = 1;                               ///< compute threads, the calling one included
  element_type activation = element_type::bf16;  ///< f32 for verification
  /// Cores that the backend's threads and the adopted compute thread keep to; empty: any.
  std::vector<int> cores{};
};

/// A set of cores and threads as a device. Launches run before they return, so streams and events are formalities.
/// Device memory is host memory; give views 64-byte alignment for speed. Faults: bad_input for options that cannot
/// be.
std::unique_ptr<backend> make_cpu_backend(const cpu_options& options);

/// Restricts the calling thread, and the threads that it starts from now on, to these cores. Faults: bad_input for a
/// core that this process may not use.
void keep_to(const std::vector<int>& cores);

}  // namespace baton::cpu
