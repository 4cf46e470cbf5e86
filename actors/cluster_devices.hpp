#pragma once

#include <memory>
#include <span>
#include <vector>

#include "actors/worker.hpp"
#include "kernels/backend.hpp"
#include "kernels/cpu/cpu_backend.hpp"
#include "runtime/config/cluster_config.hpp"
#include "runtime/model/checkpoint.hpp"
#include "runtime/plan/job_plan.hpp"
#include "runtime/plan/plan_costs.hpp"

namespace baton::actors {

/// The devices of a configuration, node by node, before anything is loaded or started: enough to plan with.
class cluster_devices {
 public:
  /// Throws fault(bad_input) where the configuration declares what its processes cannot hold.
  explicit cluster_devices(const cluster_config& config);

  [[nodiscard]] std::span<const device_view> views() const { return views_; }
  [[nodiscard]] std::size_t size() const { return views_.size(); }
  /// The backend of a device, where this process holds them; else one of its kind, with one thread, to ask for sizes.
  [[nodiscard]] backend& kernels(std::size_t index) { return *backends_.at(backend_of_.at(index)); }

 private:
  std::vector<std::unique_ptr<backend>> backends_;
  std::vector<std::size_t> backend_of_;  ///< each device's
  std::vector<device_view> views_;
};

/// A CPU device's threads and cores, as they will be.
cpu::cpu_options cpu_options_of(const model_source& model, const device_config& device);

/// A device's backend with its threads.
std::unique_ptr<backend> make_backend(const model_source& model, const node_config& node, const device_config& device);

/// Which devices of a process share weights in memory: all of them on CPUs, each GPU alone.
int weights_place(const device_config& device);

/// What a device's worker is made of, backend and weights apart. `arena_bytes` for KV and workspace.
worker_options worker_options_of(const cluster_config& config, const node_config& node, const device_config& device,
                                 std::int64_t arena_bytes, std::int64_t positions);

/// What planning needs of the model on a device with this backend.
cost_basis basis_of(const backend& kernels, const checkpoint& model, std::int64_t positions, std::int64_t chunk_tokens);
/// The same for each of them, by its names; a device that is not among them is taken to be like the first. Borrows both.
device_basis bases_of(cluster_devices& devices, const checkpoint& model, std::int64_t positions,
                      std::int64_t chunk_tokens);

}  // namespace baton::actors
