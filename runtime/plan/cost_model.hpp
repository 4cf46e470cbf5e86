#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/model/model_config.hpp"
#include "runtime/plan/job_plan.hpp"

namespace baton {

/// How long one device takes for the parts of a layer of one model, in seconds: measured once (runtime/bench/calibration.hpp), numbers
/// of a pure function afterwards.
struct device_rates {
  double token_s = 0;         ///< of projections and feed-forward, per token
  double scored_token_s = 0;  ///< of the compressor, per token that it sees
  double causal_pair_s = 0;   ///< of attention, per pair of query and key inside [A; B_h], all heads
  double dense_pair_s = 0;    ///< of attention, per pair of B_h with P_h, all heads

  bool operator==(const device_rates&) const = default;
};

/// Seconds that a shard's prefill computes on such a device: layers times what counts_of says.
double predicted_shard_s(const shard_plan& shard, const model_config& model, const device_rates& rates);

/// Seconds until a plan's prefill is done: the device whose ranks take longest, all devices alike. Waiting for blocks is not in it: they
/// travel while ranks attend to what they have.
double predicted_prefill_s(const job_plan& plan, const model_config& model, const device_rates& rates);

/// The lengths of blocks whose ranks finish together, for a strategy that splits, as multiples of 64 but for the last: ranks behind the
/// first compute an anchor block, later ranks attend to more passing blocks, and so their blocks are shorter. `device_per_rank`: every
/// rank has a device of its own, whatever `devices` says. Even lengths where there is one device, whose ranks take turns. Pure;
/// throws what make_job_plan throws.
std::vector<std::int64_t> balanced_blocks(const plan_request& request, std::span<const device_view> devices,
                                          const model_config& model, const device_rates& rates, bool device_per_rank);

}  // namespace baton
