#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kernels/fault.hpp"
#include "runtime/decode/decode_pass.hpp"
#include "runtime/device/pass.hpp"
#include "runtime/observe/trace.hpp"
#include "runtime/plan/job_plan.hpp"
#include "runtime/transport/detours.hpp"
#include "runtime/transport/transport.hpp"

/// What coordinator, workers, relays and clients say to each other: plain values. runtime/wire gives each conversation its protobuf
/// form; actors carry the bytes.
namespace baton {

/// A fault as a message.
struct failure {
  fault_code code = fault_code::internal;
  std::string what;
  std::string where;

  bool operator==(const failure&) const = default;
};
failure failure_of(const fault& f);

/// The coordinator's start that began a run of a job: it is in the number that workers and relays know, so that no two runs have the
/// same. A later coordinator may have taken the run up.
constexpr std::uint64_t generation_of(job_id run) { return run >> 32; }
constexpr job_id first_run_of(std::uint64_t generation) { return generation << 32; }

// ---- coordinator to worker ----

/// A shard to prefill; its ids follow in pieces. Answered by shard_ready once they are all there and memory has been taken.
struct assign_shard {
  job_id job = 0;
  int rank = 0;
  job_plan plan;
  job_routes routes;  ///< the shard's own attempt stands there too
  bool report_chosen_units = false;
  bool report_trace = false;
  std::vector<std::int32_t> held_layers{};  ///< ascending; their compressed blocks have a holder: not to be sent again

  bool operator==(const assign_shard&) const = default;
};
/// Ids [first, first + ids.size()) of a shard's A ++ B_h.
struct shard_ids {
  job_id job = 0;
  int rank = 0;
  std::int64_t first = 0;
  std::vector<std::int32_t> ids;

  bool operator==(const shard_ids&) const = default;
};
/// All ranks of the job are ready: begin.
struct start_shard {
  job_id job = 0;
  int rank = 0;

  bool operator==(const start_shard&) const = default;
};
/// The rank did not send these layers' compressed blocks, for others held them; they do no more: it is to give them now, or when
/// it has them.
struct give_blocks {
  job_id job = 0;
  int rank = 0;
  std::vector<std::int32_t> layers;  ///< ascending

  bool operator==(const give_blocks&) const = default;
};
/// A rank of the job is to be reached somewhere else from now on, as a later attempt, or on another way.
struct rewire_rank {
  job_id job = 0;
  int rank = 0;
  rank_place place;

  bool operator==(const rewire_rank&) const = default;
};
/// Every rank of the job on this worker answers the question together with the others.
struct ask_question {
  job_id job = 0;
  question asked;
  bool report_first_logits = false;

  bool operator==(const ask_question&) const = default;
};
/// Stop whatever the job does and drop its KV. Answered by job_released, also where the job is not known.
struct release_job {
  job_id job = 0;

  bool operator==(const release_job&) const = default;
};
/// A coordinator that has not begun this run is about to take it up. Answered by shards_held.
struct report_shards {
  job_id job = 0;

  bool operator==(const report_shards&) const = default;
};
/// The run is taken up: whatever the worker has told of it may have been lost with an earlier coordinator, and is to be told again, behind
/// another shards_held.
struct report_results {
  job_id job = 0;

  bool operator==(const report_results&) const = default;
};
using worker_command = std::variant<assign_shard, shard_ids, start_shard, give_blocks, rewire_rank, ask_question,
                                    release_job, report_shards, report_results>;

// ---- worker to coordinator ----

struct worker_ready {
  std::string node;
  std::string device;
  std::string kernel_class;
  std::int64_t memory_bytes = 0;  ///< of the arena
  std::string address{};          ///< on the data plane; empty where all ranks share one process
  std::int64_t pid = 0;
  std::int64_t block_multiple = 1;  ///< see buffer_sizes::block_multiple
  std::vector<job_id> jobs{};       ///< runs that it holds shards of, from an earlier coordinator's time

  bool operator==(const worker_ready&) const = default;
};
/// One rank of a run as a worker holds it.
struct held_shard {
  enum class stage : std::uint8_t {
    preparing,  ///< the device takes its memory
    ready,      ///< shard_ready has been said
    started,    ///< it computes, waits, or has failed, which report_results tells
    prefilled,  ///< its KV lies on the device
  };
  int rank = 0;
  std::uint32_t attempt = 0;
  stage at = stage::preparing;
  int layer = 0;
  std::int64_t tokens_done = 0;
  std::uint64_t chunks = 0;
  std::vector<std::int32_t> held_layers{};  ///< ascending; left to holders: see assign_shard
  bool asked = false;                  ///< the question has been put to it, and it has begun or finished the answer
  std::uint32_t repeat = 0;            ///< question::repeat
  std::vector<std::int32_t> tokens{};  ///< of the answer, that it knows

  bool operator==(const held_shard&) const = default;
};
/// All that a worker holds of a run.
struct shards_held {
  job_id job = 0;
  std::vector<held_shard> shards{};

  bool operator==(const shards_held&) const = default;
};
/// A sign of life, at least as often as `timeouts.progress`.
struct worker_alive {
  bool operator==(const worker_alive&) const = default;
};
/// The shard's ids, memory and transport are there.
struct shard_ready {
  job_id job = 0;
  int rank = 0;

  bool operator==(const shard_ready&) const = default;
};
struct shard_progress {
  job_id job = 0;
  int rank = 0;
  int layer = 0;
  std::int64_t tokens_done = 0;  ///< token-layers
  int waiting_for = -1;          ///< rank, -1: none
  std::uint64_t chunks = 0;

  bool operator==(const shard_progress&) const = default;
};
struct shard_timings {
  std::array<double, phase_count> phase_s{};
  double compute_s = 0;
  double wait_s = 0;
  double exposed_wait_s = 0;  ///< of wait_s, while the device had nothing else to compute
  double total_s = 0;
  std::int64_t bytes_sent = 0;
  std::int64_t bytes_received = 0;
  /// Of a prefill, for each layer: chunks projected, attended to and fed forward, by all attempts of this rank that this worker has begun.
  std::vector<std::int64_t> computed{};

  bool operator==(const shard_timings&) const = default;
};
struct shard_finished {
  job_id job = 0;
  int rank = 0;
  shard_timings timings;

  bool operator==(const shard_finished&) const = default;
};
struct chosen_units {
  job_id job = 0;
  int rank = 0;
  int layer = 0;
  int kv_heads = 0;
  std::vector<std::int32_t> indices;  ///< (n_kv, units), document indices; empty where nothing is passed on
  std::uint64_t kv_checksum{};        ///< of the layer's keys and values of B_h

  bool operator==(const chosen_units&) const = default;
};
/// A piece of what a rank recorded of its prefill or answer: the pieces come in order, before shard_finished or answer_finished.
struct trace_spans {
  job_id job = 0;
  int rank = 0;
  rank_trace recorded;  ///< at most trace_events_per_message spans and blocks together

  bool operator==(const trace_spans&) const = default;
};
struct answer_token {
  job_id job = 0;
  std::uint32_t question = 0;
  int index = 0;
  std::int32_t token = 0;
  std::uint32_t repeat = 0;  ///< question::repeat: what an earlier asking chose counts only if it came before the next

  bool operator==(const answer_token&) const = default;
};
/// Logits [first, first + values.size()) of the first answer token.
struct first_logits {
  job_id job = 0;
  std::uint32_t question = 0;
  std::int64_t first = 0;
  std::vector<float> values;

  bool operator==(const first_logits&) const = default;
};
struct answer_finished {
  job_id job = 0;
  int rank = 0;
  std::uint32_t question = 0;
  int tokens = 0;
  double first_token_s = 0;
  shard_timings timings;
  std::uint32_t repeat = 0;  ///< question::repeat

  bool operator==(const answer_finished&) const = default;
};
struct shard_failed {
  job_id job = 0;
  int rank = 0;
  int layer = 0;
  failure why;

  bool operator==(const shard_failed&) const = default;
};
struct job_released {
  job_id job = 0;

  bool operator==(const job_released&) const = default;
};
using worker_report =
    std::variant<worker_ready, worker_alive, shard_ready, shard_progress, shard_finished, chosen_units, trace_spans,
                 answer_token, first_logits, answer_finished, shard_failed, job_released, shards_held>;

// ---- coordinator and relay ----

/// Sets room for the job's whole log aside.
struct reserve_log {
  job_id job = 0;
  std::int64_t bytes = 0;
  std::vector<std::string> relays{};  ///< address of the relay of each rank's node; empty where there is one node only

  bool operator==(const reserve_log&) const = default;
};
struct release_log {
  job_id job = 0;

  bool operator==(const release_log&) const = default;
};
/// Compressed blocks that one attempt of a rank of a job has made.
struct rank_layers {
  int rank = 0;
  std::vector<std::int32_t> layers;  ///< ascending
  std::uint32_t attempt = 0;

  bool operator==(const rank_layers&) const = default;
};
/// No block of a rank whose attempt is above 0 is taken any more, until place_blocks says which ones count. Answered by job_fenced.
struct fence_job {
  job_id job = 0;
  std::uint64_t round = 0;                ///< of the job: later ones stand in for earlier ones
  std::vector<std::uint32_t> attempts{};  ///< of each rank

  bool operator==(const fence_job&) const = default;
};
/// Where the ranks of a fenced job are now, and which blocks of replayed ranks count: those of `holders`, and of other layers those of
/// the newest attempt.
struct place_blocks {
  struct forwarding {
    std::string to;  ///< a relay's address
    rank_layers blocks;

    bool operator==(const forwarding&) const = default;
  };
  job_id job = 0;
  std::uint64_t round = 0;
  std::vector<std::string> relays{};  ///< address of the relay of each rank's node
  std::vector<rank_layers>
      holders{};  ///< what replayed ranks, and those of a damaged block, leave to relays, by the attempts that made it
  std::vector<forwarding> forwardings{};  ///< what this relay holds and others need now

  bool operator==(const place_blocks&) const = default;
};
/// Which nodes do not reach each other, and through whose relay the job's messages between them go: all of them, in place of what was said
/// before. Told to every relay; those that are neither end nor in between have nothing to do with it.
struct detour_job {
  job_id job = 0;
  std::vector<detour> detours;

  bool operator==(const detour_job&) const = default;
};
/// The relay is to try who hears it: each of `to` at once, and through each of `via`. Answered by paths_probed.
struct probe_paths {
  job_id job = 0;
  std::uint32_t round = 0;  ///< of the job: later ones stand in for earlier ones
  std::vector<std::string> to;
  std::vector<std::string> via;
  int within_ms = 0;  ///< whoever has not answered by then is not reached

  bool operator==(const probe_paths&) const = default;
};
using relay_command = std::variant<reserve_log, release_log, fence_job, place_blocks, detour_job, probe_paths>;

struct relay_ready {
  std::string node;
  std::int64_t log_bytes_max = 0;
  std::string address{};  ///< on the data plane; empty where all ranks share one process
  std::int64_t pid = 0;
  std::vector<job_id> jobs{};  ///< runs that it keeps the logs of, from an earlier coordinator's time

  bool operator==(const relay_ready&) const = default;
};
/// A sign of life, at least as often as `timeouts.progress`.
struct relay_alive {
  std::int64_t log_bytes = 0;  ///< held by the log

  bool operator==(const relay_alive&) const = default;
};
struct log_reserved {
  job_id job = 0;

  bool operator==(const log_reserved&) const = default;
};
struct log_refused {
  job_id job = 0;
  std::int64_t bytes_asked = 0;
  std::int64_t bytes_free = 0;

  bool operator==(const log_refused&) const = default;
};
/// The log of a job that had been admitted cannot be kept (any more).
struct log_failed {
  job_id job = 0;
  failure why;

  bool operator==(const log_failed&) const = default;
};
/// A block was damaged in the log, which does not hold it any more: it is to come again, from another relay or its rank.
struct block_damaged {
  job_id job = 0;
  int rank = 0;
  int layer = 0;

  bool operator==(const block_damaged&) const = default;
};
/// What the relay holds of a job, once it takes no block of an earlier attempt any more.
struct job_fenced {
  job_id job = 0;
  std::uint64_t round = 0;
  std::vector<rank_layers> held{};

  bool operator==(const job_fenced&) const = default;
};
/// Who has answered a relay's probes, and on which ways.
struct paths_probed {
  struct path {
    std::string to;
    std::string via;  ///< empty: straight

    bool operator==(const path&) const = default;
    auto operator<=>(const path&) const = default;
  };
  job_id job = 0;
  std::uint32_t round = 0;
  std::vector<path> reached;

  bool operator==(const paths_probed&) const = default;
};
/// A worker process of the node has ended.
struct worker_ended {
  std::string device;
  std::string how;       ///< "killed by signal 9 (Killed)"
  std::int64_t pid = 0;  ///< that it had; another worker of the device may have joined since

  bool operator==(const worker_ended&) const = default;
};
using relay_report = std::variant<relay_ready, relay_alive, log_reserved, log_refused, log_failed, job_fenced,
                                  worker_ended, block_damaged, paths_probed>;

// ---- client and coordinator ----

/// A job: its ids follow in pieces, document first, then query. The request id is the client's, and no two jobs have the same: who
/// asks again with it asks for the same job.
struct submit_job {
  std::string request_id;
  job_options options;
  std::int64_t document_tokens = 0;
  std::int64_t query_tokens = 0;
  std::int64_t system_tokens = 0;
  std::vector<std::int32_t> stop_tokens;
  bool report_dump = false;  ///< first logits and chosen units
  bool report_trace = false;
  bool detached = false;  ///< goes on when whoever asked goes away

  bool operator==(const submit_job&) const = default;
};
/// Ids [first, first + ids.size()) of document ++ query.
struct submit_ids {
  std::string request_id;
  std::int64_t first = 0;
  std::vector<std::int32_t> ids;

  bool operator==(const submit_ids&) const = default;
};
/// Answered by job_failed, or by what the job has ended with before.
struct cancel_job {
  job_id job = 0;

  bool operator==(const cancel_job&) const = default;
};
/// From now on this client hears of the job; of an ended one, how it ended. Answered by job_accepted or job_unknown.
struct follow_job {
  job_id job = 0;

  bool operator==(const follow_job&) const = default;
};
/// Answered by cluster_status.
struct ask_status {
  bool operator==(const ask_status&) const = default;
};
/// Answered by jobs_list.
struct ask_jobs {
  bool operator==(const ask_jobs&) const = default;
};
/// The client can take so many more updates.
struct grant_updates {
  std::uint32_t count = 0;

  bool operator==(const grant_updates&) const = default;
};
/// A sign of life; who has given one is expected to go on.
struct client_alive {
  bool operator==(const client_alive&) const = default;
};
using client_request =
    std::variant<submit_job, submit_ids, cancel_job, follow_job, ask_status, ask_jobs, grant_updates, client_alive>;

/// The job is kept, and will be run, whatever happens to the coordinator.
struct job_accepted {
  std::string request_id;
  job_id job = 0;
  std::uint32_t waiting = 0;  ///< jobs that wait in front of it

  bool operator==(const job_accepted&) const = default;
};
/// The job has devices. Said again where it has to begin anew.
struct job_started {
  job_id job = 0;
  job_plan plan;

  bool operator==(const job_started&) const = default;
};
struct job_refused {
  std::string request_id;
  failure why;

  bool operator==(const job_refused&) const = default;
};
/// Every rank of the job at a moment.
struct job_progress {
  job_id job = 0;
  std::vector<shard_progress> ranks;

  bool operator==(const job_progress&) const = default;
};
struct prefill_finished {
  job_id job = 0;
  double prefill_s = 0;

  bool operator==(const prefill_finished&) const = default;
};
struct rank_result {
  int rank = 0;
  shard_timings prefill;
  shard_timings answer;

  bool operator==(const rank_result&) const = default;
};
/// A rank was lost; its shard is computed again somewhere else.
struct shard_moved {
  job_id job = 0;
  int rank = 0;
  std::uint32_t attempt = 0;
  std::string node;  ///< where it is now
  std::string device;
  std::string cause;  ///< "device east/cpu0: the worker is gone (killed by signal 9)"

  bool operator==(const shard_moved&) const = default;
};
/// One replay of a lost shard.
struct replay_result {
  int rank = 0;
  std::string cause;
  int layers = 0;               ///< that were computed again
  double seconds = 0;           ///< from the loss being known until the shard had come as far as it was
  double detect_ms = 0;         ///< from its last sign of life until the loss was known
  bool on_other_class = false;  ///< another kernel class: the bits may differ

  bool operator==(const replay_result&) const = default;
};
struct job_finished {
  job_id job = 0;
  double prefill_s = 0;
  double first_token_s = 0;  ///< from the question's start to the first answer token
  double decode_s = 0;       ///< from the first answer token to the last
  std::vector<std::int32_t> answer_ids;
  std::vector<rank_result> ranks;
  std::vector<replay_result> replays{};

  bool operator==(const job_finished&) const = default;
};
struct job_failed {
  job_id job = 0;
  failure why;

  bool operator==(const job_failed&) const = default;
};
struct job_unknown {
  job_id job = 0;

  bool operator==(const job_unknown&) const = default;
};

enum class job_state : std::uint8_t { queued, starting, prefilling, answering, finished, failed, cancelled };
std::string_view name_of(job_state state);

struct job_summary {
  job_id id = 0;
  job_state state = job_state::queued;
  std::string strategy;
  int ranks = 0;
  std::int64_t document_tokens = 0;
  bool detached = false;
  std::string why;  ///< it has failed

  bool operator==(const job_summary&) const = default;
};
/// Newest first, not more than jobs_listed_max.
struct jobs_list {
  std::vector<job_summary> jobs;

  bool operator==(const jobs_list&) const = default;
};
inline constexpr std::size_t jobs_listed_max = 500;

// What everybody is doing, for people.

enum class peer_state : std::uint8_t { down, idle, busy };
std::string_view name_of(peer_state state);

struct device_status {
  std::string name;
  peer_state state = peer_state::down;
  std::int64_t worker_pid = 0;  ///< 0: none
  job_id job = 0;               ///< one that it computes for; 0: none
  int layer = -1;               ///< where that job's first unfinished rank there is; -1: nowhere

  bool operator==(const device_status&) const = default;
};
struct node_status {
  std::string name;
  peer_state state = peer_state::down;
  std::int64_t pid = 0;  ///< of its agent; 0: none
  std::int64_t relay_log_bytes = 0;
  std::int64_t relay_log_bytes_max = 0;
  std::vector<device_status> devices;

  bool operator==(const node_status&) const = default;
};
enum class rank_state : std::uint8_t { preparing, computing, waiting, done, lost };
std::string_view name_of(rank_state state);

struct rank_status {
  int rank = 0;
  std::string node;
  std::string device;
  std::uint32_t attempt = 0;
  int layer = 0;
  rank_state state = rank_state::preparing;
  int waiting_for = -1;  ///< rank, -1: none

  bool operator==(const rank_status&) const = default;
};
struct job_status {
  job_id id = 0;
  job_state state = job_state::queued;
  std::string strategy;
  std::int64_t document_tokens = 0;
  int answer_tokens = 0;  ///< so far
  std::vector<rank_status> ranks;
  std::vector<replay_result> replays;

  bool operator==(const job_status&) const = default;
};
struct cluster_status {
  std::uint64_t epoch = 0;       ///< counts who joins and who is lost
  std::uint64_t generation = 0;  ///< counts the coordinator's starts
  std::int64_t coordinator_pid = 0;
  int layers = 0;  ///< of the model
  std::vector<node_status> nodes;
  std::vector<job_status> jobs;  ///< running, waiting, and the last ones that have ended

  bool operator==(const cluster_status&) const = default;
};
using client_update = std::variant<job_accepted, job_refused, job_progress, prefill_finished, chosen_units, trace_spans,
                                   answer_token, first_logits, shard_moved, job_finished, job_failed, job_started,
                                   job_unknown, jobs_list, cluster_status>;

/// The most ids or logits in one message, so that it stays well under 1 MB.
inline constexpr std::int64_t ids_per_message = 65536;
/// The most spans and blocks of a trace in one message, for the same reason: neither takes more than 60 bytes.
inline constexpr std::size_t trace_events_per_message = 16384;

}  // namespace baton
