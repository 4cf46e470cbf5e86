#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/cluster/messages.hpp"
#include "runtime/model/model_config.hpp"

namespace baton {

/// Workers, relays and clients are known by the number that whoever carries the messages gave them.
using peer_id = std::uint64_t;

struct to_worker {
  peer_id worker = 0;
  worker_command command;
};
struct to_relay {
  peer_id relay = 0;
  relay_command command;
};
struct to_client {
  peer_id client = 0;
  client_update update;
};
/// A worker or relay that is given up: it must end, should it still live.
struct dismiss {
  peer_id peer = 0;
};
using coordinator_action = std::variant<to_worker, to_relay, to_client, dismiss>;

/// What the coordinator must know of the model to plan a job.
struct served_model {
  std::int64_t positions_max = 0;
  std::int64_t vocabulary = 0;
  bool has_retaining_heads = false;
  kv_shape shape;
};

struct coordinator_limits {
  double silence_s = 1.2;  ///< a worker or relay that says nothing for so long is given up
  double stuck_s =
      30;  ///< a job all of whose ranks wait for blocks, and do not move for so long, has lost one: it fails
  double tick_s = 0.1;        ///< how often `tick` is called
  int replays_max = 3;        ///< of one shard; then its job fails
  double replacement_s = 30;  ///< a job fails whose lost shard no device could take for so long
};

/// Decides what the coordinator does: job table, admission, placement, progress, ends. Events in, actions out; no CAF, no clock:
/// `now_s` comes with every event and never runs backwards. One thread.
///
/// A job's life: submitted (ids come) -> reserving (relay logs) -> preparing (shards get ids and memory) -> prefilling ->
/// answering -> finished | failed; then its KV and logs are released everywhere. No rank begins before every process knows the
/// job, so that a block never comes to somebody who has not heard of it.
///
/// A dead worker's shards are replayed somewhere else (coordinator_recovery.cpp) while the other ranks wait where they miss its
/// blocks: lost -> fenced (no relay takes what the old attempt may still send; all say what they hold) -> placed -> prepared ->
/// started. A question that was under way is asked again with the tokens that are known. A dead relay takes the workers of its node
/// with it.
class coordinator_logic {
 public:
  /// `declared` is the order in which ranks are laid over devices (node and name); others come behind, by their names.
  coordinator_logic(const served_model& model, const coordinator_limits& limits,
                    std::vector<std::pair<std::string, std::string>> declared = {})
      : model_(model), limits_(limits), declared_(std::move(declared)) {}

  void worker_joined(peer_id worker, const worker_ready& who, double now_s);
  void worker_lost(peer_id worker, const std::string& why, double now_s);
  void worker_said(peer_id worker, const worker_report& report, double now_s);
  void relay_joined(peer_id relay, const relay_ready& who, double now_s);
  void relay_lost(peer_id relay, const std::string& why, double now_s);
  void relay_said(peer_id relay, const relay_report& report, double now_s);
  void client_said(peer_id client, const client_request& request, double now_s);
  /// A client that goes takes its jobs with it.
  void client_lost(peer_id client, double now_s);
  /// A few times a second: deadlines, and progress to clients.
  void tick(double now_s);

  /// What is to be done now, in order; empties the list.
  [[nodiscard]] std::vector<coordinator_action> take_actions();

  [[nodiscard]] std::size_t workers() const { return workers_.size(); }
  [[nodiscard]] std::size_t relays() const { return relays_.size(); }
  [[nodiscard]] std::size_t jobs() const { return jobs_.size(); }
  /// What has gone wrong with processes that never joined, for people; empty: nothing.
  [[nodiscard]] const std::string& trouble() const { return trouble_; }

 private:
  enum class stage : std::uint8_t { receiving, reserving, preparing, prefilling, answering };

  struct worker_entry {
    worker_ready who;
    double heard_s = 0;
  };
  struct relay_entry {
    relay_ready who;
    double heard_s = 0;
  };
  /// A loss whose replay has not come as far yet as the shard was.
  struct open_replay {
    std::string cause;
    int layer = 0;  ///< where the shard was
    double noticed_s = 0;
    double detect_ms = 0;
  };
  using held_blocks = std::map<std::int32_t, std::uint32_t>;  ///< layer, and the attempt that made it
  struct rank_entry {
    peer_id worker = 0;  ///< 0: lost, and not placed yet
    std::uint32_t attempt = 0;
    bool ready = false;
    shard_progress progress;
    std::optional<shard_timings> prefill;
    std::optional<shard_timings> answer;
    /// Had a holder when this attempt was placed, which so does not send them.
    held_blocks held;
    int layers_told = 0;  ///< of its chosen units
    std::optional<open_replay> replay;
    std::set<peer_id> without_room;  ///< workers that could not take it
  };
  struct job_entry {
    job_id id = 0;
    peer_id client = 0;
    submit_job asked;
    stage now = stage::receiving;
    std::vector<std::int32_t> ids;  ///< document ++ query
    job_plan plan;
    std::set<peer_id> relays;          ///< that have room for its log
    std::set<peer_id> relays_awaited;  ///< that were asked for room
    std::set<peer_id> relays_without_room;
    std::vector<rank_entry> ranks;
    double moved_s = 0;  ///< when a rank last computed
    double prefill_began_s = 0;
    double prefill_s = 0;
    double question_began_s = 0;
    double first_token_at_s = 0;
    double last_token_at_s = 0;
    std::vector<std::int32_t> answer_ids;
    std::int64_t logits_told = 0;
    std::uint32_t asked_again = 0;
    bool progress_changed = false;

    std::uint32_t fence_round = 0;
    std::uint32_t placed_round = 0;  ///< whose fence has been followed by place_blocks
    std::set<peer_id> fences_awaited;
    std::map<peer_id, std::vector<rank_layers>> held;  ///< by each relay, at the newest fence
    std::optional<double> unplaced_since_s;            ///< no device could take a lost shard
    std::vector<replay_result> replays;
  };

  void submitted(peer_id client, const submit_job& request);
  void ids_came(peer_id client, const submit_ids& piece, double now_s);
  void admit(job_entry& job, double now_s);
  void ask_for_room(job_entry& job, peer_id relay);
  void prepare_shards_of(job_entry& job, double now_s);
  void assign(const job_entry& job, int rank);
  void start_prefill_of(job_entry& job, double now_s);
  void start_answer_of(job_entry& job, double now_s);
  void finish(job_entry& job);
  void fail(job_id job, const failure& why);
  /// Tells workers and relays to drop what the job left, and forgets it.
  void release(job_entry& job);

  // ---- recovery: coordinator_recovery.cpp ----

  /// A worker is gone, and with it the job's ranks there. May end the job.
  void lose_ranks_of(job_entry& job, peer_id worker, const worker_entry& gone, const std::string& why, double now_s);
  /// Goes as far as it can with the ranks that have no worker.
  void recover(job_entry& job, double now_s);
  void recover_all(double now_s);
  void fence(job_entry& job, double now_s);
  /// A worker for each rank that has none; none at all if one cannot be placed now.
  [[nodiscard]] std::map<int, peer_id> places_for_lost_ranks(const job_entry& job) const;
  void place(job_entry& job, const std::map<int, peer_id>& places);
  /// What each relay of the job must send to others, by the peer that holds it.
  [[nodiscard]] std::map<peer_id, std::vector<place_blocks::forwarding>> forwardings_of(const job_entry& job) const;
  /// What relays held of a rank's blocks at the newest fence.
  [[nodiscard]] held_blocks held_of(const job_entry& job, int rank) const;
  /// A living rank did not send what others held; what none of them has any more it must.
  void ask_again_for_lost_blocks(job_entry& job);
  void close_replay(job_entry& job, int rank, double now_s);
  void fail_the_unplaced(double now_s);

  void worker_reported(peer_id worker, const worker_ready& report, double now_s);
  void worker_reported(peer_id worker, const worker_alive& report, double now_s);
  void worker_reported(peer_id worker, const shard_ready& report, double now_s);
  void worker_reported(peer_id worker, const shard_progress& report, double now_s);
  void worker_reported(peer_id worker, const shard_finished& report, double now_s);
  void worker_reported(peer_id worker, const chosen_units& report, double now_s);
  void worker_reported(peer_id worker, const trace_spans& report, double now_s);
  void worker_reported(peer_id worker, const answer_token& report, double now_s);
  void worker_reported(peer_id worker, const first_logits& report, double now_s);
  void worker_reported(peer_id worker, const answer_finished& report, double now_s);
  void worker_reported(peer_id worker, const shard_failed& report, double now_s);
  void worker_reported(peer_id worker, const job_released& report, double now_s);

  /// The job of a report, if it is alive and the rank is this worker's.
  job_entry* job_of(peer_id worker, job_id job, int rank);
  job_entry* find(job_id job);
  job_entry* find(peer_id client, const std::string& request_id);
  /// The devices of all workers, in the order in which ranks are laid over them.
  [[nodiscard]] std::vector<device_view> devices() const;
  [[nodiscard]] job_routes routes_of(const job_entry& job) const;
  /// Address of the relay of a node; empty where there is none.
  [[nodiscard]] std::string relay_address(const std::string& node) const;
  /// The relay of a node; 0 where there is none.
  [[nodiscard]] peer_id relay_of(const std::string& node) const;
  void give_up_the_silent(double now_s);
  void fail_the_stuck(double now_s);
  [[nodiscard]] std::set<peer_id> workers_of(const job_entry& job) const;
  void tell_client(const job_entry& job, client_update update) {
    actions_.push_back(to_client{job.client, std::move(update)});
  }

  const served_model model_;
  const coordinator_limits limits_;
  const std::vector<std::pair<std::string, std::string>> declared_;
  std::map<peer_id, worker_entry> workers_;
  std::map<peer_id, relay_entry> relays_;
  std::map<job_id, job_entry> jobs_;
  job_id last_job_ = 0;
  double last_tick_s_ = 0;
  std::set<std::pair<std::string, std::string>> joined_;  ///< node and device of every worker that ever did
  std::string trouble_;
  std::vector<coordinator_action> actions_;
};

}  // namespace baton
