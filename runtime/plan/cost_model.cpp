#include "runtime/plan/cost_model.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "runtime/plan/block_lengths.hpp"
#include "runtime/plan/counted_work.hpp"

namespace baton {
namespace {

constexpr std::int64_t step_tokens = 64;
constexpr int rounds_max = 40;

using place = std::pair<std::string, std::string>;

double real(std::int64_t number) { return static_cast<double>(number); }

/// What a chunk of any number of rows takes: on the line between the measured ones beside it. Fewer rows than the fewest measured take
/// as long as those; more take so much more than the most.
chunk_rates rates_of_chunk(const device_rates& rates, std::int64_t rows) {
  const chunk_rates* below = nullptr;
  for (const auto& above : rates.chunks) {
    if (above.rows == 0) break;
    if (rows <= above.rows) {
      if (below == nullptr) return {rows, above.tokens_s, above.attend_s, above.key_s};
      const double part = real(rows - below->rows) / real(above.rows - below->rows);
      return {rows, std::lerp(below->tokens_s, above.tokens_s, part), std::lerp(below->attend_s, above.attend_s, part),
              std::lerp(below->key_s, above.key_s, part)};
    }
    below = &above;
  }
  const double more = real(rows - below->rows);
  return {rows, below->tokens_s + more * rates.token_s, below->attend_s, below->key_s + more * rates.causal_pair_s};
}

/// Calls body(first, end) for the chunks of [0, tokens).
template <class Body>
void for_chunks(std::int64_t tokens, std::int64_t chunk_tokens, Body&& body) {
  for (std::int64_t first = 0; first < tokens; first += chunk_tokens)
    body(first, std::min(first + chunk_tokens, tokens));
}

double causal_s(std::int64_t tokens, const device_rates& rates) {
  double sum = 0;
  for_chunks(tokens, rates.chunk_tokens, [&](std::int64_t first, std::int64_t end) {
    const auto chunk = rates_of_chunk(rates, end - first);
    // A row sees the keys up to its own: on average half of its chunk's.
    sum += chunk.attend_s + chunk.key_s * (real(first) + real(end - first + 1) / 2);
  });
  return sum;
}

double dense_s(const shard_plan& shard, const device_rates& rates) {
  if (shard.passing_units == 0) return 0;
  double sum = 0;
  for_chunks(shard.block_tokens, rates.chunk_tokens, [&](std::int64_t first, std::int64_t end) {
    const auto chunk = rates_of_chunk(rates, end - first);
    sum += chunk.attend_s + chunk.key_s * real(shard.passing_units) * rates.dense_pair_s / rates.causal_pair_s;
  });
  return sum;
}

bool knows_chunks(const device_rates& rates) { return rates.chunk_tokens > 0 && rates.chunks.front().rows > 0; }

/// One layer of a shard.
double layer_s(const shard_plan& shard, const device_rates& rates) {
  const auto counts = counts_of(shard);
  double sum = attention_s(shard, rates) + real(counts.scored_tokens) * rates.scored_token_s;
  if (counts.scored_tokens > 0) sum += rates.compressor_s;
  if (!knows_chunks(rates)) return sum + real(counts.tokens) * rates.token_s;
  for_chunks(counts.tokens, rates.chunk_tokens,
             [&](std::int64_t first, std::int64_t end) { sum += rates_of_chunk(rates, end - first).tokens_s; });
  return sum;
}

/// What one more token in a block adds to its own layer: over a few hundred tokens around its length, for a short last chunk
/// makes the time a staircase.
double layer_s_per_token(const shard_plan& shard, const device_rates& rates) {
  const std::int64_t step = std::clamp<std::int64_t>(shard.block_tokens / 2, 1, 512);
  shard_plan longer = shard;
  shard_plan shorter = shard;
  longer.block_tokens += step;
  shorter.block_tokens -= step;
  return (layer_s(longer, rates) - layer_s(shorter, rates)) / real(2 * step);
}

double longest_rank_s(const job_plan& plan, const model_config& model, const cluster_rates& rates) {
  double longest = 0;
  for (const auto& shard : plan.shards) longest = std::max(longest, predicted_shard_s(shard, model, rates));
  return longest;
}

}  // namespace

double attention_s(const shard_plan& shard, const device_rates& rates) {
  const double packed_s = real(shard.passing_units) * rates.passed_unit_s;
  if (!knows_chunks(rates)) {
    const auto counts = counts_of(shard);
    return packed_s + real(counts.causal_pairs) * rates.causal_pair_s + real(counts.dense_pairs) * rates.dense_pair_s;
  }
  const double local_s = shard.anchor_aside ? causal_s(shard.anchor_tokens, rates) + causal_s(shard.block_tokens, rates)
                                            : causal_s(shard.tokens(), rates);
  return packed_s + local_s + dense_s(shard, rates);
}

double predicted_shard_s(const shard_plan& shard, const model_config& model, const cluster_rates& rates) {
  return model.layers * layer_s(shard, rates.of(shard));
}

double predicted_prefill_s(const job_plan& plan, const model_config& model, const cluster_rates& rates) {
  std::map<place, double> devices;
  double longest = 0;
  for (const auto& shard : plan.shards) {
    double& sum = devices[{shard.node, shard.device}];
    sum += predicted_shard_s(shard, model, rates);
    longest = std::max(longest, sum);
  }
  return longest;
}

std::vector<std::int64_t> balanced_blocks(const plan_request& request, std::span<const device_view> devices,
                                          const model_config& model, const cluster_rates& rates, bool device_per_rank) {
  plan_request asked = request;
  asked.options.block_tokens.clear();
  job_plan plan = make_job_plan(asked, devices);
  std::vector<std::int64_t> even;
  for (const auto& shard : plan.shards) even.push_back(shard.block_tokens);
  std::map<place, int> ranks_of;
  for (const auto& shard : plan.shards) ++ranks_of[{shard.node, shard.device}];
  if (even.size() < 2 || (ranks_of.size() < 2 && !device_per_rank)) return even;

  // Each rank shall take its share of its device's time tau. Newton's steps for all ranks and tau at once: a rank's time grows by m with
  // each token of its block, and the lengths keep their sum.
  std::vector<double> lengths(even.begin(), even.end());
  std::vector<std::int64_t> best = even;
  std::int64_t step = step_tokens;
  for (const auto& device : devices) step = std::max(step, device.block_multiple);
  const auto done_s = [&] {
    return device_per_rank ? longest_rank_s(plan, model, rates) : predicted_prefill_s(plan, model, rates);
  };
  double best_s = done_s();
  for (int round = 0; round < rounds_max; ++round) {
    double fixed = 0;
    double slope = 0;
    std::vector<double> t;
    std::vector<double> m;
    std::vector<double> ranks_beside;
    for (const auto& shard : plan.shards) {
      t.push_back(predicted_shard_s(shard, model, rates));
      m.push_back(model.layers * layer_s_per_token(shard, rates.of(shard)));
      ranks_beside.push_back(device_per_rank ? 1 : ranks_of[{shard.node, shard.device}]);
      fixed += lengths[t.size() - 1] - t.back() / m.back();
      slope += 1 / (m.back() * ranks_beside.back());
    }
    const double tau = (real(request.document_tokens) - fixed) / slope;
    for (std::size_t h = 0; h < lengths.size(); ++h) {
      const double moved = lengths[h] + (tau / ranks_beside[h] - t[h]) / m[h];
      lengths[h] = std::max(moved, real(step));
    }
    const auto next = rounded_lengths(lengths, step, request.document_tokens);
    if (next.empty()) break;
    asked.options.block_tokens = next;
    plan = make_job_plan(asked, devices);
    if (done_s() < best_s) {
      best_s = done_s();
      best = next;
    }
    lengths.assign(next.begin(), next.end());
  }
  return best;
}

}  // namespace baton
