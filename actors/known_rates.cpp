#include "actors/known_rates.hpp"

#include <map>
#include <memory>
#include <optional>
#include <string>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "runtime/bench/calibration.hpp"

namespace baton::actors {
namespace {

device_rates rates_of_device(backend& kernels, const std::string& device, const checkpoint& model,
                             std::int64_t chunk_tokens, bool anew, const std::function<void()>& says) {
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

}  // namespace

cluster_rates known_rates(cluster_devices& devices, const cluster_config& config, const checkpoint& model,
                          std::int64_t chunk_tokens, bool anew, const std::function<void()>& says) {
  std::map<std::string, device_rates> known;  // devices that are described alike are as fast
  std::optional<cluster_rates> all;
  std::size_t index = 0;
  for (const auto& node : config.nodes) {
    for (const auto& device : node.devices) {
      std::string described = "device";
      if (device.kind == device_kind::cpu) {
        const auto options = cpu_options_of(config.model, device);
        // Which cores they are makes no difference between devices of one machine, and the first one's stand for all.
        described = fmt::format("threads {} cores [{}]", options.threads, fmt::join(options.cores, ","));
      }
      const std::string alike = device.kind == device_kind::cpu
                                    ? fmt::format("cpu {}", cpu_options_of(config.model, device).threads)
                                    : devices.kernels(index).kernel_class();
      auto found = known.find(alike);
      if (found == known.end()) {
        // Where processes hold the devices, this one has none with all its threads.
        std::unique_ptr<backend> own;
        if (config.processes == process_layout::per_device && device.kind == device_kind::cpu)
          own = make_backend(config.model, node, device);
        found = known
                    .emplace(alike, rates_of_device(own ? *own : devices.kernels(index), described, model, chunk_tokens,
                                                    anew, says))
                    .first;
      }
      if (!all) all.emplace(found->second);
      all->set(node.name, device.name, found->second);
      ++index;
    }
  }
  return *all;
}

}  // namespace baton::actors
