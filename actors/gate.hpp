#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "actors/messages.hpp"
#include "runtime/security/join.hpp"

namespace baton::actors {

/// Which processes have joined, and as whom: the gate writes it, the coordinator reads it. Any thread.
class admissions {
 public:
  /// So many are remembered, the latest ones; each process of a cluster takes one.
  static constexpr std::size_t kept_max = 10'000;

  void admit(const caf::node_id& process, const cluster_member& who);
  [[nodiscard]] std::optional<cluster_member> whose(const caf::node_id& process) const;

 private:
  mutable std::mutex mutex_;
  std::map<caf::node_id, std::pair<std::uint64_t, cluster_member>> members_;  ///< with the number of their admission
  std::uint64_t last_ = 0;
};

/// Spawns the only actor that others find at the coordinator's port: it lets through who proves to be a member
/// (runtime/security/join.hpp), and ends with the coordinator. `root`: a doorkeeper's. `identity`: null where there are no certificates; outlives the actor,
/// as `admitted` does.
gate_actor spawn_gate(caf::actor_system& system, const coordinator_actor& coordinator, const cluster_identity* identity,
                      const secret_key& root, admissions& admitted);

}  // namespace baton::actors
