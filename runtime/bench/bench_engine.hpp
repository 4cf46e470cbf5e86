#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/bench/projection.hpp"
#include "runtime/device/device_context.hpp"
#include "runtime/device/pass.hpp"
#include "runtime/plan/job_plan.hpp"
#include "runtime/transport/transport.hpp"

namespace baton {

/// A document that nobody wrote: token ids from a counter-based generator of (seed, index).
std::vector<std::int32_t> generated_tokens(std::int64_t count, std::int64_t vocabulary, std::uint64_t seed);

struct bench_device {
  std::string node;
  std::string name;
  backend* kernels = nullptr;
  const model_weights* weights = nullptr;  ///< in the device's memory
};

struct rank_run {
  pass_timings timings;
  transport_counts counts;
};

/// One prefill, from the start of its first rank to the end of its last.
struct prefill_run {
  double prefill_s = 0;
  std::vector<rank_run> ranks;
};

/// Each rank's times, alone on one device.
struct lockstep_run {
  std::vector<std::vector<layer_times>> layers;  ///< per rank, per layer
  std::vector<rank_run> ranks;
};

/// A model on this process's devices, with memory for the largest of some plans: device loops, passes and blocks as in a job, without
/// coordinator and actors. Borrows backends and weights. One thread.
class bench_engine {
 public:
  /// Throws fault(out_of_memory).
  bench_engine(std::span<const bench_device> devices, std::span<const job_plan> plans);
  ~bench_engine();

  /// Runs a plan on the devices that it names. Throws what ended a pass.
  prefill_run run(const job_plan& plan, std::span<const std::int32_t> document, std::span<const std::int32_t> query);
  /// All ranks of a plan go through a layer one after the other on the first device, each timed alone, then through the next. No rank
  /// ever waits: first all compute what needs no other, the last rank first, then all the rest.
  lockstep_run run_in_lockstep(const job_plan& plan, std::span<const std::int32_t> document,
                               std::span<const std::int32_t> query);

 private:
  device_context& device_of(const shard_plan& shard);
  lockstep_run step_all(const job_plan& plan, std::span<const std::int32_t> document,
                        std::span<const std::int32_t> query);

  std::vector<std::unique_ptr<device_context>> devices_;
  std::int64_t log_bytes_ = 1;
  job_id last_job_ = 0;
};

}  // namespace baton
