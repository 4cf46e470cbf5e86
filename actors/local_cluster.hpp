#pragma once

#include <map>
#include <memory>
#include <vector>

#include "actors/actor_config.hpp"
#include "actors/cluster.hpp"
#include "actors/event_inbox.hpp"
#include "runtime/device/model_weights.hpp"
#include "runtime/relay/relay.hpp"
#include "runtime/transport/local.hpp"

namespace baton::actors {

/// Coordinator, relay and rank workers in one process. Owns the actor system and all that actors borrow.
class local_cluster final : public cluster {
 public:
  local_cluster(const cluster_config& config, const checkpoint& model, cluster_devices& devices,
                std::span<const std::int64_t> arena_bytes, std::int64_t positions, const load_progress& progress = {});
  ~local_cluster() override;

  [[nodiscard]] caf::actor_system& system() override { return *system_; }
  [[nodiscard]] const coordinator_actor& coordinator() const override { return coordinator_; }
  [[nodiscard]] const std::vector<worker_actor>& workers() const { return workers_; }
  [[nodiscard]] const relay_actor& relay_handle() const { return relay_actor_; }
  [[nodiscard]] const relay_log& log() const { return log_; }

 private:
  void load(const cluster_config& config, const checkpoint& model, cluster_devices& devices,
            const load_progress& progress);
  void start(const cluster_config& config, const checkpoint& model, cluster_devices& devices,
             std::span<const std::int64_t> arena_bytes, std::int64_t positions);
  void shut_down();

  std::map<int, std::unique_ptr<model_weights>> weights_;  ///< by GPU; -1: of all CPU devices
  std::vector<const model_weights*> weights_of_;           ///< each device's
  event_inbox<relay_report> reports_;
  relay_log log_;
  relay relay_;
  local_network network_;
  actor_config actor_config_;
  std::unique_ptr<caf::actor_system> system_;
  coordinator_actor coordinator_;
  relay_actor relay_actor_;
  std::vector<worker_actor> workers_;
};

}  // namespace baton::actors
