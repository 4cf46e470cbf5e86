#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/cluster/messages.hpp"
#include "runtime/device/device_loop.hpp"

namespace baton {

using worker_action = std::variant<worker_report, device_command>;

/// Decides what a rank worker does: collects a shard's ids, has its pass prepared and started, turns what the device says into reports. Events in,
/// actions out; no CAF, no clock, no device. One thread.
///
/// Who has heard a coordinator drops what an earlier start of it has ordered, and obeys that no more.
class worker_logic {
 public:
  explicit worker_logic(const worker_ready& who) : who_(who) {}

  [[nodiscard]] const worker_ready& who() const { return who_; }

  void coordinator_said(const worker_command& command);
  void device_said(const device_event& event);
  /// Where the device's passes stand, a few times a second: a report for each, and a sign of life where there is none.
  void passes_stand_at(std::span<const pass_snapshot> passes);

  /// What is to be done now, in order; empties the list.
  [[nodiscard]] std::vector<worker_action> take_actions() { return std::exchange(actions_, {}); }

 private:
  using shard_key = std::pair<job_id, int>;

  void coordinator_said_this(const assign_shard& command);
  void coordinator_said_this(const shard_ids& command);
  void coordinator_said_this(const start_shard& command);
  void coordinator_said_this(const give_blocks& command);
  void coordinator_said_this(const rewire_rank& command);
  void coordinator_said_this(const ask_question& command);
  void coordinator_said_this(const release_job& command);

  void device_said_this(const shard_prepared& event);
  void device_said_this(const prefill_done& event);
  void device_said_this(const token_chosen& event);
  void device_said_this(const logits_ready& event);
  void device_said_this(const answer_done& event);
  void device_said_this(const pass_failed& event);
  void device_said_this(const job_dropped& event);

  void report(worker_report r) { actions_.emplace_back(std::move(r)); }
  /// In as many messages as it takes.
  void report_trace(job_id job, int rank, const rank_trace& recorded);
  void refuse(const shard_key& shard, const std::string& what);

  /// False: an earlier coordinator says it.
  [[nodiscard]] bool heeds(job_id run);

  worker_ready who_;
  std::uint64_t generation_ = 0;                     ///< the highest that a command was of
  std::set<job_id> runs_;                            ///< that it has shards of
  std::map<shard_key, prepare_prefill> collecting_;  ///< shards whose ids are still coming
  std::map<shard_key, transport_counts> prefill_counts_;
  std::vector<worker_action> actions_;
};

}  // namespace baton
