#pragma once

#include <utility>
#include <vector>

#include "runtime/cluster/messages.hpp"
#include "runtime/relay/relay_log.hpp"

namespace baton {

/// Decides what a KV relay does: admits whole logs and drops them. Blocks themselves come and go through the transport, which
/// fills the same log. Events in, actions out; no CAF, no clock. One thread; the log, borrowed, is shared with the transport.
class relay_logic {
 public:
  relay_logic(std::string node, relay_log& log) : node_(std::move(node)), log_(log) {}

  [[nodiscard]] relay_ready who() const { return {node_, log_.bytes_max()}; }

  void coordinator_said(const relay_command& command) {
    if (const auto* reserve = std::get_if<reserve_log>(&command)) {
      if (log_.reserve(reserve->job, reserve->bytes)) {
        actions_.emplace_back(log_reserved{reserve->job});
      } else {
        actions_.emplace_back(log_refused{reserve->job, reserve->bytes, log_.bytes_max() - log_.bytes_reserved()});
      }
    } else if (const auto* release = std::get_if<release_log>(&command)) {
      log_.release(release->job);
    }
  }

  /// What is to be said to the coordinator, in order; empties the list.
  [[nodiscard]] std::vector<relay_report> take_actions() { return std::exchange(actions_, {}); }

 private:
  const std::string node_;
  relay_log& log_;
  std::vector<relay_report> actions_;
};

}  // namespace baton
