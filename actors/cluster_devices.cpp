#include "actors/cluster_devices.hpp"

#include <algorithm>
#include <map>
#include <thread>

#include <fmt/format.h>

#include "actors/affinity.hpp"
#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#include "kernels/fault.hpp"
#include "runtime/decode/decode_pass.hpp"

namespace baton::actors {
namespace {

/// Query pieces use the chunk buffers too.
std::int64_t chunk_rows(std::int64_t chunk_tokens) { return std::max(chunk_tokens, decode_pass::piece_tokens); }

}  // namespace

cpu::cpu_options cpu_options_of(const model_source& model, const device_config& device) {
  cpu::cpu_options options;
  options.activation = model.precision;
  options.threads = device.threads;
  options.cores = device.cores;
  if (options.threads == 0) {
    options.threads = device.cores.empty() ? static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))
                                           : static_cast<int>(device.cores.size());
  }
  return options;
}

std::unique_ptr<backend> make_backend(const model_source& model, const node_config& node, const device_config& device) {
  if (device.kind == device_kind::cuda)
    return cuda::make_cuda_backend({.index = device.index, .cores = cores_of(node, device)});
  return cpu::make_cpu_backend(cpu_options_of(model, device));
}

int weights_place(const device_config& device) { return device.kind == device_kind::cuda ? device.index : -1; }

cluster_devices::cluster_devices(const cluster_config& config) {
  const bool in_this_process = config.processes == process_layout::one;
  if (in_this_process && config.nodes.size() != 1) {
    throw fault(
        fault_code::bad_input,
        fmt::format("one process holds one node, {} are declared; set processes: per_device", config.nodes.size()),
        config.source_file.string());
  }
  std::map<device_kind, std::size_t> of_kind;
  for (const auto& node : config.nodes) {
    for (const auto& device : node.devices) {
      const auto known = of_kind.find(device.kind);
      if (in_this_process || known == of_kind.end()) {
        device_config made = device;
        if (!in_this_process) {
          made.threads = device.kind == device_kind::cpu ? 1 : 0;
          made.cores.clear();
        }
        backend_of_.push_back(backends_.size());
        of_kind[device.kind] = backends_.size();
        backends_.push_back(make_backend(config.model, node, made));
      } else {
        backend_of_.push_back(known->second);
      }
      const backend& kernels = *backends_[backend_of_.back()];
      views_.push_back({node.name, device.name, kernels.kernel_class(), kernels.block_multiple()});
    }
  }
}

worker_options worker_options_of(const cluster_config& config, const node_config& node, const device_config& device,
                                 std::int64_t arena_bytes, std::int64_t positions) {
  worker_options options;
  options.device.node = node.name;
  options.device.name = device.name;
  options.device.memory_bytes = static_cast<std::size_t>(arena_bytes);
  options.device.positions_max = positions;
  options.device.chunk_tokens_max = chunk_rows(config.job.chunk_tokens);
  options.progress = std::chrono::milliseconds(config.timeouts.progress_ms);
  return options;
}

cost_basis basis_of(const backend& kernels, const checkpoint& model, std::int64_t positions,
                    std::int64_t chunk_tokens) {
  device_options options;
  options.positions_max = positions;
  options.chunk_tokens_max = chunk_rows(chunk_tokens);
  return {&kernels, &model.config(),
          static_cast<std::int64_t>(model_weights::bytes_needed(kernels, model.config(), model.retaining_width())),
          static_cast<std::int64_t>(
              device_context::fixed_bytes(kernels, model.config(), model.retaining_width(), options))};
}

device_basis bases_of(cluster_devices& devices, const checkpoint& model, std::int64_t positions,
                      std::int64_t chunk_tokens) {
  return [&devices, &model, positions, chunk_tokens](const std::string& node, const std::string& device) {
    const auto views = devices.views();
    const auto found = std::ranges::find_if(views, [&](const auto& d) { return d.node == node && d.device == device; });
    const auto index = found == views.end() ? 0 : static_cast<std::size_t>(found - views.begin());
    return basis_of(devices.kernels(index), model, positions, chunk_tokens);
  };
}

}  // namespace baton::actors
