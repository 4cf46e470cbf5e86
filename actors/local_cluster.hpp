#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <vector>

#include "actors/messages.hpp"
#include "kernels/backend.hpp"
#include "runtime/config/cluster_config.hpp"
#include "runtime/device/model_weights.hpp"
#include "runtime/model/checkpoint.hpp"
#include "runtime/plan/plan_costs.hpp"
#include "runtime/relay/relay_log.hpp"
#include "runtime/transport/local.hpp"

namespace baton::actors {

/// The devices of a configuration as backends of this process, before anything is loaded: enough to plan with.
class local_devices {
 public:
  /// Throws fault(bad_input) where the configuration declares what one process cannot hold.
  explicit local_devices(const cluster_config& config);

  [[nodiscard]] std::span<const device_view> views() const { return views_; }
  [[nodiscard]] std::size_t size() const { return backends_.size(); }
  [[nodiscard]] backend& kernels(std::size_t index) { return *backends_[index]; }

 private:
  std::vector<std::unique_ptr<backend>> backends_;
  std::vector<device_view> views_;
};

/// Coordinator, relay and rank workers in one process, joined and ready. Owns the actor system and all that actors borrow.
class local_cluster {
 public:
  /// `arena_bytes` has one entry per device; `progress` hears how far loading is. Throws fault(out_of_memory | bad_input |
  /// deadline).
  local_cluster(const cluster_config& config, const checkpoint& model, local_devices& devices,
                std::span<const std::int64_t> arena_bytes, std::int64_t positions, const load_progress& progress = {});
  ~local_cluster();
  local_cluster(const local_cluster&) = delete;
  local_cluster& operator=(const local_cluster&) = delete;

  [[nodiscard]] caf::actor_system& system() { return *system_; }
  [[nodiscard]] const coordinator_actor& coordinator() const { return coordinator_; }
  [[nodiscard]] const std::vector<worker_actor>& workers() const { return workers_; }
  [[nodiscard]] const relay_actor& relay() const { return relay_; }
  [[nodiscard]] const relay_log& log() const { return log_; }

 private:
  struct actor_config;

  void start(const cluster_config& config, const checkpoint& model, local_devices& devices,
             std::span<const std::int64_t> arena_bytes, std::int64_t positions);
  void wait_until_joined(std::chrono::milliseconds patience);
  void shut_down();

  model_weights weights_;
  relay_log log_;
  local_network network_;
  std::unique_ptr<actor_config> actor_config_;
  std::unique_ptr<caf::actor_system> system_;
  coordinator_actor coordinator_;
  relay_actor relay_;
  std::vector<worker_actor> workers_;
};

/// What planning needs of the model on these devices.
cost_basis basis_of(local_devices& devices, const checkpoint& model, std::int64_t positions, std::int64_t chunk_tokens);

}  // namespace baton::actors
