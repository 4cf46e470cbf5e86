#include "actors/local_cluster.hpp"

#include <algorithm>

#include "actors/coordinator.hpp"
#include "actors/relay.hpp"
#include "actors/worker.hpp"

namespace baton::actors {

local_cluster::local_cluster(const cluster_config& config, const checkpoint& model, cluster_devices& devices,
                             std::span<const std::int64_t> arena_bytes, std::int64_t positions,
                             const load_progress& progress)
    : log_(log_options_of(config.nodes.front().relay)),
      relay_(config.nodes.front().name, log_, nullptr,
             [this](relay_report report) { reports_.put(std::move(report)); }),
      network_(log_),
      actor_config_(actor_config::reach::process),
      system_(std::make_unique<caf::actor_system>(actor_config_)) {
  load(config, model, devices, progress);
  try {
    start(config, model, devices, arena_bytes, positions);
  } catch (...) {
    shut_down();
    throw;
  }
}

/// Once for all CPU devices, and once for each GPU.
void local_cluster::load(const cluster_config& config, const checkpoint& model, cluster_devices& devices,
                         const load_progress& progress) {
  const auto& declared = config.nodes.front().devices;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    auto& weights = weights_[weights_place(declared[i])];
    if (!weights) weights = std::make_unique<model_weights>(devices.kernels(i), model, progress);
    weights_of_.push_back(weights.get());
  }
}

void local_cluster::start(const cluster_config& config, const checkpoint& model, cluster_devices& devices,
                          std::span<const std::int64_t> arena_bytes, std::int64_t positions) {
  const auto& node = config.nodes.front();
  auto options = coordinator_options_of(config, model);
  // Inside one process silence means that the machine is busy, not that somebody has died.
  options.limits.silence_s = std::max(options.limits.silence_s, 30.0);
  coordinator_ = spawn_coordinator(*system_, options);
  relay_actor_ =
      spawn_relay(*system_, coordinator_, relay_, reports_, std::chrono::milliseconds(config.timeouts.progress_ms));
  for (std::size_t i = 0; i < devices.size(); ++i) {
    auto worker = worker_options_of(config, node, node.devices[i], arena_bytes[i], positions);
    worker.kernels = &devices.kernels(i);
    worker.weights = weights_of_[i];
    workers_.push_back(
        spawn_worker(*system_, coordinator_, std::make_shared<worker_core>(worker, network_.make_endpoint())));
  }
  wait_until_joined(*system_, coordinator_, workers_.size(), 1, std::chrono::milliseconds(config.timeouts.startup_ms),
                    [] {});
}

local_cluster::~local_cluster() { shut_down(); }

void local_cluster::shut_down() {
  // Everybody monitors the coordinator, but leaving in order needs no reasons in anybody's log. No handle may outlive the
  // system, whose destructor waits for all actors.
  for (auto& worker : workers_) caf::anon_send_exit(worker, caf::exit_reason::user_shutdown);
  caf::anon_send_exit(relay_actor_, caf::exit_reason::user_shutdown);
  caf::anon_send_exit(coordinator_, caf::exit_reason::user_shutdown);
  workers_.clear();
  relay_actor_ = nullptr;
  coordinator_ = nullptr;
  system_.reset();
}

}  // namespace baton::actors
