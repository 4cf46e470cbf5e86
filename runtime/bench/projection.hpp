#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace baton {

/// How long one rank computed in one layer, alone on its device, in the order in which it does so.
struct layer_times {
  double until_sent_s = 0;  ///< projections and compression, until C_h is given away
  double local_s = 0;       ///< attention to A and B_h, while blocks travel
  double rest_s = 0;        ///< attention to P_h, and feed-forward

  [[nodiscard]] double total_s() const { return until_sent_s + local_s + rest_s; }
};

/// What stands between the ranks of a projected cluster: each rank is a node of its own, with one port.
struct projected_link {
  double bytes_per_s = 12.5e9;
  double latency_s = 10e-6;
};

/// A prefill on devices that were never there together, from what each rank took alone.
struct projected_prefill {
  double prefill_s = 0;                ///< until the last rank is through
  std::vector<double> rank_busy_s;     ///< what each rank computes
  std::vector<double> rank_exposed_s;  ///< what each rank waits for blocks
  [[nodiscard]] double busy_max_over_mean() const;
};

/// The critical path: a rank goes on with a layer's rest when its local attention is done and every earlier rank's block is there.
/// Blocks leave a rank one after another, for the nearest rank first, and enter one after another, at the link's rate.
/// `ranks`: per rank, per layer. `compressed_bytes`: of a layer's C_h, per rank; 0: nothing is passed. Pure.
projected_prefill project_cluster(std::span<const std::vector<layer_times>> ranks,
                                  std::span<const std::int64_t> compressed_bytes, const projected_link& link);

}  // namespace baton
