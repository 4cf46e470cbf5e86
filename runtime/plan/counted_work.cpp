#include "runtime/plan/counted_work.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

namespace baton {

layer_counts counts_of(const shard_plan& shard) {
  const auto triangle = [](std::int64_t tokens) { return tokens * (tokens + 1) / 2; };
  layer_counts counts;
  counts.tokens = shard.tokens();
  counts.scored_tokens = shard.compressed_units > 0 ? shard.block_tokens : 0;
  counts.causal_pairs =
      shard.anchor_aside ? triangle(shard.anchor_tokens) + triangle(shard.block_tokens) : triangle(shard.tokens());
  counts.dense_pairs = shard.block_tokens * shard.passing_units;
  counts.panel_keys = shard.tokens() + shard.passing_units;
  return counts;
}

counted_work work_of(const shard_plan& shard, const model_config& model, compressor_kind compressor,
                     std::int64_t retaining_width) {
  const auto counts = counts_of(shard);
  const auto real = [](std::int64_t number) { return static_cast<double>(number); };
  const double hidden = model.hidden;
  const double q = real(std::int64_t{model.heads} * model.head_dim);
  const double row = q + real(2 * std::int64_t{model.kv_heads} * model.head_dim);
  const double layers = model.layers;
  counted_work work;
  work.project = layers * 2 * real(counts.tokens) * hidden * row;
  if (compressor == compressor_kind::retaining_heads) {
    work.compress = layers * 2 * real(counts.scored_tokens) * real(retaining_width) * (row + model.kv_heads);
  } else if (compressor == compressor_kind::query_key) {
    work.compress = layers * 2 * real(counts.scored_tokens) * model.kv_heads * model.head_dim;
  }
  work.attend = layers * 4 * real(counts.causal_pairs + counts.dense_pairs) * q;
  work.feed_forward = layers * 2 * real(counts.tokens) * hidden * (q + 3.0 * model.ffn);
  return work;
}

double largest_device_work(const job_plan& plan, const model_config& model, std::int64_t retaining_width) {
  std::map<std::pair<std::string, std::string>, double> devices;
  double largest = 0;
  for (const auto& shard : plan.shards) {
    double& sum = devices[{shard.node, shard.device}];
    sum += work_of(shard, model, plan.compressor, retaining_width).total();
    largest = std::max(largest, sum);
  }
  return largest;
}

}  // namespace baton
