#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>

#include "actors/cluster_devices.hpp"
#include "actors/messages.hpp"
#include "runtime/config/cluster_config.hpp"
#include "runtime/model/checkpoint.hpp"

namespace baton::actors {

/// Coordinator, relays and rank workers, joined and ready, wherever they run. Its destruction ends them all.
class cluster {
 public:
  virtual ~cluster() = default;
  [[nodiscard]] virtual caf::actor_system& system() = 0;
  [[nodiscard]] virtual const coordinator_actor& coordinator() const = 0;
};

/// Who watches a cluster start.
struct start_watch {
  load_progress loading = [](std::int64_t, std::int64_t) {};  ///< hears how far loading is, where this process loads
  std::function<void()> check = [] {};                        ///< called a few times a second; throws to give up
};

/// Starts what the configuration declares; `arena_bytes` has one entry for each device, as cluster_devices lists them.
/// Throws fault(out_of_memory | bad_input | deadline | lost_peer), and what the watch throws.
std::unique_ptr<cluster> start_cluster(const cluster_config& config, const checkpoint& model, cluster_devices& devices,
                                       std::span<const std::int64_t> arena_bytes, std::int64_t positions,
                                       const start_watch& watch = {});

/// Waits until so many have joined; `check` is called now and then and throws what makes waiting pointless.
/// Throws fault(deadline | lost_peer).
void wait_until_joined(caf::actor_system& system, const coordinator_actor& coordinator, std::size_t workers,
                       std::size_t relays, std::chrono::milliseconds patience, const std::function<void()>& check);

}  // namespace baton::actors
