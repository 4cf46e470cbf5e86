#include "runtime/strategy/blocks.hpp"

#include <utility>

namespace baton {

std::vector<shard_plan> local_blocks(std::span<const std::int64_t> block_tokens) {
  std::vector<shard_plan> shards;
  std::int64_t first = 0;
  for (const std::int64_t tokens : block_tokens) {
    shard_plan shard;
    shard.rank = static_cast<int>(shards.size());
    shard.block = {{.first = first, .count = tokens, .position = first}};
    shard.block_tokens = tokens;
    shards.push_back(std::move(shard));
    first += tokens;
  }
  return shards;
}

void set_anchor(shard_plan& shard, std::vector<token_run> runs) {
  shard.anchor = std::move(runs);
  shard.anchor_tokens = 0;
  for (const auto& run : shard.anchor) shard.anchor_tokens += run.count;
}

}  // namespace baton
