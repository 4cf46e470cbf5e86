#include "actors/worker.hpp"

#include <memory>
#include <utility>

#include <unistd.h>

#include "actors/event_inbox.hpp"
#include "actors/guard.hpp"
#include "runtime/cluster/worker_logic.hpp"
#include "runtime/device/device_loop.hpp"
#include "runtime/device/warm_up.hpp"
#include "runtime/wire/codec.hpp"

namespace baton::actors {
namespace {

class worker_state {
 public:
  worker_state(worker_actor::pointer self, const coordinator_actor& coordinator, const worker_options& options,
               std::unique_ptr<device_context> device, std::unique_ptr<endpoint> network)
      : self_(self),
        coordinator_(coordinator),
        progress_(options.progress),
        network_(std::move(network)),
        device_(std::move(device)),
        logic_({options.device.node, options.device.name, options.kernels->kernel_class(),
                static_cast<std::int64_t>(options.device.memory_bytes), options.address, getpid(),
                options.kernels->block_multiple()}),
        loop_(*device_, *network_, [this](device_event event) { inbox_.put(std::move(event)); }) {
    const turn now(self_);
    // An address, not a handle: a handle would keep the actor alive that owns the compute thread.
    inbox_.on_first([me = caf::actor_cast<caf::actor_addr>(caf::actor_cast<caf::strong_actor_ptr>(self))] {
      if (const auto worker = caf::actor_cast<caf::strong_actor_ptr>(me))
        caf::anon_send(caf::actor_cast<worker_actor>(worker), device_atom::value);
    });
    self_->monitor(coordinator_);
    self_->set_down_handler([self](caf::down_msg& down) { self->quit(down.reason); });
  }

  worker_actor::behavior_type make_behavior() {
    const turn now(self_);
    self_->send(coordinator_, worker_actor(self_), worker_report_bytes{encode(worker_report(logic_.who()))});
    self_->delayed_send(self_, progress_, tick_atom::value);
    return {
        [this](const worker_command_bytes& m) {
          guard(self_, [&] {
            logic_.coordinator_said(decode_worker_command(m.bytes));
            act();
          });
        },
        [this](device_atom) {
          guard(self_, [&] {
            for (const auto& event : inbox_.take()) logic_.device_said(event);
            act();
          });
        },
        [this](tick_atom) {
          self_->delayed_send(self_, progress_, tick_atom::value);
          guard(self_, [&] {
            logic_.passes_stand_at(loop_.snapshot());
            act();
          });
        },
    };
  }

 private:
  void act() {
    for (auto& action : logic_.take_actions()) {
      if (auto* command = std::get_if<device_command>(&action)) {
        loop_.post(std::move(*command));
      } else {
        self_->send(coordinator_, worker_report_bytes{encode(std::get<worker_report>(action))});
      }
    }
  }

  worker_actor::pointer self_;
  const coordinator_actor coordinator_;
  const std::chrono::milliseconds progress_;
  event_inbox<device_event> inbox_;
  std::unique_ptr<endpoint> network_;
  std::unique_ptr<device_context> device_;
  worker_logic logic_;
  device_loop loop_;
};

}  // namespace

worker_actor spawn_worker(caf::actor_system& system, const coordinator_actor& coordinator,
                          const worker_options& options, std::unique_ptr<endpoint> network) {
  // Memory is taken here, where a fault can still be told to whoever asked.
  auto device = std::make_shared<std::unique_ptr<device_context>>(
      std::make_unique<device_context>(*options.kernels, *options.weights, options.device));
  warm_up(**device);
  auto door = std::make_shared<std::unique_ptr<endpoint>>(std::move(network));
  return system.spawn([=](worker_actor::stateful_pointer<std::unique_ptr<worker_state>> self) {
    self->state = std::make_unique<worker_state>(self, coordinator, options, std::move(*device), std::move(*door));
    return self->state->make_behavior();
  });
}

}  // namespace baton::actors
