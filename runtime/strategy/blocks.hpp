#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/plan/job_plan.hpp"

namespace baton {

/// Consecutive local blocks B_0 … B_{H-1} of the document at their own positions, without anchors.
std::vector<shard_plan> local_blocks(std::span<const std::int64_t> block_tokens);

/// Gives a shard its anchor block.
void set_anchor(shard_plan& shard, std::vector<token_run> runs);

}  // namespace baton
