#include <algorithm>
#include <optional>
#include <span>

#include <fmt/format.h>

#include "actors/affinity.hpp"
#include "actors/cluster_devices.hpp"
#include "actors/control_plane.hpp"
#include "actors/job_output.hpp"
#include "actors/process_commands.hpp"
#include "actors/process_end.hpp"
#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/fault.hpp"
#include "runtime/observe/format.hpp"
#include "runtime/observe/log.hpp"
#include "runtime/process/child_process.hpp"
#include "runtime/transport/process_network.hpp"

namespace baton {
namespace {

using actors::process_end;

/// What a worker process is made of, whichever coordinator it serves.
struct worker_parts {
  const cluster_config& config;
  const process_end& end;
  const node_config& node;
  const device_config& device;
  const cluster_identity* identity = nullptr;
  std::vector<int> ends_with;  ///< readable when its agent has ended
  log_level comings = log_level::debug;
  actors::worker_options options;
};

/// The worker, as coordinators come and go: its device with all that it holds and computes, and its place on the data plane, which it has from
/// the first of them.
struct kept_worker {
  kept_worker(const worker_parts& worker, const std::optional<data_plane_identity>& identity)
      : issuer(identity ? std::optional(identity->admission.issuer) : std::nullopt),
        blocks(actors::make_messenger(worker.config, worker.node, std::span(&worker.device, 1), identity)),
        network(*blocks) {
    auto options = worker.options;
    options.address = blocks->address();
    core = std::make_shared<actors::worker_core>(options, network.make_endpoint());
  }

  const std::optional<public_point> issuer;
  const std::unique_ptr<messenger> blocks;
  process_network network;
  std::shared_ptr<actors::worker_core> core;
};

/// Nobody has come that would take up what it holds: it will be another worker, at another address.
void let_go(const worker_parts& worker, std::unique_ptr<kept_worker>& kept) {
  kept.reset();
  log_line(worker.comings, "no coordinator has come in time: what was held for one is gone",
           {{"node", worker.options.device.node}, {"device", worker.options.device.name}});
}

/// Serves one coordinator as long as that lives. `kept` is what outlives it. False: this process is to end.
bool serve(const worker_parts& worker, const actors::coordinator_address& where, std::chrono::milliseconds patience,
           std::unique_ptr<kept_worker>& kept) {
  actors::actor_config settings(actors::actor_config::reach::network, worker.identity);
  caf::actor_system system(settings);
  actors::close_side_doors(system);
  const auto goes_on = [](process_end::woken woken) {
    return woken == process_end::woken::time || woken == process_end::woken::actor;
  };
  using clock = std::chrono::steady_clock;
  const auto keeps_until = clock::now() + std::chrono::milliseconds(worker.config.recovery.keep_ms);
  std::optional<actors::worker_actor> in_front;
  try {
    const auto joined =
        actors::join_cluster(system, where, worker.identity, patience, [&](std::chrono::milliseconds time) {
          if (kept && clock::now() > keeps_until) let_go(worker, kept);
          return goes_on(worker.end.wait_for(worker.ends_with, time));
        });
    const auto& place = worker.options.device;
    log_line(worker.comings, fmt::format("the coordinator at {}:{} has let it in", where.host, where.port),
             {{"node", place.node}, {"device", place.name}});
    // Of another journal's cluster: nobody of that one could speak with it.
    if (kept && (!joined.data_plane || kept->issuer != joined.data_plane->admission.issuer)) kept.reset();
    if (!kept) kept = std::make_unique<kept_worker>(worker, joined.data_plane);
    in_front = actors::spawn_worker(system, joined.coordinator, kept->core);
  } catch (const fault& why) {
    if (why.code() != fault_code::cancelled) throw;
    return false;
  }
  worker.end.watch(*in_front);
  const auto woken = worker.end.wait_for(worker.ends_with);
  caf::anon_send_exit(*in_front, caf::exit_reason::user_shutdown);
  in_front.reset();
  return goes_on(woken);
}

int run_worker(const process_options& options) {
  const process_end end;
  const auto config = load_cluster_config(options.config);
  const auto where = coordinator_of(config, options.coordinator);
  const auto node = std::ranges::find(config.nodes, options.node, &node_config::name);
  if (node == config.nodes.end())
    throw fault(fault_code::bad_input, "no such node in " + config.source_file.string(), "--node " + options.node);
  const auto device = std::ranges::find(node->devices, options.device, &device_config::name);
  if (device == node->devices.end())
    throw fault(fault_code::bad_input, "no such device on node " + node->name, "--device " + options.device);
  if (device->memory_bytes == 0) {
    throw fault(fault_code::bad_input, "a worker process must be told its memory, not auto",
                config.source_file.string());
  }
  const bool stays = config.timeouts.reconnect_ms > 0;
  std::optional<parent_process> agent;
  if (stays) agent.emplace(options.agent);

  if (device->kind == device_kind::cuda) {
    // All that this process does is for one GPU: its pinned memory comes from there too.
    if (const auto near = actors::cores_of(*node, *device); !near.empty()) cpu::keep_to(near);
  }
  const auto kernels = actors::make_backend(config.model, *node, *device);
  const auto model = checkpoint::open(config.model.directory);
  const double began_s = steady_seconds();
  const model_weights weights(*kernels, model);
  log_line(
      stays ? log_level::info : log_level::debug,
      fmt::format("has loaded {} in {}", config.model.directory.string(), format_seconds(steady_seconds() - began_s)),
      {{"node", node->name}, {"device", device->name}});
  const std::int64_t positions = config.positions_max > 0 ? config.positions_max : model.config().max_positions;
  const auto identity = actors::identity_of(config, {member_role::node, node->name});
  worker_parts parts{config,
                     end,
                     *node,
                     *device,
                     identity.get(),
                     {},
                     stays ? log_level::info : log_level::debug,
                     actors::worker_options_of(config, *node, *device, device->memory_bytes, positions)};
  parts.options.kernels = kernels.get();
  parts.options.weights = &weights;
  if (agent) parts.ends_with.push_back(agent->descriptor());
  const std::chrono::milliseconds patience(std::max(config.timeouts.startup_ms, config.timeouts.reconnect_ms));
  std::unique_ptr<kept_worker> kept;
  while (serve(parts, where, patience, kept) && stays) {
    if (!kept->core->lost_its_coordinator()) kept.reset();
    if (end.wait_for(parts.ends_with, std::chrono::milliseconds(200)) != process_end::woken::time) break;
  }
  return 0;
}

}  // namespace

int rank_worker_main(const process_options& options) {
  try {
    return run_worker(options);
  } catch (const fault& why) {
    return report(why, why.code() == fault_code::bad_input ? 2 : 1);
  }
}

}  // namespace baton
