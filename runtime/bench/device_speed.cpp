#include "runtime/bench/device_speed.hpp"

#include <algorithm>
#include <memory>
#include <vector>

namespace baton {

std::vector<double> timed_runs(backend& kernels, stream& queue, int runs, const std::function<void()>& body) {
  body();
  kernels.synchronize(queue);
  std::vector<double> seconds;
  for (int run = 0; run < runs; ++run) {
    const auto begun = kernels.record(queue);
    body();
    const auto ended = kernels.record(queue);
    ended->wait();
    seconds.push_back(ended->seconds_since(*begun));
  }
  std::ranges::sort(seconds);
  return seconds;
}

device_speed measure_device_speed(backend& kernels) {
  const auto queue = kernels.make_stream();
  const auto type = kernels.activation_type();
  device_speed speed;
  struct shape {
    std::int64_t rows, inputs, outputs;
    int runs;
  };
  for (const auto& s : {shape{2048, 512, 2048, 9}, shape{4096, 4096, 4096, 2}, shape{8192, 8192, 8192, 7}}) {
    const double work = 2.0 * static_cast<double>(s.rows) * static_cast<double>(s.inputs * s.outputs);
    // On a slow device a larger one, which may be a little faster, is not worth its time; the largest only fills a GPU.
    if (work > speed.matmul_per_s && speed.matmul_per_s > 0) continue;
    if (s.rows > 4096 && kernels.computes_on_host()) continue;
    const auto memory = kernels.allocate(static_cast<std::size_t>(s.rows * (s.inputs + s.outputs) * bytes_of(type)));
    const matrix x{memory->data(), type, s.rows, s.inputs, s.inputs};
    const matrix out{memory->data() + s.rows * s.inputs * bytes_of(type), type, s.rows, s.outputs, s.outputs};
    kernels.fill_random(*queue, x, 1, 1);
    const auto weights = kernels.pack_random(s.outputs, s.inputs, 2, 1);
    const auto seconds =
        timed_runs(kernels, *queue, s.runs, [&] { kernels.linear(*queue, x, *weights, nullptr, out, false); });
    speed.matmul_per_s = std::max(speed.matmul_per_s, work / seconds.front());
  }
  // More than a cache holds: of a device whose cache is larger, or that is done in no time, much more.
  constexpr std::int64_t row_bytes = 8192;
  const std::int64_t columns = row_bytes / bytes_of(type);
  for (const std::int64_t rows : {8192, 65536}) {
    const auto memory = kernels.allocate(static_cast<std::size_t>(2 * rows * row_bytes));
    const matrix from{memory->data(), type, rows, columns, columns};
    const matrix to{memory->data() + rows * row_bytes, type, rows, columns, columns};
    const auto seconds = timed_runs(kernels, *queue, 7, [&] { kernels.copy(*queue, from, to); });
    speed.copy_bytes_per_s = 2.0 * static_cast<double>(rows * row_bytes) / seconds.front();
    if (seconds.front() > 2e-3) break;
  }
  return speed;
}

}  // namespace baton
