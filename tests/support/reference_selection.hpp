#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace baton::reference {

/// The largest of the five scores around each token; beyond the block there is nothing (-inf).
std::vector<float> max_pooled(std::span<const float> scores);

/// The `count` best of scores[first_eligible..), of equal scores the lower index; fewer where fewer are eligible.
/// Ascending indices into `scores`. Ties are common: pooling spreads a score over its neighbours, and in the first
/// layer retaining heads score a token that comes twice the same both times.
std::vector<int> best_tokens(std::span<const float> scores, int first_eligible, int count);

/// The score of the compressor `random`: the top 24 bits of a hash of (seed, layer, KV head, document index).
float random_score(std::uint64_t seed, int layer, int kv_head, int document_index);

}  // namespace baton::reference
