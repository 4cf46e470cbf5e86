#pragma once

#include <span>
#include <vector>

#include "runtime/observe/trace.hpp"

namespace baton {

/// A prefill block's way from one rank to another.
struct block_way {
  block_key key;
  int target = 0;
  std::int64_t sent_ns = 0;
  std::int64_t arrived_ns = 0;
};

/// Every way of a prefill block that both ends recorded. `ranks` in rank order.
std::vector<block_way> prefill_ways(std::span<const rank_trace> ranks);

/// Whether P_h of a layer came to `rank` while it attended there: each of its blocks, of which there is one at least, was sent
/// before the end of an attention of that layer, and taken after its begin.
bool attends_while_blocks_travel(std::span<const rank_trace> ranks, int rank, int layer);

}  // namespace baton
