#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "kernels/backend.hpp"
#include "runtime/bench/device_speed.hpp"

namespace baton {

/// What one kernel took, beside what the device can do at best.
struct kernel_time {
  std::string name;
  std::string sizes;
  double operations = 0;  ///< counted floating-point operations; 0: it is measured by its bytes
  double bytes = 0;       ///< read and written, each once
  double median_s = 0;
  double lowest_s = 0;

  /// Of the fastest matmul, or of the fastest copy's bytes; by the median.
  [[nodiscard]] double share(const device_speed& speed) const;
};

/// How much the kernels get to do.
struct kernel_sizes {
  std::int64_t rows = 4096;         ///< of matmuls and block attention
  std::int64_t tokens = 8192;       ///< of token-wise kernels, of width 4096
  std::int64_t chunk_tokens = 256;  ///< of the same with numbers from a cache, as a job's chunks are; 0: not timed
  std::int64_t keys = 32768;        ///< of attention of few queries
  std::int64_t weights_bytes = 256 << 20;  ///< of products of few rows
  std::int64_t scored_tokens = 65536;      ///< of the compressor, which chooses an eighth
};

/// Runs every kernel that takes time in a job, on numbers that no cache holds where bytes count: with the sizes as they stand that takes
/// some seconds and 700 MiB of device memory. The caller is the device's compute thread. `only`: kernels' names; empty: all of them.
/// `before` hears each kernel's name.
std::vector<kernel_time> time_kernels(backend& kernels, int runs, const kernel_sizes& sizes,
                                      std::span<const std::string> only = {},
                                      const std::function<void(const std::string&)>& before = {});

struct kernel_report {
  std::string kernel_class;
  int threads = 0;  ///< 0: not a CPU
  device_speed speed{};
  std::vector<kernel_time> kernels{};
};

/// At most 80 columns, lines that end with a newline.
std::string table(const kernel_report& report);
nlohmann::json to_json(const kernel_report& report);

}  // namespace baton
