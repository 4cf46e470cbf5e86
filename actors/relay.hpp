#pragma once

#include <chrono>
#include <functional>

#include "actors/event_inbox.hpp"
#include "actors/messages.hpp"
#include "runtime/config/cluster_config.hpp"
#include "runtime/relay/relay.hpp"

namespace baton::actors {

/// Spawns the actor in front of a node's KV relay. It joins the coordinator, gives it a sign of life every `progress`, passes on
/// what comes into `reports`, and ends when the coordinator does, after a call of `on_loss`. `what` and `reports` outlive it, and serve one
/// such actor at a time.
relay_actor spawn_relay(
    caf::actor_system& system, const coordinator_actor& coordinator, relay& what, event_inbox<relay_report>& reports,
    std::chrono::milliseconds progress, const std::function<void()>& on_loss = [] {});

relay_log_options log_options_of(const relay_config& config);

}  // namespace baton::actors
