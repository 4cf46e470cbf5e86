#pragma once

#include <cstdint>
#include <map>
#include <optional>
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
/// It outlives its coordinators: what one has ordered goes on without it, and the next one is told what is held, and takes it up or has it
/// released. What has been told of a run is kept until then, for it may have been lost with whoever heard it. Who has heard a
/// coordinator obeys no earlier start of it.
class worker_logic {
 public:
  explicit worker_logic(const worker_ready& who) : who_(who) {}

  /// What a coordinator is told that it joins.
  [[nodiscard]] worker_ready joins();

  /// `generation`: of the coordinator that says it. False: a later one has been heard, and this one is not obeyed.
  bool coordinator_said(const worker_command& command, std::uint64_t generation = 0);
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
  void coordinator_said_this(const report_shards& command);
  void coordinator_said_this(const report_results& command);

  void device_said_this(const shard_prepared& event);
  void device_said_this(const prefill_done& event);
  void device_said_this(const token_chosen& event);
  void device_said_this(const logits_ready& event);
  void device_said_this(const answer_done& event);
  void device_said_this(const pass_failed& event);
  void device_said_this(const job_dropped& event);

  void report(worker_report r) { actions_.emplace_back(std::move(r)); }
  /// A shard that the device has been given.
  struct shard_entry {
    held_shard now;
    int ranks = 0;  ///< of its plan
    transport_counts prefill_counts;
    std::vector<worker_report> of_prefill;  ///< what has been told of it, to be told again
    std::vector<worker_report> of_answer;
    std::optional<shard_failed> failed;
  };
  [[nodiscard]] shard_entry* find(job_id job, int rank);
  /// Told now, and kept in `kept`, which may be null.
  void report_and_keep(std::vector<worker_report>* kept, worker_report r);
  /// In as many messages as it takes.
  void report_trace(std::vector<worker_report>* kept, job_id job, int rank, const rank_trace& recorded);
  void refuse(const shard_key& shard, const std::string& what);

  worker_ready who_;
  std::uint64_t generation_ = 0;                     ///< the highest that a command was of
  std::set<job_id> runs_;                            ///< that it has shards of
  std::set<job_id> told_;                            ///< of these to the coordinator that it has joined last
  std::map<shard_key, prepare_prefill> collecting_;  ///< shards whose ids are still coming
  std::map<shard_key, shard_entry> shards_;
  std::vector<worker_action> actions_;
};

}  // namespace baton
