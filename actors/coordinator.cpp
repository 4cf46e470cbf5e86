#include "actors/coordinator.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "actors/guard.hpp"
#include "actors/job_client.hpp"
#include "runtime/observe/log.hpp"
#include "runtime/plan/plan_costs.hpp"
#include "runtime/wire/codec.hpp"

namespace baton::actors {

coordinator_state::coordinator_state(coordinator_actor::pointer self, const coordinator_options& options)
    : self_(self),
      tick_(options.tick),
      admitted_(options.admitted),
      comings_(options.comings),
      logic_(options.model, options.limits, options.declared, options.store) {
  const turn now(self);
  self_->set_down_handler([this](caf::down_msg& down) {
    guard(self_, [&] {
      lost(caf::actor_cast<caf::actor_addr>(down.source), down.reason == caf::exit_reason::remote_link_unreachable
                                                              ? "the connection to its process has ended"
                                                              : self_->system().render(down.reason));
      act();
    });
  });
}

coordinator_actor::behavior_type coordinator_state::make_behavior() {
  const turn now(self_);
  self_->delayed_send(self_, tick_, tick_atom::value);
  return {
      [this](const worker_actor& worker, const worker_report_bytes& m) {
        hear(worker.address(), [&] {
          const auto report = decode_worker_report(m.bytes);
          const auto* who = std::get_if<worker_ready>(&report);
          if (who == nullptr) return;
          expect_member(worker, {member_role::node, who->node});
          logic_.worker_joined(join(peer_kind::worker, worker, workers_), *who, now_s());
        });
      },
      [this](const worker_report_bytes& m) {
        hear(sender_address(), [&] {
          if (const auto id = sender(peer_kind::worker)) logic_.worker_said(id, decode_worker_report(m.bytes), now_s());
        });
      },
      [this](const relay_actor& relay, const relay_report_bytes& m) {
        hear(relay.address(), [&] {
          const auto report = decode_relay_report(m.bytes);
          const auto* who = std::get_if<relay_ready>(&report);
          if (who == nullptr) return;
          expect_member(relay, {member_role::node, who->node});
          logic_.relay_joined(join(peer_kind::relay, relay, relays_), *who, now_s());
        });
      },
      [this](const relay_report_bytes& m) {
        hear(sender_address(), [&] {
          if (const auto id = sender(peer_kind::relay)) logic_.relay_said(id, decode_relay_report(m.bytes), now_s());
        });
      },
      [this](const client_actor& client, const client_request_bytes& m) {
        hear(client.address(), [&] {
          try {
            const auto request = decode_client_request(m.bytes);
            expect_member(client, {member_role::client, {}});
            logic_.client_said(join(peer_kind::client, client, clients_), request, now_s());
          } catch (const fault& why) {
            // Whoever asks hears why nothing comes of it.
            self_->send(client, client_update_bytes{encode(client_update(job_refused{"", failure_of(why)}))});
            throw;
          }
        });
      },
      [this](const client_request_bytes& m) {
        hear(sender_address(), [&] {
          if (const auto id = sender(peer_kind::client))
            logic_.client_said(id, decode_client_request(m.bytes), now_s());
        });
      },
      [this](tick_atom) {
        self_->delayed_send(self_, tick_, tick_atom::value);
        guard(self_, [&] {
          logic_.tick(now_s());
          act();
        });
      },
      [this](count_atom) -> caf::result<std::uint64_t, std::uint64_t, std::string> {
        const turn count(self_);
        return {static_cast<std::uint64_t>(logic_.workers()), static_cast<std::uint64_t>(logic_.relays()),
                logic_.trouble()};
      },
  };
}

template <class Work>
void coordinator_state::hear(const caf::actor_addr& from, Work&& work) {
  guard(self_, [&] {
    try {
      work();
    } catch (const fault& why) {
      if (why.code() != fault_code::bad_input) throw;
      lost(from, why.what());
    }
    act();
  });
}

caf::actor_addr coordinator_state::sender_address() {
  return caf::actor_cast<caf::actor_addr>(self_->current_sender());
}

template <class Handle>
peer_id coordinator_state::join(peer_kind kind, const Handle& handle, std::map<peer_id, Handle>& handles) {
  const auto address = caf::actor_cast<caf::actor_addr>(handle);
  if (const auto known = peers_.find(address); known != peers_.end()) return known->second.id;
  const peer_id id = ++last_peer_;
  peers_.emplace(address, peer{kind, id});
  handles.emplace(id, handle);
  self_->monitor(handle);
  return id;
}

template <class Handle>
void coordinator_state::expect_member(const Handle& handle, const cluster_member& who) const {
  if (admitted_ == nullptr || handle.node() == self_->node()) return;
  const auto proven = admitted_->whose(handle.node());
  if (proven == who) return;
  const auto text =
      fmt::format("{} says that it is {}, and is refused", proven ? proven->text() : "a stranger", who.text());
  log_line(log_level::warning, text);
  throw fault(fault_code::bad_input, text, "coordinator");
}

peer_id coordinator_state::sender(peer_kind kind) {
  const auto found = peers_.find(sender_address());
  return found != peers_.end() && found->second.kind == kind ? found->second.id : 0;
}

void coordinator_state::lost(const caf::actor_addr& who, const std::string& why) {
  const auto found = peers_.find(who);
  if (found == peers_.end()) return;
  const auto [kind, id] = found->second;
  peers_.erase(found);
  workers_.erase(id);
  relays_.erase(id);
  clients_.erase(id);
  switch (kind) {
    case peer_kind::worker: logic_.worker_lost(id, why, now_s()); break;
    case peer_kind::relay: logic_.relay_lost(id, why, now_s()); break;
    case peer_kind::client: logic_.client_lost(id, now_s()); break;
  }
}

void coordinator_state::act() {
  const auto traced = [](std::string_view kind, peer_id id, std::string bytes) {
    if (log_shows(log_level::trace))
      log_line(log_level::trace, fmt::format("{} bytes to {} {}", bytes.size(), kind, id));
    return bytes;
  };
  for (const auto& action : logic_.take_actions()) {
    if (const auto* w = std::get_if<to_worker>(&action)) {
      if (const auto to = workers_.find(w->worker); to != workers_.end())
        self_->send(to->second,
                    worker_command_bytes{traced("worker", w->worker, encode(w->command, logic_.generation()))});
    } else if (const auto* r = std::get_if<to_relay>(&action)) {
      if (const auto to = relays_.find(r->relay); to != relays_.end())
        self_->send(to->second,
                    relay_command_bytes{traced("relay", r->relay, encode(r->command, logic_.generation()))});
    } else if (const auto* gone = std::get_if<dismiss>(&action)) {
      dismiss_peer(gone->peer);
    } else if (const auto* said = std::get_if<remark>(&action)) {
      log_line(said->level == log_level::info ? comings_ : said->level, said->what, said->about);
    } else if (const auto* c = std::get_if<to_client>(&action)) {
      if (const auto to = clients_.find(c->client); to != clients_.end())
        self_->send(to->second, client_update_bytes{traced("client", c->client, encode(c->update))});
    }
  }
}

void coordinator_state::dismiss_peer(peer_id id) {
  std::erase_if(peers_, [&](const auto& entry) { return entry.second.id == id; });
  const auto end = [id](auto& handles) {
    if (const auto found = handles.find(id); found != handles.end()) {
      caf::anon_send_exit(found->second, caf::exit_reason::kill);
      handles.erase(found);
    }
  };
  end(workers_);
  end(relays_);
  end(clients_);
}

double coordinator_state::now_s() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

coordinator_options coordinator_options_of(const cluster_config& config, const checkpoint& model) {
  coordinator_options options;
  const std::int64_t positions = model.config().max_positions;
  options.model = {config.positions_max > 0 ? std::min(config.positions_max, positions) : positions,
                   model.config().vocabulary, model.has_retaining_heads(),
                   shape_of(model.config(), config.model.precision)};
  options.limits = {.silence_s = config.timeouts.silence_ms / 1000.0,
                    .stuck_s = config.timeouts.exchange_ms / 1000.0,
                    // In between, ranks that cannot reach each other may be moved twice.
                    .cut_off_s = config.timeouts.exchange_ms / 3000.0,
                    .hung_s = config.timeouts.chunk_ms / 1000.0,
                    .tick_s = config.timeouts.progress_ms / 1000.0,
                    .replays_max = config.recovery.replays,
                    .replacement_s = config.recovery.replacement_ms / 1000.0,
                    .take_up_s = config.recovery.take_up_ms / 1000.0,
                    .client_silence_s = config.timeouts.client_ms / 1000.0,
                    .outbox = {.credit = job_client::first_credit}};
  for (const auto& node : config.nodes) {
    for (const auto& device : node.devices) options.declared.emplace_back(node.name, device.name);
  }
  options.tick = std::chrono::milliseconds(config.timeouts.progress_ms);
  return options;
}

coordinator_actor spawn_coordinator(caf::actor_system& system, const coordinator_options& options) {
  return system.spawn([options](coordinator_actor::stateful_pointer<std::unique_ptr<coordinator_state>> self) {
    self->state = std::make_unique<coordinator_state>(self, options);
    return self->state->make_behavior();
  });
}

}  // namespace baton::actors
