#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "runtime/cluster/messages.hpp"
#include "runtime/config/cluster_config.hpp"
#include "runtime/process/child_process.hpp"

namespace baton {

/// The worker processes of a node: one for each device. Those that end are started again after a pause that grows with every end
/// that follows soon, unless the processes end with their coordinator (`timeouts.reconnect` 0). One thread.
class worker_processes {
 public:
  using clock = std::chrono::steady_clock;

  /// `coordinator`: HOST:PORT.
  worker_processes(const cluster_config& config, const node_config& node, std::string coordinator);

  /// Of those that run: readable when one has ended.
  [[nodiscard]] std::vector<int> descriptors() const;
  /// Until one is to be started again; nothing: none is.
  [[nodiscard]] std::optional<std::chrono::milliseconds> until_restart(clock::time_point now) const;
  /// Those that have ended since the last call; says on standard error what becomes of them.
  [[nodiscard]] std::vector<worker_ended> take_ended(clock::time_point now);
  void restart_due(clock::time_point now);
  /// Ends them all; false if one of them did not end as it should.
  [[nodiscard]] bool end();

 private:
  static constexpr std::chrono::seconds pause_first{1};
  static constexpr std::chrono::seconds pause_max{30};

  struct worker {
    std::string device;
    std::optional<child_process> process{};
    clock::time_point started{};
    std::chrono::seconds pause = pause_first;
    std::optional<clock::time_point> restart_at{};
  };

  void start(worker& which, clock::time_point now);

  const std::string node_;
  const std::string coordinator_;
  const std::string description_;
  const std::chrono::milliseconds patience_;
  const bool restarts_;
  std::vector<worker> workers_;
};

}  // namespace baton
