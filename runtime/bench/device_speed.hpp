#pragma once

#include <functional>
#include <vector>

#include "kernels/backend.hpp"

namespace baton {

/// Runs `body` once to warm up and `runs` times more; seconds of each run until the device has done it, ascending. The caller is the
/// device's compute thread.
std::vector<double> timed_runs(backend& kernels, stream& queue, int runs, const std::function<void()>& body);

/// What a device can do at best, measured beside what it is compared with.
struct device_speed {
  double matmul_per_s =
      0;  ///< floating-point operations: the best of (2048, 512) x (512, 2048) and, on a fast device, (4096, 4096)^2
  double copy_bytes_per_s = 0;  ///< read and written bytes of a copy that no cache holds
};

/// Through the backend alone, so for any device; takes a second or two. The caller is the device's compute thread.
device_speed measure_device_speed(backend& kernels);

}  // namespace baton
