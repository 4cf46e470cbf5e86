#include "actors/worker_processes.hpp"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

#include "runtime/observe/log.hpp"

namespace baton {

worker_processes::worker_processes(const cluster_config& config, const node_config& node, std::string coordinator)
    : node_(node.name),
      coordinator_(std::move(coordinator)),
      description_(describe(config)),
      patience_(config.timeouts.shutdown_ms * 3 / 4),
      restarts_(config.timeouts.reconnect_ms > 0) {
  for (const auto& device : node.devices) {
    workers_.push_back({.device = device.name});
    start(workers_.back(), clock::now());
  }
}

void worker_processes::start(worker& which, clock::time_point now) {
  which.restart_at.reset();
  which.started = now;
  std::vector<std::string> words{"worker",
                                 "--config",
                                 "-",
                                 "--node",
                                 node_,
                                 "--device",
                                 which.device,
                                 "--coordinator",
                                 coordinator_,
                                 "--agent",
                                 std::to_string(getpid())};
  std::ranges::move(log_arguments(), std::back_inserter(words));
  which.process.emplace(this_program(), words, description_, child_process::group::parents);
  log_line(log_level::debug, fmt::format("has started the worker of {}", which.device),
           {{"node", node_}, {"device", which.device}, {"pid", which.process->pid()}});
}

std::vector<int> worker_processes::descriptors() const {
  std::vector<int> all;
  for (const auto& w : workers_) {
    if (w.process) all.push_back(w.process->descriptor());
  }
  return all;
}

std::optional<std::chrono::milliseconds> worker_processes::until_restart(clock::time_point now) const {
  std::optional<std::chrono::milliseconds> next;
  for (const auto& w : workers_) {
    if (!w.restart_at) continue;
    const auto left =
        std::max(std::chrono::ceil<std::chrono::milliseconds>(*w.restart_at - now), std::chrono::milliseconds::zero());
    next = next ? std::min(*next, left) : left;
  }
  return next;
}

std::vector<worker_ended> worker_processes::take_ended(clock::time_point now) {
  std::vector<worker_ended> all;
  for (auto& w : workers_) {
    const auto status = w.process ? w.process->ended() : std::nullopt;
    if (!status) continue;
    all.push_back({w.device, describe_exit(*status), w.process->pid()});
    w.process.reset();
    if (!restarts_) continue;
    if (now - w.started > 2 * pause_max) w.pause = pause_first;
    w.restart_at = now + w.pause;
    log_line(log_level::warning,
             fmt::format("the worker of {} ended ({}); it is started again in {} s", w.device, all.back().how,
                         w.pause.count()),
             {{"node", node_}, {"device", w.device}, {"pid", all.back().pid}});
    w.pause = std::min(2 * w.pause, pause_max);
  }
  return all;
}

void worker_processes::restart_due(clock::time_point now) {
  for (auto& w : workers_) {
    if (w.restart_at && *w.restart_at <= now) start(w, now);
  }
}

bool worker_processes::end() {
  const auto deadline = clock::now() + patience_;
  bool well = true;
  for (auto& w : workers_) {
    if (w.process) w.process->ask_to_end();
  }
  for (auto& w : workers_) {
    if (!w.process) continue;
    if (!w.process->wait_until(deadline)) w.process->kill();
    well = well && *w.process->ended() == 0;
  }
  return well;
}

}  // namespace baton
