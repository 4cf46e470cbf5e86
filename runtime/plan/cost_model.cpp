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

double layer_s(const layer_counts& counts, const device_rates& rates) {
  return real(counts.tokens) * rates.token_s + real(counts.scored_tokens) * rates.scored_token_s +
         real(counts.causal_pairs) * rates.causal_pair_s + real(counts.dense_pairs) * rates.dense_pair_s;
}

/// What one more token in a block adds to its own layer.
double layer_s_per_token(const shard_plan& shard, const device_rates& rates) {
  const std::int64_t keys = shard.anchor_aside ? shard.block_tokens : shard.tokens();
  return rates.token_s + (shard.compressed_units > 0 ? rates.scored_token_s : 0) + real(keys) * rates.causal_pair_s +
         real(shard.passing_units) * rates.dense_pair_s;
}

double longest_rank_s(const job_plan& plan, const model_config& model, const cluster_rates& rates) {
  double longest = 0;
  for (const auto& shard : plan.shards) longest = std::max(longest, predicted_shard_s(shard, model, rates));
  return longest;
}

}  // namespace

double predicted_shard_s(const shard_plan& shard, const model_config& model, const cluster_rates& rates) {
  return model.layers * layer_s(counts_of(shard), rates.of(shard));
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
