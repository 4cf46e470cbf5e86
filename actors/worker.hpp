#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

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

/// Spawns the actor in front of one device: it owns the device context and its compute thread, stays responsive while that
/// computes, and joins the coordinator. It ends when the coordinator does.
/// `make_endpoint` is called once. Throws fault(out_of_memory) when the device's memory is not to be had.
worker_actor spawn_worker(caf::actor_system& system, const coordinator_actor& coordinator,
                          const worker_options& options, std::unique_ptr<endpoint> network);

}  // namespace baton::actors
