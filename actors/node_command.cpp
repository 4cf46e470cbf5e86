#include <algorithm>
#include <optional>

#include <fmt/format.h>
#include <unistd.h>

#include "actors/actor_config.hpp"
#include "actors/process_commands.hpp"
#include "actors/process_end.hpp"
#include "actors/relay.hpp"
#include "kernels/fault.hpp"
#include "runtime/config/cluster_config.hpp"
#include "runtime/process/child_process.hpp"
#include "runtime/transport/ucx_messenger.hpp"

namespace baton {
namespace {

using actors::event_inbox;

const node_config& node_of(const cluster_config& config, const std::string& name) {
  const auto found = std::ranges::find(config.nodes, name, &node_config::name);
  if (found == config.nodes.end())
    throw fault(fault_code::bad_input, "no such node in " + config.source_file.string(), "--name " + name);
  return *found;
}

struct worker_process {
  std::string device;
  child_process process;
  bool told = false;  ///< the coordinator has been told of its end
};

/// The worker processes of a node.
class worker_processes {
 public:
  worker_processes(const cluster_config& config, const node_config& node, const std::string& coordinator)
      : patience_(config.timeouts.shutdown_ms * 3 / 4) {
    const auto description = describe(config);
    for (const auto& device : node.devices) {
      workers_.push_back({device.name, child_process(this_program(),
                                                     {"worker", "--config", "-", "--node", node.name, "--device",
                                                      device.name, "--coordinator", coordinator},
                                                     description, child_process::group::parents)});
    }
  }

  [[nodiscard]] std::vector<int> descriptors() const {
    std::vector<int> all;
    for (const auto& worker : workers_) {
      if (!worker.told) all.push_back(worker.process.descriptor());
    }
    return all;
  }

  /// Those that have ended since the last call.
  [[nodiscard]] std::vector<worker_ended> take_ended() {
    std::vector<worker_ended> all;
    for (auto& worker : workers_) {
      if (worker.told) continue;
      if (const auto status = worker.process.ended()) {
        worker.told = true;
        all.push_back({worker.device, describe_exit(*status)});
      }
    }
    return all;
  }

  /// Ends them all; false if one of them did not end as it should.
  [[nodiscard]] bool end() {
    const auto deadline = std::chrono::steady_clock::now() + patience_;
    bool well = true;
    for (auto& worker : workers_) worker.process.ask_to_end();
    for (auto& worker : workers_) {
      if (!worker.process.wait_until(deadline)) worker.process.kill();
      if (!worker.told) well = well && *worker.process.ended() == 0;
    }
    return well;
  }

 private:
  const std::chrono::milliseconds patience_;
  std::vector<worker_process> workers_;
};

int run_node(const process_options& options) {
  actors::process_end end;
  const auto config = load_cluster_config(options.config);
  const auto& node = node_of(config, options.node);
  const auto where = actors::parse_coordinator_address(options.coordinator);

  ucx_options links;
  links.delay = std::chrono::milliseconds(config.links.delay_ms);
  const auto blocks = make_ucx_messenger(links);
  event_inbox<relay_report> reports;
  relay_log log(actors::log_options_of(node.relay));
  relay the_relay(node.name, log, blocks.get(), [&](relay_report report) { reports.put(std::move(report)); });
  worker_processes workers(config, node, options.coordinator);
  {
    actors::actor_config settings(actors::actor_config::reach::network);
    caf::actor_system system(settings);
    actors::close_side_doors(system);
    const auto in_front = actors::spawn_relay(
        system, actors::connect(system, where, std::chrono::milliseconds(config.timeouts.startup_ms)), the_relay,
        reports, std::chrono::milliseconds(config.timeouts.progress_ms));
    end.watch(system, in_front);
    while (end.wait_for(workers.descriptors())) {
      for (auto& gone : workers.take_ended()) reports.put(std::move(gone));
    }
    caf::anon_send_exit(in_front, caf::exit_reason::user_shutdown);
  }
  return workers.end() ? 0 : 1;
}

}  // namespace

int node_agent_main(const process_options& options) {
  try {
    return run_node(options);
  } catch (const fault& why) {
    fmt::print(stderr, "baton: node {}: {}\n", options.node, why.what());
    return why.code() == fault_code::bad_input ? 2 : 1;
  }
}

}  // namespace baton
