#include "actors/relay.hpp"

#include "actors/guard.hpp"
#include "runtime/wire/codec.hpp"

namespace baton::actors {

relay_actor spawn_relay(caf::actor_system& system, const coordinator_actor& coordinator, relay& what,
                        event_inbox<relay_report>& reports, std::chrono::milliseconds progress,
                        const std::function<void()>& on_loss) {
  return system.spawn([=, &what, &reports](relay_actor::pointer self) -> relay_actor::behavior_type {
    self->monitor(coordinator);
    self->set_down_handler([self, on_loss](caf::down_msg& down) {
      on_loss();
      self->quit(down.reason);
    });
    self->attach_functor([&reports] { reports.on_first({}); });
    self->send(coordinator, relay_actor(self), relay_report_bytes{encode(relay_report(what.joins()))});
    what.tell_damages_again();
    self->delayed_send(self, progress, tick_atom::value);
    // An address, not a handle: a handle would keep the actor alive.
    reports.on_first([me = caf::actor_cast<caf::actor_addr>(caf::actor_cast<caf::strong_actor_ptr>(self))] {
      if (const auto actor = caf::actor_cast<caf::strong_actor_ptr>(me))
        caf::anon_send(caf::actor_cast<relay_actor>(actor), report_atom::value);
    });
    return {
        [self, &what](const relay_command_bytes& m) {
          guard(self, [&] {
            std::uint64_t generation = 0;
            const auto command = decode_relay_command(m.bytes, &generation);
            what.coordinator_said(command, generation);
          });
        },
        [self, coordinator, &reports](report_atom) {
          guard(self, [&] {
            for (const auto& report : reports.take()) self->send(coordinator, relay_report_bytes{encode(report)});
          });
        },
        [self, coordinator, progress, &what](tick_atom) {
          self->delayed_send(self, progress, tick_atom::value);
          self->send(coordinator, relay_report_bytes{encode(relay_report(relay_alive{what.log().held().bytes}))});
        },
    };
  });
}

relay_log_options log_options_of(const relay_config& config) {
  return {config.log_memory_bytes, config.log_disk_bytes, config.log_directory};
}

}  // namespace baton::actors
