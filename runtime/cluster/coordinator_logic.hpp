#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/cluster/client_outbox.hpp"
#include "runtime/cluster/job_store.hpp"
#include "runtime/cluster/messages.hpp"
#include "runtime/model/model_config.hpp"
#include "runtime/observe/log.hpp"

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
/// A peer that is given up: it must end, or come anew, should it still live.
struct dismiss {
  peer_id peer = 0;
};
/// What whoever runs the cluster may want to know: a line of the coordinator's log.
struct remark {
  log_level level = log_level::info;
  std::string what;
  log_fields about{};
};
using coordinator_action = std::variant<to_worker, to_relay, to_client, dismiss, remark>;

/// What a plan takes of a device's memory.
struct device_need {
  std::string node;
  std::string device;
  std::int64_t bytes = 0;
};

/// What the coordinator must know of the model to plan a job.
struct served_model {
  std::int64_t positions_max = 0;
  std::int64_t vocabulary = 0;
  bool has_retaining_heads = false;
  kv_shape shape;
  /// What a plan takes of each of its devices; empty: nobody knows before a worker tries.
  std::function<std::vector<device_need>(const job_plan&)> memory_of{};
};

struct coordinator_limits {
  double silence_s = 1.2;  ///< a worker or relay that says nothing for so long is given up
  double stuck_s =
      30;  ///< a job all of whose ranks wait for blocks, and do not move for so long, has lost one: it fails
  /// Before that, nodes of it are taken to be cut off from each other: a third one's relay is looked for, else ranks move. 0: never.
  double cut_off_s = 0;
  /// A device whose ranks compute, and end no chunk for so long, hangs, and its worker is given up. 0: never.
  double hung_s = 0;
  double tick_s = 0.1;          ///< how often `tick` is called
  int replays_max = 3;          ///< of one shard; then its job fails
  double replacement_s = 30;    ///< a job fails whose lost shard no device could take for so long
  std::size_t queue_max = 100;  ///< jobs that wait; further ones are refused
  std::size_t running_max = 8;  ///< jobs at once
  double assemble_s = 10;       ///< so long the first job waits for declared devices that have not joined
  double take_up_s =
      10;  ///< so long those who hold ranks of jobs that an earlier coordinator has begun may take to say so
  double orphan_s = 0;          ///< an attached job is cancelled when whoever asked has been gone for so long
  double client_silence_s = 5;  ///< a client that gives signs of life, and then none for so long, is gone
  client_outbox::limits outbox{};
};

/// Decides what the coordinator does: queue, job table, admission, placement, progress, ends. Events in, actions out; no CAF, no clock:
/// `now_s` comes with every event and never runs backwards. One thread. What must not be forgotten goes into a job_store, at once.
///
/// A job's life: submitted (ids come) -> kept -> queued -> reserving (relay logs) -> preparing (shards get ids and memory) -> prefilling ->
/// answering -> finished | failed | cancelled; then its KV and logs are released everywhere. No rank begins before every process knows
/// the job, so that a block never comes to somebody who has not heard of it. What clients ask for is in coordinator_jobs.cpp.
///
/// Clients know a job by its number in the store. Workers and relays know it by the number of this run of it, which holds the
/// generation of the coordinator that has begun it: whatever comes from an earlier run is nobody's.
///
/// A job that an earlier coordinator has begun is taken up from those who hold it (coordinator_resume.cpp): resuming -> prefilling |
/// answering, or queued again where nobody holds anything of it.
///
/// A dead worker's shards are replayed somewhere else (coordinator_recovery.cpp) while the other ranks wait where they miss its
/// blocks: lost -> fenced (no relay takes what the old attempt may still send; all say what they hold) -> placed -> prepared ->
/// started. A question that was under way is asked again with the tokens that are known. A dead relay takes the workers of its node
/// with it.
///
/// Where two nodes do not reach each other, what their processes say to each other goes through the relay of a third one that reaches both, or
/// else the ranks of one of them move (coordinator_detours.cpp).
class coordinator_logic {
 public:
  /// `declared` is the order in which ranks are laid over devices (node and name); others come behind, by their names. `store` outlives
  /// this, and its unfinished jobs are taken up or queued again; without one, jobs are kept in memory.
  coordinator_logic(served_model model, const coordinator_limits& limits,
                    std::vector<std::pair<std::string, std::string>> declared = {}, job_store* store = nullptr);

  void worker_joined(peer_id worker, const worker_ready& who, double now_s);
  void worker_lost(peer_id worker, const std::string& why, double now_s);
  void worker_said(peer_id worker, const worker_report& report, double now_s);
  void relay_joined(peer_id relay, const relay_ready& who, double now_s);
  void relay_lost(peer_id relay, const std::string& why, double now_s);
  void relay_said(peer_id relay, const relay_report& report, double now_s);
  void client_said(peer_id client, const client_request& request, double now_s);
  /// A client that goes takes those of its jobs with it that are not detached.
  void client_lost(peer_id client, double now_s);
  /// A few times a second: deadlines, and progress to clients.
  void tick(double now_s);

  /// What is to be done now, in order; empties the list.
  [[nodiscard]] std::vector<coordinator_action> take_actions();

  /// Goes with every command to a worker or relay.
  [[nodiscard]] std::uint64_t generation() const { return store_.generation(); }
  [[nodiscard]] std::size_t workers() const { return workers_.size(); }
  [[nodiscard]] std::size_t relays() const { return relays_.size(); }
  /// Coming, waiting or running.
  [[nodiscard]] std::size_t jobs() const { return coming_.size() + queue_.size() + jobs_.size(); }
  [[nodiscard]] std::size_t waiting() const { return queue_.size(); }
  [[nodiscard]] cluster_status status() const;
  /// What has gone wrong with processes that never joined, for people; empty: nothing.
  [[nodiscard]] const std::string& trouble() const { return trouble_; }

 private:
  enum class stage : std::uint8_t { resuming, reserving, preparing, prefilling, answering };

  struct worker_entry {
    worker_ready who;
    double heard_s = 0;
    double moved_s = 0;  ///< when one of its ranks last ended a chunk, or none had anything to compute
  };
  struct relay_entry {
    relay_ready who;
    double heard_s = 0;
    std::int64_t log_bytes = 0;
  };
  struct client_entry {
    client_outbox outbox;
    double heard_s = 0;
    bool gives_signs = false;
  };
  /// A submission whose ids are still coming.
  struct coming_job {
    submit_job asked;
    std::vector<std::int32_t> ids;
  };
  /// A job that is kept, waiting or running.
  struct kept_job {
    job_id id = 0;
    submit_job asked;
    std::set<peer_id> followers;  ///< clients that hear of it
    peer_id owner = 0;            ///< the client that it ends with, unless it is detached; 0: gone
    std::optional<double> orphan_until_s;
    int overtaken = 0;              ///< by later jobs, since it waits
    bool waits_for_an_end = false;  ///< there was no room for it beside others
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
    double moved_s = 0;  ///< when it last computed, began to wait for somebody, or was done
    std::optional<shard_timings> prefill;
    std::optional<shard_timings> answer;
    /// Left to holders when this attempt was placed or another copy was damaged; it is asked for them when these are gone.
    held_blocks held;
    std::optional<open_replay> replay;
    std::set<peer_id> without_room;  ///< workers that could not take it
    std::optional<held_shard>
        reported;  ///< by its worker to this coordinator, which has not begun it; until relays have said what they hold
  };
  using node_pair = std::pair<std::string, std::string>;  ///< in order
  /// A relay has been asked whom it reaches.
  struct open_probe {
    std::string node;
    std::uint32_t round = 0;
    double until_s = 0;  ///< then it has not answered
  };
  struct past_probe {
    double at_s = 0;
    std::string node;
    std::set<std::string> unreached{};  ///< nodes of the job
  };
  struct job_entry : kept_job {
    job_id run = 0;  ///< what workers and relays call it
    stage now = stage::reserving;
    std::vector<std::int32_t> ids;  ///< document ++ query
    job_plan plan;
    std::vector<device_need> needs;
    std::int64_t log_bytes = 0;        ///< that it may put into each of its relays' logs
    std::set<peer_id> relays;          ///< that have room for its log
    std::set<peer_id> relays_awaited;  ///< that were asked for room
    std::set<peer_id> relays_without_room;
    std::set<peer_id> unfit_workers;  ///< that failed at its ranks, or could not reach others of it
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
    std::vector<client_update>
        details;  ///< what was told of chosen units, logits and trace: for clients that come (again) later

    bool begun = false;                 ///< the store knows of the run
    bool run_unkept = false;            ///< but not the newest attempts
    bool taken_up = false;              ///< an earlier coordinator has begun it
    bool places_told = true;            ///< all its workers know where its ranks are
    std::set<peer_id> reports_awaited;  ///< workers that were asked what they hold of it
    std::set<peer_id> results_awaited;  ///< workers that were asked to tell again what an earlier coordinator has heard
    std::optional<double> take_up_at_s;  ///< when it goes on without who has not said so

    std::uint64_t fence_round = 0;
    std::uint64_t placed_round = 0;  ///< whose fence has been followed by place_blocks
    double settled_s = 0;            ///< when that was
    std::set<peer_id> fences_awaited;
    std::map<peer_id, std::vector<rank_layers>> held;       ///< by each relay, at the newest fence
    std::set<std::pair<int, std::int32_t>> damaged_blocks;  ///< rank and layer, since the last placing
    std::map<node_pair, std::string> detours;  ///< nodes that do not reach each other, and the one in between
    std::optional<open_probe> probe;
    std::optional<past_probe> probed;  ///< the last one
    std::uint32_t probe_round = 0;

    std::optional<double> unplaced_since_s;  ///< no device could take a lost shard
    std::vector<replay_result> replays;
  };

  // ---- what clients ask for, and the queue: coordinator_jobs.cpp ----

  void client_asked(peer_id client, const submit_job& request, double now_s);
  void client_asked(peer_id client, const submit_ids& piece, double now_s);
  void client_asked(peer_id client, const cancel_job& request, double now_s);
  void client_asked(peer_id client, const follow_job& request, double now_s);
  void client_asked(peer_id client, const ask_status& request, double now_s);
  void client_asked(peer_id client, const ask_jobs& request, double now_s);
  void client_asked(peer_id client, const grant_updates& request, double now_s);
  void client_asked(peer_id client, const client_alive& request, double now_s);
  /// The ids of a submission are all there.
  void accept(peer_id client, coming_job&& job, double now_s);
  void refuse(peer_id client, const std::string& request_id, const failure& why, double now_s);
  /// Tells the client what has been told of the job so far; `owner`: the job ends with it.
  void attach(peer_id client, const stored_job& job, bool owner, double now_s);
  [[nodiscard]] plan_request request_of(const submit_job& asked) const;
  [[nodiscard]] std::optional<failure> queue_is_full(std::size_t waiting) const;
  /// Starts waiting jobs, in their order as far as there is room.
  void start_what_fits(double now_s);
  [[nodiscard]] bool assembled(double now_s);
  /// Whether there is room for it beside those that run; where none run there always is, until somebody says otherwise.
  [[nodiscard]] bool has_room(const job_plan& plan, const std::vector<device_need>& needs) const;
  void start(kept_job&& job, job_plan&& plan, std::vector<device_need>&& needs, double now_s);
  /// There was no room after all: it waits again, in front, until another job has ended.
  void put_back(job_entry& job);
  void end_waiting(job_id id, const failure& why, double now_s);
  /// Keeps how a job has ended, and tells its followers.
  void keep_end(const kept_job& job, const std::optional<job_started>& started, client_update end);
  /// Ends that the store could not keep when they were told: a full disk may have room again.
  void retry_unkept_ends();
  void cancel_orphans(double now_s);
  void drop_clients_that_do_not_read(double now_s);
  [[nodiscard]] kept_job* find_kept(job_id id);
  [[nodiscard]] job_entry* find_running(job_id id);
  [[nodiscard]] job_status status_of(const job_entry& job) const;

  void ask_for_room(job_entry& job, peer_id relay);
  void prepare_shards_of(job_entry& job, double now_s);
  void assign(const job_entry& job, int rank);
  void start_prefill_of(job_entry& job, double now_s);
  void start_answer_of(job_entry& job, double now_s);
  void finish(job_entry& job);
  void fail(job_id run, const failure& why);
  /// Tells workers and relays to drop what the job left, and forgets it.
  void release(job_entry& job);

  // ---- what earlier coordinators have begun: coordinator_resume.cpp ----

  void resume(stored_job&& job);
  /// Whoever comes with runs of an earlier coordinator's time is asked about those that wait for it, and drops the others. False: one has gone on
  /// without this worker, which is dismissed.
  [[nodiscard]] bool ask_what_is_held(peer_id worker, const worker_ready& who, double now_s);
  void ask_what_is_held(peer_id relay, const relay_ready& who);
  void worker_reported(peer_id worker, const shards_held& report, double now_s);
  /// What that worker holds of a resuming job counts no more.
  void forget_reports_of(job_entry& job, peer_id worker);
  void take_up_what_can_be(double now_s);
  [[nodiscard]] bool all_have_reported(const job_entry& job) const;
  [[nodiscard]] bool all_declared_are_there() const;
  void take_up(job_entry& job, double now_s);
  /// It comes anew, and holds nothing then: no block that is still on its way to it reaches a rank that it is given later.
  void dismiss_holder(peer_id worker, double now_s);
  /// The question as those know it who were asked it; false: they are to be asked (again) once all ranks are there.
  [[nodiscard]] bool take_up_answer(job_entry& job, double now_s);
  /// Before anybody acts on it, the store knows that the run begins, and which attempts are the newest.
  void keep_run(job_entry& job);
  void begin_anew(job_entry& job);

  // ---- recovery: coordinator_recovery.cpp ----

  /// The job's ranks on that worker are to be computed somewhere else. May end the job.
  void lose_ranks_of(job_entry& job, peer_id worker, const worker_entry& gone, const std::string& why, double now_s);
  /// The same where the worker lives: it drops all that it has of the job, and gets no rank of it again. False: there is no other
  /// device (nor has there ever been one, if the ranks may wait for it), and nothing has been done.
  bool move_ranks_from(job_entry& job, const std::set<peer_id>& workers, bool may_wait, const std::string& why,
                       double now_s);
  /// Whether a rank that began to wait can go on: not as long as all wait and none has moved for so long.
  [[nodiscard]] bool stands_still(const job_entry& job, double for_s, double now_s) const;
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
  /// What ranks that were taken up have left to holders, as their workers have said it.
  void name_reported_holders(job_entry& job);
  /// A living rank did not send what others held; what none of them has any more it must.
  void ask_again_for_lost_blocks(job_entry& job);
  /// What a relay has lost and none of the others holds its rank makes again.
  void ask_again_for_damaged_blocks(job_entry& job, const std::map<int, peer_id>& places);
  void close_replay(job_entry& job, int rank, double now_s);
  void fail_the_unplaced(double now_s);

  // ---- nodes that do not reach each other: coordinator_detours.cpp ----

  void look_after_the_cut_off(double now_s);
  void look_after_the_cut_off(job_entry& job, double now_s);
  /// A rank that waits, and the rank whose block does not come although it should have; on another node if there is such a pair.
  [[nodiscard]] std::optional<std::pair<int, int>> missed_block(const job_entry& job, bool stands_still,
                                                                double now_s) const;
  /// Asks the node's relay whom of the job's nodes it reaches. False: there is no relay, or no third node although one is wanted.
  bool begin_to_probe(job_entry& job, const std::string& node, bool third_wanted, double now_s);
  void paths_are_known(job_entry& job, const std::vector<paths_probed::path>& reached, double now_s);
  /// Through that node from now on; empty: straight. All jobs on both nodes.
  void take_detour(const node_pair& between, const std::string& via);
  void lose_detours_through(const std::string& node, double now_s);
  void tell_relays_of_detours(const job_entry& job);
  [[nodiscard]] std::string detour_between(const job_entry& job, const std::string& one,
                                           const std::string& other) const;
  /// Has the ranks of the higher one's node computed where the others are, who do without what its relay holds.
  void move_the_cut_off(job_entry& job, std::pair<int, int> ranks, double now_s);
  /// Nodes that have no rank of the job any more, but blocks of it that do not come from there.
  [[nodiscard]] std::vector<peer_id> useless_holders(const job_entry& job) const;
  /// What that relay holds does not count any more, from the fence on that whoever calls this sees to.
  void do_without(job_entry& job, peer_id relay);

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
  job_entry* job_of(peer_id worker, job_id run, int rank);
  job_entry* find(job_id run);
  /// Devices for so many ranks, in the order in which ranks are laid over them: all, or where these are more than ranks those with
  /// the least to do.
  [[nodiscard]] std::vector<device_view> devices_for(int ranks) const;
  [[nodiscard]] std::vector<device_view> in_declared_order(std::vector<device_view> devices) const;
  /// As a process of that node sees them.
  [[nodiscard]] job_routes routes_of(const job_entry& job, const std::string& node) const;
  /// Address of the relay of a node; empty where there is none.
  [[nodiscard]] std::string relay_address(const std::string& node) const;
  /// The relay of a node; 0 where there is none.
  [[nodiscard]] peer_id relay_of(const std::string& node) const;
  /// Before somebody is given up: throws superseded.
  void expect_to_be_the_newest() const;
  void give_up_the_silent(double now_s);
  void fail_the_stuck(double now_s);
  /// Workers whose devices compute and get nowhere.
  void give_up_the_hung(double now_s);
  /// The rank for whose block the rank waits in vain: it has been made, and neither has moved for so long. Else -1.
  [[nodiscard]] int waits_in_vain_for(const job_entry& job, const rank_entry& rank, double for_s, double now_s) const;
  [[nodiscard]] static bool is_done(const job_entry& job, const rank_entry& rank);
  [[nodiscard]] std::set<peer_id> workers_of(const job_entry& job) const;
  /// All who follow the job.
  void tell(const kept_job& job, const client_update& update);
  /// The same, and those who will; only jobs that were asked for them have details.
  void tell_detail(job_entry& job, client_update update);
  void tell(peer_id client, client_update update);
  void send_what_may_be_sent(peer_id client, client_entry& to);

  const served_model model_;
  const coordinator_limits limits_;
  const std::vector<std::pair<std::string, std::string>> declared_;
  std::map<peer_id, worker_entry> workers_;
  std::map<peer_id, relay_entry> relays_;
  std::map<peer_id, client_entry> clients_;
  std::map<std::pair<peer_id, std::string>, coming_job> coming_;  ///< by client and request id
  std::deque<kept_job> queue_;
  std::map<job_id, job_entry> jobs_;  ///< those that run, by their run's number
  job_id last_run_ = 0;
  std::deque<job_status> ended_;  ///< the last ones
  struct unkept_end {
    std::optional<job_started> started;
    client_update end;
  };
  std::map<job_id, unkept_end> unkept_ends_;
  memory_store memory_;
  job_store& store_;
  std::uint64_t epoch_ = 0;
  double now_s_ = 0;  ///< of the event in hand
  std::optional<double> assembling_since_s_;
  bool assembled_ = false;
  bool queue_moved_ = false;  ///< since waiting jobs were last looked at
  double last_tick_s_ = 0;
  std::set<std::pair<std::string, std::string>> joined_;  ///< node and device of every worker that ever did
  std::string trouble_;
  std::vector<coordinator_action> actions_;
};

}  // namespace baton
