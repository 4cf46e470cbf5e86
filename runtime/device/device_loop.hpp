#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "kernels/fault.hpp"
#include "runtime/decode/decode_pass.hpp"
#include "runtime/device/device_context.hpp"
#include "runtime/device/staged_endpoint.hpp"
#include "runtime/observe/trace.hpp"
#include "runtime/prefill/prefill_pass.hpp"
#include "runtime/transport/transport.hpp"

namespace baton {

// ---- what a device loop is told ----

/// Takes memory and joins the transport for a shard; answered by shard_prepared or pass_failed.
struct prepare_prefill {
  job_id job = 0;
  int rank = 0;
  job_plan plan;
  job_routes routes;
  std::vector<std::int32_t> ids;
  bool keep_chosen_units = false;
  bool record_trace = false;                ///< of the prefill and of all answers
  std::vector<std::int32_t> held_layers{};  ///< see prefill_pass::leave_out
};
struct start_prefill {
  job_id job = 0;
  int rank = 0;
};
/// For every rank of the job on this device: another rank is somewhere else now.
struct rewire_job {
  job_id job = 0;
  int rank = 0;
  rank_place place;
};
/// For every rank of the job whose shard lies on this device. An answer under way is abandoned.
struct start_answer {
  job_id job = 0;
  question asked;
  bool keep_first_logits = false;
};
/// Gives a layer's compressed block to the network once more, for a relay that has lost it. Where it is still to come it is sent
/// when it does, also if it was to be left out.
struct give_again {
  job_id job = 0;
  int rank = 0;
  int layer = 0;
};
/// Abandons the job's passes and drops its shards.
struct drop_job {
  job_id job = 0;
};
using device_command = std::variant<prepare_prefill, start_prefill, rewire_job, start_answer, give_again, drop_job>;

// ---- what a device loop tells ----

struct shard_prepared {
  job_id job = 0;
  int rank = 0;
};
struct prefill_done {
  job_id job = 0;
  int rank = 0;
  pass_timings timings;
  transport_counts counts;
  int kv_heads = 0;
  std::vector<std::vector<std::int32_t>> chosen_units;  ///< per layer (n_kv, units), if they were to be kept
  std::vector<std::uint64_t> kv_checksums{};            ///< per layer, likewise
  rank_trace trace;                                     ///< empty unless it was to be recorded
  /// As pass::computed, of all prefills of this rank and job that this device has begun.
  std::vector<std::int64_t> computed{};
};
/// By this rank, or by the last one, which has told it.
struct token_chosen {
  job_id job = 0;
  int rank = 0;
  std::uint32_t question = 0;
  int index = 0;
  std::int32_t token = 0;
  std::uint32_t repeat = 0;  ///< question::repeat
};
struct logits_ready {
  job_id job = 0;
  int rank = 0;
  std::uint32_t question = 0;
  std::vector<float> logits;
};
struct answer_done {
  job_id job = 0;
  int rank = 0;
  std::uint32_t question = 0;
  int tokens = 0;
  double first_token_s = 0;
  pass_timings timings;
  transport_counts counts;   ///< since the shard began
  rank_trace trace;          ///< empty unless it was to be recorded
  std::uint32_t repeat = 0;  ///< question::repeat
};
struct pass_failed {
  job_id job = 0;
  int rank = 0;
  int layer = 0;
  fault why;
};
struct job_dropped {
  job_id job = 0;
};
using device_event =
    std::variant<shard_prepared, prefill_done, token_chosen, logits_ready, answer_done, pass_failed, job_dropped>;

/// Where a pass of a device stands, for people and for deadlines.
struct pass_snapshot {
  job_id job = 0;
  int rank = 0;
  int layer = 0;
  std::int64_t tokens_done = 0;
  int waiting_for = -1;
  std::uint64_t chunks = 0;
};

/// The compute thread of one device. It steps whichever pass can go on, jobs in turn, lower layers first, then lower ranks, and
/// sleeps when none can. A device that does not compute on the host is kept a few steps behind this thread, and reached through a
/// staged_endpoint. Owns the passes and the finished KV shards; borrows context and endpoint. `post` and `snapshot` may be
/// called from any thread.
class device_loop {
 public:
  /// `on_event` is called on the compute thread and must not block.
  device_loop(device_context& device, endpoint& network, std::function<void(device_event)> on_event);
  /// Abandons everything and joins the thread; takes at most one chunk.
  ~device_loop();
  device_loop(const device_loop&) = delete;
  device_loop& operator=(const device_loop&) = delete;

  void post(device_command command);
  [[nodiscard]] std::vector<pass_snapshot> snapshot() const;

 private:
  struct shard;
  using shard_key = std::pair<job_id, int>;

  void run();
  void handle(prepare_prefill&& command);
  void handle(start_prefill&& command);
  void handle(rewire_job&& command);
  void handle(start_answer&& command);
  void handle(give_again&& command);
  void trace_memory_of(shard& s);
  /// Adds what a rank's prefill has computed to what earlier ones of it had.
  void count_work(const shard& s);
  void handle(drop_job&& command);
  /// One step of the next pass that can go on; false where none can.
  bool step_one();
  bool step(shard& s);
  /// Until somebody rings; what the passes wait meanwhile is exposed.
  void sleep();
  /// After a step was queued on a device that works behind this thread: waits until few are left, so that a stop, or another
  /// job, need not wait for much.
  void keep_pace();
  void fail(shard& s, const fault& why);

  static constexpr std::size_t steps_in_flight_max = 8;

  device_context& device_;
  const std::unique_ptr<staged_endpoint> staged_;  ///< null where the device computes on the host
  endpoint& endpoint_;
  std::deque<std::unique_ptr<event>> in_flight_;
  const std::function<void(device_event)> on_event_;
  std::map<shard_key, std::vector<std::int64_t>> computed_;  ///< by prefills that ended or were replaced
  std::map<shard_key, std::unique_ptr<shard>> shards_;  ///< changed by the compute thread under mutex_, for snapshot

  job_id last_job_ = 0;

  mutable std::mutex mutex_;
  std::vector<device_command> inbox_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace baton
