#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "kernels/backend.hpp"
#include "runtime/device/rehearsed_fault.hpp"
#include "runtime/device/task.hpp"
#include "runtime/transport/transport.hpp"

namespace baton {

class trace_recorder;

/// What a pass does in a layer, as a trace and a table name it.
enum class phase : std::uint8_t { project, compress, exchange, attend, feed_forward };
inline constexpr std::size_t phase_count = 5;
std::string_view name_of(phase p);

/// What others may know about a pass while it runs: written by the compute thread, read by any.
struct pass_progress {
  std::atomic<int> layer{0};
  std::atomic<std::int64_t> tokens_done{0};  ///< token-layers finished: all layers x tokens at the end
  std::atomic<int> waiting_for{-1};          ///< rank whose block is missing, -1: none
  std::atomic<std::uint64_t> chunks{0};      ///< grows while the pass lives: a sign of life
};

/// Where a pass's time went, in seconds. Of a prefill on a device that does not compute on the host, phases, compute and wait are by the
/// device's clock: what it took, not what it took to queue.
struct pass_timings {
  std::array<double, phase_count> phase_s{};
  double compute_s = 0;       ///< inside steps
  double wait_s = 0;          ///< suspended at an exchange
  double exposed_wait_s = 0;  ///< of wait_s, while the device had nothing else to compute
  double total_s = 0;         ///< from the first step to the last
};

/// A piece of one rank's work that the device loop runs in steps: a prefill, or the answer to a question. Never blocks. Belongs
/// to the compute thread; destroying it abandons the work.
class pass {
 public:
  enum class state : std::uint8_t { can_go_on, waiting, finished };

  virtual ~pass() = default;
  pass(const pass&) = delete;
  pass& operator=(const pass&) = delete;

  /// Runs until the next chunk edge or exchange that is not complete. Throws what ended the pass: fault.
  state step();
  /// The device had nothing to compute for so long: exposed waiting, if the pass waits.
  void device_idled(std::chrono::steady_clock::duration slept);
  [[nodiscard]] const pass_timings& timings() const { return timings_; }
  /// Of a prefill, for each layer: how many chunks it has projected, attended to and fed forward, each counted for itself.
  [[nodiscard]] const std::vector<std::int64_t>& computed() const { return computed_; }
  /// When the device has done all that the pass launched so far: what was timed on it is added to timings and trace.
  void settle_timings();
  /// What the next step will do.
  [[nodiscard]] pass_place place() const {
    return {stage_, stage_step_, progress_.layer.load(std::memory_order_relaxed), chunk_};
  }

 protected:
  using clock = std::chrono::steady_clock;

  /// `trace`: null unless somebody wants to see the pass; outlives it.
  pass(pass_progress& progress, trace_recorder* trace) : progress_(progress), trace_(trace) {}

  /// The coroutine that does the work; the derived constructor calls this last.
  void begin(task&& body);
  pass_progress& progress() { return progress_; }
  /// The pass comes to a layer of this stage and step.
  void enter(block_phase stage, std::uint32_t step, int layer);
  /// Seconds since the first step began.
  [[nodiscard]] double elapsed_s() const;
  /// From now on phases and waiting are timed on the device, if it does not compute on the host. Called before `begin`.
  void time_on(backend& kernels, stream& queue);

  /// Adds the time of a scope to a phase. Scopes lie side by side, and no exchange is awaited within one.
  class timed {
   public:
    timed(pass& owner, phase p) : pass_(owner), phase_(p), begun_on_device_(owner.mark()) {}
    ~timed() { pass_.spent(phase_, begun_, clock::now(), std::move(begun_on_device_)); }
    timed(const timed&) = delete;
    timed& operator=(const timed&) = delete;

   private:
    pass& pass_;
    const phase phase_;
    std::unique_ptr<event> begun_on_device_;
    const clock::time_point begun_ = clock::now();
  };

 private:
  /// A stretch of the pass on the device's clock.
  struct device_span {
    std::optional<phase> of;  ///< none: waiting
    block_phase stage;
    std::uint32_t step;
    int layer;
    std::unique_ptr<event> begin;
    std::unique_ptr<event> end;
  };

  void spent(phase p, clock::time_point begin, clock::time_point end, std::unique_ptr<event> begun_on_device);
  /// A point on the device's clock; null where the host's will do.
  [[nodiscard]] std::unique_ptr<event> mark() const;

  pass_progress& progress_;
  trace_recorder* const trace_;
  pass_timings timings_;
  std::vector<std::int64_t> computed_;
  std::optional<task> body_;
  suspension place_;
  std::optional<clock::time_point> begun_;
  std::optional<clock::time_point> waiting_since_;

  backend* device_ = nullptr;  ///< whose clock counts; null: the host's
  stream* queue_ = nullptr;
  std::unique_ptr<event> origin_;
  clock::time_point origin_on_host_;
  std::vector<device_span> spans_;
  std::unique_ptr<event> waiting_since_on_device_;
  block_phase stage_ = block_phase::prefill;
  std::uint32_t stage_step_ = 0;
  int chunk_ = 0;  ///< of the layer
};

}  // namespace baton
