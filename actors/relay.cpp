#include "actors/relay.hpp"

#include "actors/guard.hpp"
#include "runtime/relay/relay.hpp"
#include "runtime/wire/codec.hpp"

namespace baton::actors {

relay_actor spawn_relay(caf::actor_system& system, const coordinator_actor& coordinator, const std::string& node,
                        relay_log& log, std::chrono::milliseconds progress) {
  return system.spawn(
      [=, &log](relay_actor::stateful_pointer<std::unique_ptr<relay>> self) -> relay_actor::behavior_type {
        // Without a messenger a relay speaks only when it is spoken to, so that this is the actor's own turn.
        self->state = std::make_unique<relay>(node, log, nullptr, [self, coordinator](const relay_report& report) {
          self->send(coordinator, relay_report_bytes{encode(report)});
        });
        self->monitor(coordinator);
        self->set_down_handler([self](caf::down_msg& down) { self->quit(down.reason); });
        self->send(coordinator, relay_actor(self), relay_report_bytes{encode(relay_report(self->state->who()))});
        self->delayed_send(self, progress, tick_atom::value);
        return {
            [self](const relay_command_bytes& m) {
              guard(self, [&] { self->state->coordinator_said(decode_relay_command(m.bytes)); });
            },
            [self, coordinator, progress](tick_atom) {
              self->delayed_send(self, progress, tick_atom::value);
              self->send(coordinator, relay_report_bytes{encode(relay_report(relay_alive{}))});
            },
        };
      });
}

}  // namespace baton::actors
