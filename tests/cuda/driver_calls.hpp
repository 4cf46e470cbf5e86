#pragma once

#include <cstdint>

namespace baton {

/// How often this process has asked the GPU's driver for what holds up a device, whoever asked: our code, CUDA's runtime, cuBLASLt or
/// cuDNN. Counted where they look the driver's functions up: in a program that links driver_calls.cpp and exports its `dlsym`.
struct driver_calls {
  std::int64_t device_waits = 0;  ///< for all work of a device
  std::int64_t stream_waits = 0;  ///< for a stream, or a copy that returns when it is done
  std::int64_t event_waits = 0;
  std::int64_t device_memory = 0;  ///< taken or given back
  std::int64_t host_memory = 0;    ///< pinned: taken or given back

  bool operator==(const driver_calls&) const = default;
};

driver_calls operator-(const driver_calls& later, const driver_calls& earlier);
driver_calls& operator+=(driver_calls& sum, const driver_calls& more);

/// Any thread.
driver_calls driver_calls_so_far();

}  // namespace baton
