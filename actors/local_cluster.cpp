#include "actors/local_cluster.hpp"

#include <algorithm>
#include <thread>

#include <fmt/format.h>

#include "actors/coordinator.hpp"
#include "actors/relay.hpp"
#include "actors/worker.hpp"
#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/fault.hpp"

namespace baton::actors {
namespace {

/// Query pieces use the chunk buffers too.
std::int64_t chunk_rows(std::int64_t chunk_tokens) { return std::max(chunk_tokens, decode_pass::piece_tokens); }

}  // namespace

struct local_cluster::actor_config : caf::actor_system_config {
  actor_config() {
    add_message_types<caf::id_block::baton>();
    // Sharing is quieter when idle and answers faster beside busy threads than work stealing.
    set("scheduler.policy", caf::atom("sharing"));
    set("scheduler.max-threads", 2u);
  }
};

local_devices::local_devices(const cluster_config& config) {
  if (config.nodes.size() != 1) {
    throw fault(fault_code::bad_input, fmt::format("one process holds one node, {} are declared", config.nodes.size()),
                config.source_file.string());
  }
  const auto& node = config.nodes.front();
  for (const auto& device : node.devices) {
    cpu::cpu_options options;
    options.activation = config.model.precision;
    options.threads = device.threads;
    options.cores = device.cores;
    if (options.threads == 0) {
      options.threads = device.cores.empty() ? static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))
                                             : static_cast<int>(device.cores.size());
    }
    backends_.push_back(cpu::make_cpu_backend(options));
    views_.push_back({node.name, device.name, backends_.back()->kernel_class()});
  }
}

cost_basis basis_of(local_devices& devices, const checkpoint& model, std::int64_t positions,
                    std::int64_t chunk_tokens) {
  auto& kernels = devices.kernels(0);
  device_options options;
  options.positions_max = positions;
  options.chunk_tokens_max = chunk_rows(chunk_tokens);
  return {&kernels, &model.config(),
          static_cast<std::int64_t>(model_weights::bytes_needed(kernels, model.config(), model.retaining_width())),
          static_cast<std::int64_t>(
              device_context::fixed_bytes(kernels, model.config(), model.retaining_width(), options))};
}

local_cluster::local_cluster(const cluster_config& config, const checkpoint& model, local_devices& devices,
                             std::span<const std::int64_t> arena_bytes, std::int64_t positions,
                             const load_progress& progress)
    : weights_(devices.kernels(0), model, progress),
      log_(config.nodes.front().relay.log_bytes_max),
      network_(log_),
      actor_config_(std::make_unique<actor_config>()),
      system_(std::make_unique<caf::actor_system>(*actor_config_)) {
  try {
    start(config, model, devices, arena_bytes, positions);
  } catch (...) {
    shut_down();
    throw;
  }
}

void local_cluster::start(const cluster_config& config, const checkpoint& model, local_devices& devices,
                          std::span<const std::int64_t> arena_bytes, std::int64_t positions) {
  const auto& node = config.nodes.front();
  coordinator_options options;
  options.model = {model.config().max_positions, model.config().vocabulary, weights_.has_retaining_heads(),
                   shape_of(model.config(), config.model.precision)};
  options.limits.silence_s = config.timeouts.silence_ms / 1000.0;
  options.limits.tick_s = config.timeouts.progress_ms / 1000.0;
  options.limits.stuck_s = config.timeouts.exchange_ms / 1000.0;
  options.tick = std::chrono::milliseconds(config.timeouts.progress_ms);
  coordinator_ = spawn_coordinator(*system_, options);
  relay_ = spawn_relay(*system_, coordinator_, node.name, log_, std::chrono::milliseconds(config.timeouts.progress_ms));
  for (std::size_t i = 0; i < devices.size(); ++i) {
    worker_options worker;
    worker.kernels = &devices.kernels(i);
    worker.weights = &weights_;
    worker.device.node = node.name;
    worker.device.name = node.devices[i].name;
    worker.device.memory_bytes = static_cast<std::size_t>(arena_bytes[i]);
    worker.device.positions_max = positions;
    worker.device.chunk_tokens_max = chunk_rows(config.job.chunk_tokens);
    worker.progress = std::chrono::milliseconds(config.timeouts.progress_ms);
    workers_.push_back(spawn_worker(*system_, coordinator_, worker, network_.make_endpoint()));
  }
  wait_until_joined(std::chrono::milliseconds(config.timeouts.startup_ms));
}

void local_cluster::wait_until_joined(std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  const caf::scoped_actor self(*system_);
  for (;;) {
    std::uint64_t workers = 0;
    std::uint64_t relays = 0;
    std::string error;
    self->request(coordinator_, std::chrono::seconds(1), count_atom::value)
        .receive([&](std::uint64_t w, std::uint64_t r) { workers = w, relays = r; },
                 [&](const caf::error& why) { error = system_->render(why); });
    if (workers == workers_.size() && relays == 1) return;
    if (std::chrono::steady_clock::now() > deadline) {
      throw fault(fault_code::deadline,
                  fmt::format("{} of {} workers and {} of 1 relays joined within {} ms{}", workers, workers_.size(),
                              relays, patience.count(), error.empty() ? "" : " (" + error + ")"),
                  "startup");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

local_cluster::~local_cluster() { shut_down(); }

void local_cluster::shut_down() {
  // Everybody monitors the coordinator, but leaving in order needs no reasons in anybody's log. No handle may outlive the
  // system, whose destructor waits for all actors.
  for (auto& worker : workers_) caf::anon_send_exit(worker, caf::exit_reason::user_shutdown);
  caf::anon_send_exit(relay_, caf::exit_reason::user_shutdown);
  caf::anon_send_exit(coordinator_, caf::exit_reason::user_shutdown);
  workers_.clear();
  relay_ = nullptr;
  coordinator_ = nullptr;
  system_.reset();
}

}  // namespace baton::actors
