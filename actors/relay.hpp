#pragma once

#include <chrono>
#include <string>

#include "actors/messages.hpp"
#include "runtime/relay/relay_log.hpp"

namespace baton::actors {

/// Spawns a node's KV relay, which admits and drops whole logs; `log`, shared with the node's transport, outlives it. It
/// joins the coordinator, gives it a sign of life every `progress`, and ends when it does.
relay_actor spawn_relay(caf::actor_system& system, const coordinator_actor& coordinator, const std::string& node,
                        relay_log& log, std::chrono::milliseconds progress);

}  // namespace baton::actors
