#include <algorithm>
#include <mutex>

#include <fmt/format.h>

#include "actors/control_plane.hpp"
#include "actors/coordinator.hpp"
#include "actors/job_output.hpp"
#include "actors/prepared_job.hpp"
#include "actors/process_commands.hpp"
#include "actors/process_end.hpp"
#include "kernels/fault.hpp"
#include "runtime/journal/journal.hpp"
#include "runtime/observe/log.hpp"

namespace baton {
namespace {

using actors::process_end;

/// What a plan takes of the devices' memory, for admission.
std::function<std::vector<device_need>(const job_plan&)> memory_by(planning& with) {
  const std::int64_t limit =
      with.config.positions_max > 0 ? with.config.positions_max : with.model.config().max_positions;
  return [&with, limit](const job_plan& plan) {
    std::vector<device_need> needs;
    for (const auto& cost : costs_on(with, plan, limit).devices)
      needs.push_back({cost.node, cost.device, with_margin(cost.arena_bytes())});
    return needs;
  };
}

int run_coordinator(const process_options& options) {
  const process_end end;
  auto config = load_cluster_config(options.config);
  config.processes = process_layout::per_device;
  check_stays(config);
  if (config.coordinator.journal.empty()) {
    throw fault(fault_code::bad_input, "give the folder where submissions and results are kept",
                config.source_file.string() + ": coordinator.journal");
  }
  auto with = prepare_planning(config, false);
  journal kept(config.coordinator.journal, {.ended_max = static_cast<std::size_t>(config.coordinator.results)});

  auto how = actors::coordinator_options_of(config, with.model);
  how.model.memory_of = memory_by(with);
  how.limits.queue_max = static_cast<std::size_t>(config.coordinator.queue);
  how.limits.running_max = static_cast<std::size_t>(config.coordinator.jobs);
  how.limits.assemble_s = config.timeouts.startup_ms / 1000.0;
  how.limits.orphan_s = config.timeouts.client_ms / 1000.0;
  how.store = &kept;
  const auto identity = actors::identity_of(config, {member_role::coordinator, {}});
  actors::coordinator_port door(identity.get(), kept.data_plane_root());
  how.admitted = door.admitted();
  how.comings = log_level::info;
  const auto unfinished = kept.unfinished().size();

  std::mutex mutex;
  std::string ended;  ///< why the actor did
  actors::actor_config settings(actors::actor_config::reach::network, identity.get());
  caf::actor_system system(settings);
  actors::close_side_doors(system);
  auto coordinator = actors::spawn_coordinator(system, how);
  caf::actor_cast<caf::abstract_actor*>(coordinator)->attach_functor([&](const caf::error& why) {
    const std::lock_guard lock(mutex);
    ended = why ? system.render(why) : "for no reason";
  });
  const auto& where = config.coordinator;
  std::uint16_t port = 0;
  try {
    port = door.open(system, coordinator, {where.address, static_cast<std::uint16_t>(where.port)});
  } catch (const fault&) {
    caf::anon_send_exit(coordinator, caf::exit_reason::user_shutdown);
    throw;
  }
  log_line(log_level::info,
           fmt::format("listening on {}:{}, generation {}, {} job{} to run", where.address, port, kept.generation(),
                       unfinished, unfinished == 1 ? "" : "s"),
           {{"address", where.address}, {"port", port}, {"generation", static_cast<std::int64_t>(kept.generation())}});
  end.watch(coordinator);
  const auto woken = end.wait_for({});
  caf::anon_send_exit(coordinator, caf::exit_reason::user_shutdown);
  coordinator = nullptr;
  const std::lock_guard lock(mutex);
  if (woken == process_end::woken::signal) {
    log_line(log_level::info, "asked to end; what it has accepted stays in the journal");
    return 0;
  }
  log_line(log_level::error, fmt::format("its actor ended: {}", ended));
  return 1;
}

}  // namespace

int coordinator_main(const process_options& options) {
  try {
    return run_coordinator(options);
  } catch (const fault& why) {
    return report(why, why.code() == fault_code::bad_input ? 2 : 1);
  }
}

void check_stays(const cluster_config& config) {
  for (const auto& node : config.nodes) {
    for (const auto& device : node.devices) {
      if (device.memory_bytes == 0) {
        throw fault(fault_code::bad_input,
                    "a cluster that stays must be told how much memory a device has for KV and workspace, not auto",
                    fmt::format("{}: memory of device {}/{}", config.source_file.string(), node.name, device.name));
      }
    }
  }
}

actors::coordinator_address coordinator_of(const cluster_config& config, const std::string& typed) {
  if (!typed.empty()) return actors::parse_coordinator_address(typed);
  return {config.coordinator.address, static_cast<std::uint16_t>(config.coordinator.port)};
}

}  // namespace baton
