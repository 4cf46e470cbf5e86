#pragma once

#include <chrono>

#include "actors/gate.hpp"
#include "actors/messages.hpp"
#include "runtime/cluster/coordinator_logic.hpp"
#include "runtime/config/cluster_config.hpp"
#include "runtime/model/checkpoint.hpp"

namespace baton::actors {

struct coordinator_options {
  served_model model;
  coordinator_limits limits;
  std::vector<std::pair<std::string, std::string>> declared;  ///< node and name of each device, in their order
  std::chrono::milliseconds tick{100};
  job_store* store = nullptr;            ///< outlives the actor; null: jobs are kept in memory
  const admissions* admitted = nullptr;  ///< who is who; outlives the actor. Null: nobody has to prove it
  /// Of the lines that say who comes and goes and what becomes of jobs: a run shows its own job in its own way.
  log_level comings = log_level::debug;
};

/// Gives coordinator_logic its messages and carries out its actions. Monitors every peer; a peer whose bytes cannot be read is
/// treated as lost.
class coordinator_state {
 public:
  coordinator_state(coordinator_actor::pointer self, const coordinator_options& options);

  coordinator_actor::behavior_type make_behavior();

  static constexpr const char* name = "coordinator";

 private:
  enum class peer_kind : std::uint8_t { worker, relay, client };
  struct peer {
    peer_kind kind = peer_kind::worker;
    peer_id id = 0;
  };

  /// Does `work` on what `from` said. Bytes that make no sense lose that peer, and nobody else.
  template <class Work>
  void hear(const caf::actor_addr& from, Work&& work);
  caf::actor_addr sender_address();
  template <class Handle>
  peer_id join(peer_kind kind, const Handle& handle, std::map<peer_id, Handle>& handles);
  /// Throws fault(bad_input) where this actor's process has not proven to be that member.
  template <class Handle>
  void expect_member(const Handle& handle, const cluster_member& who) const;
  /// The peer that sent the message in hand; 0 for strangers.
  peer_id sender(peer_kind kind);
  void lost(const caf::actor_addr& who, const std::string& why);
  /// Tells a peer that was given up to end, and hears it no more.
  void dismiss_peer(peer_id id);
  void act();
  [[nodiscard]] double now_s() const;

  coordinator_actor::pointer self_;
  const std::chrono::milliseconds tick_;
  const admissions* const admitted_;
  const log_level comings_;
  coordinator_logic logic_;
  std::map<caf::actor_addr, peer> peers_;
  std::map<peer_id, worker_actor> workers_;
  std::map<peer_id, relay_actor> relays_;
  std::map<peer_id, client_actor> clients_;
  peer_id last_peer_ = 0;
};

coordinator_options coordinator_options_of(const cluster_config& config, const checkpoint& model);

coordinator_actor spawn_coordinator(caf::actor_system& system, const coordinator_options& options);

}  // namespace baton::actors
