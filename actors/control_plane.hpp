#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "actors/actor_config.hpp"
#include "actors/gate.hpp"
#include "actors/messages.hpp"
#include "runtime/config/cluster_config.hpp"
#include "runtime/security/certificates.hpp"
#include "runtime/security/port_guard.hpp"
#include "runtime/transport/messenger.hpp"

/// How the processes of a cluster reach each other: the coordinator's port, and the data plane.
namespace baton::actors {

/// What this process proves to be. Null where the configuration names no certificates. Throws fault(bad_input).
std::unique_ptr<cluster_identity> identity_of(const cluster_config& config, const cluster_member& who);

/// The coordinator's door to other processes: plain TCP without certificates, which is for loopback only, else TLS behind a
/// port_guard. What answers there ends with the coordinator, and before this object.
class coordinator_port {
 public:
  /// `identity`: as identity_of made it; outlives the port. What the data plane has follows from `root`: who was let in under it can speak
  /// with whoever is let in under it later.
  explicit coordinator_port(const cluster_identity* identity, const secret_key& root = random_key());

  /// For coordinator_options: who is who. Null where nobody has to prove anything.
  [[nodiscard]] const admissions* admitted() const { return identity_ == nullptr ? nullptr : &admitted_; }
  /// Listens on that address of this machine alone; port 0 takes a free one, which is returned. Throws fault(bad_input).
  std::uint16_t open(caf::actor_system& system, const coordinator_actor& coordinator, const coordinator_address& where);

 private:
  const cluster_identity* identity_;
  const secret_key root_;
  admissions admitted_;
  std::unique_ptr<port_guard> guard_;
};

struct membership {
  coordinator_actor coordinator;
  std::optional<data_plane_identity> data_plane;  ///< not a client's
};

/// Joins the cluster of a coordinator in another process; tries until it is there. Throws fault(deadline); fault(cancelled) where `pause` gives up; fault(bad_input) where
/// what answers is not this cluster's coordinator, or does not take this process for a member.
membership join_cluster(caf::actor_system& system, const coordinator_address& where, const cluster_identity* identity,
                        std::chrono::milliseconds patience, const pause_function& pause = sleep_for);

/// A process's messenger on the data plane, as the configuration has it, for what these devices of the node send. Throws fault(bad_input) where the process was let in as a
/// client.
std::unique_ptr<messenger> make_messenger(const cluster_config& config, const node_config& node,
                                          std::span<const device_config> devices,
                                          const std::optional<data_plane_identity>& data_plane);

}  // namespace baton::actors
