#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/cluster/relay_logic.hpp"
#include "runtime/relay/path_probe.hpp"
#include "runtime/relay/relay_log.hpp"
#include "runtime/transport/delivery.hpp"
#include "runtime/transport/detours.hpp"
#include "runtime/transport/messenger.hpp"

namespace baton {

/// A node's KV relay: takes each compressed block of the node's ranks once, logs it, sends it once to each other node that hosts a
/// later rank, and gives it to every process that asks, as often as it asks, until the job is released. One per node, in the node
/// agent's process. Borrows the log, which local ranks may read too, and the messenger; both outlive it.
///
/// Where two other nodes cannot reach each other it passes on what their processes say to each other, if the coordinator has chosen it.
///
/// Blocks come and go on the messenger's transport thread, a log's reads and writes of the disk included; the coordinator's commands
/// come on any other.
class relay final : private messenger::listener {
 public:
  /// `network` is null where all ranks of the node share this process, so that the log is all that there is to do. `report`
  /// takes what the coordinator is to hear; called from any thread, it must not block.
  relay(std::string node, relay_log& log, messenger* network, std::function<void(relay_report)> report);
  ~relay() override;
  relay(const relay&) = delete;
  relay& operator=(const relay&) = delete;

  /// What a coordinator is told that the relay joins; logs outlive coordinators.
  [[nodiscard]] relay_ready joins();
  /// After it has joined one that may not have heard all that the one before was told.
  void tell_damages_again();
  /// `generation`: of the coordinator that says it.
  void coordinator_said(const relay_command& command, std::uint64_t generation = 0);

  [[nodiscard]] relay_log& log() { return log_; }

 private:
  void received(const std::string& from, message&& m) override;
  void tick() override;

  void coordinator_said_this(const reserve_log& command);
  void coordinator_said_this(const release_log& command);
  void coordinator_said_this(const fence_job& command);
  void coordinator_said_this(const place_blocks& command);
  void coordinator_said_this(const detour_job& command);
  void coordinator_said_this(const probe_paths& command);

  /// `via`: the relay that has passed it on; empty: it came straight.
  void hear(const std::string& from, const std::string& via, message&& m);
  void pass_on_or_open(const std::string& from, message&& carry);
  void take(const std::string& from, const message& m);
  /// `at_hand`: the block that the actions are about, where it need not be looked up.
  void perform(std::vector<relay_action>&& actions, const std::shared_ptr<const block>& at_hand = nullptr);
  /// A block that the log gave back damaged. False: it cannot be had again.
  bool comes_again(const send_block& damaged);
  void send(const send_block& action, std::shared_ptr<const block>&& b);
  void send(const std::string& to, message&& m);
  /// The same, but on that way: through the relay `via`, or straight where it is empty.
  void send_by(const std::string& via, const std::string& to, message&& m);
  void send_straight(const std::string& to, message&& m);
  void forget(job_id job);
  /// The job's log cannot be kept, or not be sent to where it must go.
  void give_up(job_id job, const fault& why);

  const std::string node_;
  relay_log& log_;
  messenger* const network_;
  const std::function<void(relay_report)> report_;

  std::mutex offering_;  ///< from a block's judgement until it is in the log: a fence falls before or after
  std::mutex mutex_;     ///< of what follows; held neither while bytes move nor while others are called
  relay_logic logic_;
  outbox outbox_;
  inbox_filter inbox_;
  detours detours_;
  path_probe probe_;
  struct offered_block {
    std::string from;
    message what;
  };
  /// Blocks that came while it was being settled which attempt's count: they are judged again when it is. What there is no room for comes
  /// again from its sender, a second later.
  std::vector<offered_block> postponed_;
  std::size_t postponed_bytes_ = 0;
  static constexpr std::size_t postponed_bytes_max = 64 << 20;
};

}  // namespace baton
