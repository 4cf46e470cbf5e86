#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "actors/messages.hpp"
#include "kernels/backend.hpp"
#include "runtime/device/device_context.hpp"
#include "runtime/transport/transport.hpp"

namespace baton::actors {

/// What a rank worker is made of. Backend, weights and network outlive the worker.
struct worker_options {
  backend* kernels = nullptr;
  const model_weights* weights = nullptr;
  device_options device;
  std::string address{};  ///< of its process on the data plane
  std::chrono::milliseconds progress{100};
};

/// One device with its context, its compute thread and what it holds of jobs. It outlives the actors in front of it, one for each coordinator
/// that it joins: without one it computes on, and what the device says waits for the next. One actor at a time uses it, or whoever holds it
/// while there is none.
class worker_core {
 public:
  /// Throws fault(out_of_memory) when the device's memory is not to be had.
  worker_core(const worker_options& options, std::unique_ptr<endpoint> network);
  ~worker_core();
  worker_core(const worker_core&) = delete;
  worker_core& operator=(const worker_core&) = delete;

  /// Whether its last actor has ended because the coordinator was gone. Else that has given the worker up, or the actor has failed.
  [[nodiscard]] bool lost_its_coordinator() const;

 private:
  friend class worker_state;
  struct parts;
  const std::unique_ptr<parts> parts_;
};

/// Spawns the actor in front of one device: it stays responsive while that computes, and joins the coordinator. It ends when the coordinator
/// does.
worker_actor spawn_worker(caf::actor_system& system, const coordinator_actor& coordinator,
                          std::shared_ptr<worker_core> core);

}  // namespace baton::actors
