#include "actors/known_rates.hpp"

#include <memory>
#include <string>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "runtime/bench/calibration.hpp"

namespace baton::actors {

device_rates known_rates(cluster_devices& devices, const cluster_config& config, const checkpoint& model,
                         std::int64_t chunk_tokens, bool anew, const std::function<void()>& says) {
  // Where processes hold the devices, this one has none with all its threads.
  std::unique_ptr<backend> own;
  if (config.processes == process_layout::per_device)
    own = make_backend(config.model, config.nodes.front().devices.front());
  auto& kernels = own ? *own : devices.kernels(0);
  std::string device = "device";
  if (kernels.kernel_class().starts_with("cpu-")) {
    const auto options = cpu_options_of(config.model, config.nodes.front().devices.front());
    device = fmt::format("threads {} cores [{}]", options.threads, fmt::join(options.cores, ","));
  }
  const auto key = rates_key(kernels.kernel_class(), device, model.config(), model.retaining_width(), chunk_tokens);
  const auto file = rates_file();
  if (!anew) {
    if (const auto known = find_rates(file, key)) return *known;
  }
  says();
  const auto rates = calibrate(kernels, model.config(), model.retaining_width(), chunk_tokens);
  keep_rates(file, key, rates);
  return rates;
}

}  // namespace baton::actors
