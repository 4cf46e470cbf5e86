#include "actors/process_cluster.hpp"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include "actors/coordinator.hpp"
#include "kernels/fault.hpp"
#include "runtime/observe/log.hpp"
#include "runtime/strategy/strategy.hpp"

namespace baton::actors {
namespace {

constexpr const char* loopback = "127.0.0.1";

/// What all processes are to know: the configuration with what the plan has settled.
std::string description_for_processes(cluster_config config, std::span<const std::int64_t> arena_bytes,
                                      std::int64_t positions) {
  config.positions_max = positions;
  // Jobs come with their own options; those of a compared strategy need not fit the file's.
  if (!find_strategy(config.job.strategy).splits()) {
    config.job.ranks = 1;
    config.job.block_tokens.clear();
  }
  config.timeouts.reconnect_ms = 0;  // they end with this process
  // All of it is on loopback.
  config.security = {};
  config.coordinator.address = loopback;
  for (auto& node : config.nodes) {
    node.address = loopback;
    node.data_ports = {};
  }
  std::size_t next = 0;
  for (auto& node : config.nodes) {
    for (auto& device : node.devices) device.memory_bytes = arena_bytes[next++];
  }
  return describe(config);
}

}  // namespace

process_cluster::process_cluster(const cluster_config& config, const checkpoint& model, const cluster_devices& devices,
                                 std::span<const std::int64_t> arena_bytes, std::int64_t positions,
                                 const std::function<void()>& check, const std::filesystem::path& program)
    : patience_(config.timeouts.shutdown_ms),
      actor_config_(actor_config::reach::network),
      system_(std::make_unique<caf::actor_system>(actor_config_)) {
  try {
    start(config, model, devices.size(), check, program, description_for_processes(config, arena_bytes, positions));
  } catch (...) {
    shut_down();
    throw;
  }
}

void process_cluster::start(const cluster_config& config, const checkpoint& model, std::size_t workers,
                            const std::function<void()>& check, const std::filesystem::path& program,
                            const std::string& description) {
  close_side_doors(*system_);
  coordinator_ = spawn_coordinator(*system_, coordinator_options_of(config, model));
  const auto port = port_.open(*system_, coordinator_, {loopback, 0});
  for (const auto& node : config.nodes) {
    std::vector<std::string> words{
        "node", "--config", "-", "--name", node.name, "--coordinator", fmt::format("{}:{}", loopback, port)};
    std::ranges::move(log_arguments(), std::back_inserter(words));
    agents_.push_back({node.name, child_process(program, words, description, child_process::group::own)});
  }
  wait_until_joined(*system_, coordinator_, workers, agents_.size(),
                    std::chrono::milliseconds(config.timeouts.startup_ms), [&] {
                      check();
                      for (auto& agent : agents_) {
                        if (const auto status = agent.process.ended()) {
                          throw fault(fault_code::lost_peer,
                                      fmt::format("the node agent ended while it started: {}", describe_exit(*status)),
                                      "node " + agent.node);
                        }
                      }
                    });
}

process_cluster::~process_cluster() { shut_down(); }

void process_cluster::shut_down() {
  caf::anon_send_exit(coordinator_, caf::exit_reason::user_shutdown);
  coordinator_ = nullptr;
  const auto deadline = std::chrono::steady_clock::now() + patience_;
  for (auto& agent : agents_) agent.process.ask_to_end();
  for (auto& agent : agents_) {
    if (!agent.process.wait_until(deadline)) {
      log_line(log_level::warning,
               fmt::format("node {}: its agent (process {}) did not end within {} ms and is killed", agent.node,
                           agent.process.pid(), patience_.count()),
               {{"node", agent.node}});
    } else if (const int status = *agent.process.ended(); status != 0) {
      log_line(log_level::warning, fmt::format("node {}: its agent ended with {}", agent.node, describe_exit(status)),
               {{"node", agent.node}});
    }
  }
  agents_.clear();
  system_.reset();
}

}  // namespace baton::actors
