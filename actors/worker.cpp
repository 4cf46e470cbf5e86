#include "actors/worker.hpp"

#include <optional>
#include <utility>

#include <unistd.h>

#include "actors/event_inbox.hpp"
#include "actors/guard.hpp"
#include "runtime/cluster/worker_logic.hpp"
#include "runtime/device/device_loop.hpp"
#include "runtime/device/warm_up.hpp"
#include "runtime/wire/codec.hpp"

namespace baton::actors {

struct worker_core::parts {
  parts(const worker_options& options, std::unique_ptr<endpoint> door)
      : progress(options.progress),
        network(std::move(door)),
        device(std::make_unique<device_context>(*options.kernels, *options.weights, options.device)),
        logic({options.device.node, options.device.name, options.kernels->kernel_class(),
               static_cast<std::int64_t>(options.device.memory_bytes), options.address, getpid(),
               options.kernels->block_multiple()}) {
    warm_up(*device);
    loop.emplace(*device, *network, [this](device_event event) { inbox.put(std::move(event)); });
  }

  const std::chrono::milliseconds progress;
  event_inbox<device_event> inbox;
  const std::unique_ptr<endpoint> network;
  const std::unique_ptr<device_context> device;
  worker_logic logic;
  bool lost_its_coordinator = false;
  std::optional<device_loop> loop;
};

worker_core::worker_core(const worker_options& options, std::unique_ptr<endpoint> network)
    : parts_(std::make_unique<parts>(options, std::move(network))) {}

worker_core::~worker_core() = default;

bool worker_core::lost_its_coordinator() const { return parts_->lost_its_coordinator; }

class worker_state {
 public:
  worker_state(worker_actor::pointer self, const coordinator_actor& coordinator, std::shared_ptr<worker_core> core)
      : self_(self), coordinator_(coordinator), core_(std::move(core)), parts_(*core_->parts_) {
    const turn now(self_);
    parts_.lost_its_coordinator = false;
    self_->monitor(coordinator_);
    self_->set_down_handler([this](caf::down_msg& down) {
      const turn goes(self_);
      parts_.lost_its_coordinator = true;
      self_->quit(down.reason);
    });
  }
  ~worker_state() { parts_.inbox.on_first({}); }

  worker_actor::behavior_type make_behavior() {
    const turn now(self_);
    self_->send(coordinator_, worker_actor(self_), worker_report_bytes{encode(worker_report(parts_.logic.joins()))});
    self_->delayed_send(self_, parts_.progress, tick_atom::value);
    // An address, not a handle: a handle would keep the actor alive that may own the compute thread.
    parts_.inbox.on_first([me = caf::actor_cast<caf::actor_addr>(caf::actor_cast<caf::strong_actor_ptr>(self_))] {
      if (const auto worker = caf::actor_cast<caf::strong_actor_ptr>(me))
        caf::anon_send(caf::actor_cast<worker_actor>(worker), device_atom::value);
    });
    return {
        [this](const worker_command_bytes& m) {
          guard(self_, [&] {
            std::uint64_t generation = 0;
            const auto command = decode_worker_command(m.bytes, &generation);
            parts_.logic.coordinator_said(command, generation);
            act();
          });
        },
        [this](device_atom) {
          guard(self_, [&] {
            for (const auto& event : parts_.inbox.take()) parts_.logic.device_said(event);
            act();
          });
        },
        [this](tick_atom) {
          self_->delayed_send(self_, parts_.progress, tick_atom::value);
          guard(self_, [&] {
            parts_.logic.passes_stand_at(parts_.loop->snapshot());
            act();
          });
        },
    };
  }

 private:
  void act() {
    for (auto& action : parts_.logic.take_actions()) {
      if (auto* command = std::get_if<device_command>(&action)) {
        parts_.loop->post(std::move(*command));
      } else {
        self_->send(coordinator_, worker_report_bytes{encode(std::get<worker_report>(action))});
      }
    }
  }

  worker_actor::pointer self_;
  const coordinator_actor coordinator_;
  const std::shared_ptr<worker_core> core_;
  worker_core::parts& parts_;
};

worker_actor spawn_worker(caf::actor_system& system, const coordinator_actor& coordinator,
                          std::shared_ptr<worker_core> core) {
  // Moved on to the state, which goes when the actor ends: whatever keeps the actor's memory must not keep the core.
  auto owned = std::make_shared<std::shared_ptr<worker_core>>(std::move(core));
  return system.spawn([=](worker_actor::stateful_pointer<std::unique_ptr<worker_state>> self) {
    self->state = std::make_unique<worker_state>(self, coordinator, std::move(*owned));
    return self->state->make_behavior();
  });
}

}  // namespace baton::actors
