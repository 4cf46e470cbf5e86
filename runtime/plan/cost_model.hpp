#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/model/model_config.hpp"
#include "runtime/plan/job_plan.hpp"

namespace baton {

/// What a chunk of so many rows takes in one layer, where short chunks are slower per row than long ones.
struct chunk_rates {
  std::int64_t rows = 0;  ///< 0: nothing was measured
  double tokens_s = 0;    ///< of projections and feed-forward
  double attend_s = 0;    ///< of attention, before any key
  double key_s = 0;       ///< of attention, per key that all rows of the chunk see, all heads

  bool operator==(const chunk_rates&) const = default;
};

/// How long one device takes for the parts of a layer of one model, in seconds: measured once (runtime/bench/calibration.hpp), numbers
/// of a pure function afterwards.
struct device_rates {
  double token_s = 0;         ///< of projections and feed-forward, per token
  double scored_token_s = 0;  ///< of the compressor, per token that it sees
  double causal_pair_s = 0;   ///< of attention, per pair of query and key inside [A; B_h], all heads
  double dense_pair_s = 0;    ///< of attention, per pair of B_h with P_h, all heads
  double passed_unit_s = 0;   ///< of making P_h ready for attention, per unit
  double compressor_s = 0;    ///< of the compressor, before any token
  /// Chunks are of so many tokens, and what those of some lengths take, ascending; between them lines are drawn. Nothing measured: a
  /// chunk takes what its tokens and pairs take at the rates above.
  std::int64_t chunk_tokens = 0;
  std::array<chunk_rates, 4> chunks{};

  bool operator==(const device_rates&) const = default;
};

/// The rates of each device that ranks may be placed on.
class cluster_rates {
 public:
  /// All devices alike, those apart that are set.
  cluster_rates(const device_rates& all) : all_(all) {}
  void set(const std::string& node, const std::string& device, const device_rates& rates) {
    set_[{node, device}] = rates;
  }
  /// Where the shard is placed.
  [[nodiscard]] const device_rates& of(const shard_plan& shard) const {
    const auto found = set_.find({shard.node, shard.device});
    return found == set_.end() ? all_ : found->second;
  }

 private:
  device_rates all_;
  std::map<std::pair<std::string, std::string>, device_rates> set_;
};

/// Seconds of a shard's attention in one layer, to its own keys and to passing blocks.
double attention_s(const shard_plan& shard, const device_rates& rates);

/// Seconds that a shard's prefill computes on its device: layers times what its tokens, chunks and pairs take.
double predicted_shard_s(const shard_plan& shard, const model_config& model, const cluster_rates& rates);

/// Seconds until a plan's prefill is done: the device whose ranks take longest. Waiting for blocks is not in it: they travel while ranks
/// attend to what they have.
double predicted_prefill_s(const job_plan& plan, const model_config& model, const cluster_rates& rates);

/// The lengths of blocks whose ranks finish together, for a strategy that splits, as multiples of 64, or of what the devices like, but for
/// the last: ranks behind the first compute an anchor block, later ranks attend to more passing blocks, and so their blocks are shorter,
/// as are those of slower devices. `device_per_rank`: every rank has a device of its own, whatever `devices` says. Even lengths where
/// there is one device, whose ranks take turns. Pure; throws what make_job_plan throws.
std::vector<std::int64_t> balanced_blocks(const plan_request& request, std::span<const device_view> devices,
                                          const model_config& model, const cluster_rates& rates, bool device_per_rank);

}  // namespace baton
