#include "actors/relay.hpp"

#include "actors/guard.hpp"
#include "runtime/cluster/relay_logic.hpp"
#include "runtime/wire/codec.hpp"

namespace baton::actors {

relay_actor spawn_relay(caf::actor_system& system, const coordinator_actor& coordinator, const std::string& node,
                        relay_log& log, std::chrono::milliseconds progress) {
  return system.spawn(
      [=, &log](relay_actor::stateful_pointer<std::unique_ptr<relay_logic>> self) -> relay_actor::behavior_type {
        self->state = std::make_unique<relay_logic>(node, log);
        self->monitor(coordinator);
        self->set_down_handler([self](caf::down_msg& down) { self->quit(down.reason); });
        self->send(coordinator, relay_actor(self), relay_report_bytes{encode(relay_report(self->state->who()))});
        self->delayed_send(self, progress, tick_atom::value);
        return {
            [self, coordinator](const relay_command_bytes& m) {
              guard(self, [&] {
                self->state->coordinator_said(decode_relay_command(m.bytes));
                for (const auto& report : self->state->take_actions())
                  self->send(coordinator, relay_report_bytes{encode(report)});
              });
            },
            [self, coordinator, progress](tick_atom) {
              self->delayed_send(self, progress, tick_atom::value);
              self->send(coordinator, relay_report_bytes{encode(relay_report(relay_alive{}))});
            },
        };
      });
}

}  // namespace baton::actors
