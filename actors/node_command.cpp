#include <algorithm>
#include <optional>

#include <fmt/format.h>
#include <unistd.h>

#include "actors/control_plane.hpp"
#include "actors/job_output.hpp"
#include "actors/process_commands.hpp"
#include "actors/process_end.hpp"
#include "actors/relay.hpp"
#include "actors/worker_processes.hpp"
#include "kernels/fault.hpp"
#include "runtime/config/cluster_config.hpp"
#include "runtime/observe/log.hpp"

namespace baton {
namespace {

using actors::event_inbox;
using actors::process_end;
using clock = worker_processes::clock;

const node_config& node_of(const cluster_config& config, const std::string& name) {
  const auto found = std::ranges::find(config.nodes, name, &node_config::name);
  if (found == config.nodes.end())
    throw fault(fault_code::bad_input, "no such node in " + config.source_file.string(), "--name " + name);
  return *found;
}

/// The node's relay, as coordinators come and go: its log, and its place on the data plane, which it has from the first of them.
struct kept_relay {
  kept_relay(const cluster_config& config, const node_config& node, const std::optional<data_plane_identity>& identity)
      : log(actors::log_options_of(node.relay)),
        issuer(identity ? std::optional(identity->admission.issuer) : std::nullopt),
        blocks(actors::make_messenger(config, node, node.devices, identity)),
        what(node.name, log, blocks.get(), [this](relay_report report) { reports.put(std::move(report)); }) {}

  event_inbox<relay_report> reports;
  relay_log log;
  const std::optional<public_point> issuer;
  const std::unique_ptr<messenger> blocks;
  relay what;
  bool lost_its_coordinator = false;  ///< else that has given it up
};

/// Serves one coordinator as long as that lives. `kept` is what outlives it. False: this process was asked to end.
bool serve(const cluster_config& config, const node_config& node, const actors::coordinator_address& where,
           const cluster_identity* identity, std::chrono::milliseconds patience, worker_processes& workers,
           const process_end& end, std::unique_ptr<kept_relay>& kept) {
  std::vector<relay_report> ended;  // before there is a relay that could tell it
  actors::actor_config settings(actors::actor_config::reach::network, identity);
  caf::actor_system system(settings);
  actors::close_side_doors(system);

  // One look at the workers, at most so long; what has happened meanwhile.
  const auto look_after_workers = [&](std::optional<std::chrono::milliseconds> at_most) {
    auto time = workers.until_restart(clock::now());
    if (at_most) time = time ? std::min(*time, *at_most) : *at_most;
    const auto woken = end.wait_for(workers.descriptors(), time);
    for (auto& gone : workers.take_ended(clock::now())) {
      if (kept) {
        kept->reports.put(std::move(gone));
      } else {
        ended.emplace_back(std::move(gone));
      }
    }
    workers.restart_due(clock::now());
    return woken;
  };

  std::optional<actors::membership> joined;
  const auto keeps_until = clock::now() + std::chrono::milliseconds(config.recovery.keep_ms);
  try {
    joined = actors::join_cluster(system, where, identity, patience, [&](std::chrono::milliseconds time) {
      // Nobody has come that would take up the runs whose blocks it keeps: it will be another relay, at another address.
      if (kept && clock::now() > keeps_until) kept.reset();
      return look_after_workers(time) != process_end::woken::signal;
    });
  } catch (const fault& why) {
    if (why.code() != fault_code::cancelled) throw;
    return false;
  }
  log_line(config.timeouts.reconnect_ms > 0 ? log_level::info : log_level::debug,
           fmt::format("the coordinator at {}:{} has let it in", where.host, where.port), {{"node", node.name}});
  // Of another journal's cluster: nobody of that one could speak with it.
  if (kept && (!joined->data_plane || kept->issuer != joined->data_plane->admission.issuer)) kept.reset();
  if (!kept) kept = std::make_unique<kept_relay>(config, node, joined->data_plane);
  for (auto& report : ended) kept->reports.put(std::move(report));
  kept->lost_its_coordinator = false;
  const auto in_front = actors::spawn_relay(system, joined->coordinator, kept->what, kept->reports,
                                            std::chrono::milliseconds(config.timeouts.progress_ms),
                                            [&lost = kept->lost_its_coordinator] { lost = true; });
  joined.reset();
  end.watch(in_front);
  auto woken = process_end::woken::time;
  while (woken == process_end::woken::time || woken == process_end::woken::descriptor) woken = look_after_workers({});
  caf::anon_send_exit(in_front, caf::exit_reason::user_shutdown);
  return woken == process_end::woken::actor;
}

int run_node(const process_options& options) {
  const process_end end;
  auto config = load_cluster_config(options.config);
  config.processes = process_layout::per_device;
  const auto& node = node_of(config, options.node);
  check_stays(config);
  const auto where = coordinator_of(config, options.coordinator);
  const auto& timeouts = config.timeouts;
  const bool stays = timeouts.reconnect_ms > 0;
  const std::chrono::milliseconds patience(std::max(timeouts.startup_ms, timeouts.reconnect_ms));

  const auto identity = actors::identity_of(config, {member_role::node, node.name});
  worker_processes workers(config, node, fmt::format("{}:{}", where.host, where.port));
  std::unique_ptr<kept_relay> kept;
  while (serve(config, node, where, identity.get(), patience, workers, end, kept) && stays) {
    if (!kept->lost_its_coordinator) kept.reset();
    log_line(log_level::warning,
             fmt::format("the coordinator is gone; looking for it at {}:{}", where.host, where.port),
             {{"node", node.name}});
    // Also where it is there, and has only given this node up: not in a tight loop.
    if (end.wait_for({}, std::chrono::milliseconds(200)) == process_end::woken::signal) break;
  }
  return workers.end() ? 0 : 1;
}

}  // namespace

int node_agent_main(const process_options& options) {
  try {
    return run_node(options);
  } catch (const fault& why) {
    return report(why, why.code() == fault_code::bad_input ? 2 : 1);
  }
}

}  // namespace baton
