#include "runtime/plan/job_plan.hpp"

#include <algorithm>
#include <array>
#include <numeric>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "kernels/fault.hpp"
#include "runtime/plan/block_lengths.hpp"
#include "runtime/strategy/strategy.hpp"

namespace baton {
namespace {

constexpr std::array<std::string_view, 5> compressor_names{"none", "retaining_heads", "query_key", "recent", "random"};

[[noreturn]] void refuse(std::string_view option, const std::string& why) {
  throw fault(fault_code::bad_input, why, std::string(option));
}

std::vector<std::int64_t> block_lengths(const plan_request& request, std::int64_t multiple) {
  const auto& options = request.options;
  const std::int64_t n = request.document_tokens;
  if (!options.block_tokens.empty()) {
    if (static_cast<int>(options.block_tokens.size()) != options.ranks) {
      refuse("block-tokens",
             fmt::format("{} lengths were given for {} ranks", options.block_tokens.size(), options.ranks));
    }
    for (const std::int64_t tokens : options.block_tokens) {
      if (tokens < 1 || tokens > n)
        refuse("block-tokens", fmt::format("{} is not a length between 1 and {}", tokens, n));
    }
    const auto sum = std::accumulate(options.block_tokens.begin(), options.block_tokens.end(), std::int64_t{0});
    if (sum != n) refuse("block-tokens", fmt::format("the lengths add up to {}, the document has {} tokens", sum, n));
    return options.block_tokens;
  }
  if (options.ranks > n) {
    refuse("ranks",
           fmt::format("{} ranks cannot share {} document tokens; at most one rank a token", options.ranks, n));
  }
  return even_lengths_in(multiple, n, options.ranks);
}

/// What was not asked for, in multiples.
published_budget in_multiples(published_budget budget, const job_options& asked, std::int64_t multiple) {
  if (!asked.anchor_tokens) budget.anchor_tokens = rounded_tokens(budget.anchor_tokens, multiple);
  if (!asked.passing_tokens) budget.passing_tokens = rounded_tokens(budget.passing_tokens, multiple);
  return budget;
}

void choose_compressor(const plan_request& request, bool queries_in_anchor, job_plan& plan) {
  if (request.options.compressor) {
    plan.compressor = *request.options.compressor;
    if (plan.compressor == compressor_kind::none && plan.passing_tokens > 0) {
      refuse("compressor",
             "apb passes compressed blocks and needs a compressor; give passing-tokens 0 to pass nothing");
    }
    if (plan.compressor == compressor_kind::retaining_heads && !request.has_retaining_heads) {
      refuse("compressor", "the model has no retaining_heads.safetensors; use query_key, recent or random");
    }
    if (plan.compressor == compressor_kind::query_key && !queries_in_anchor) {
      refuse(
          "compressor",
          "query_key scores against the query in the anchor block, and there is none; use retaining_heads or recent");
    }
    return;
  }
  if (request.has_retaining_heads) {
    plan.compressor = compressor_kind::retaining_heads;
    plan.compressor_reason = "the model has trained retaining heads";
  } else if (queries_in_anchor) {
    plan.compressor = compressor_kind::query_key;
    plan.compressor_reason = "the model has no retaining heads";
  } else {
    plan.compressor = compressor_kind::recent;
    plan.compressor_reason = "the model has no retaining heads and no query stands in an anchor";
  }
}

/// Neighbouring ranks share a device where they can, so that most blocks stay inside a node.
void place(std::span<const device_view> devices, std::vector<shard_plan>& shards) {
  for (std::size_t h = 0; h < shards.size(); ++h) {
    const auto& where = devices[h * devices.size() / shards.size()];
    shards[h].node = where.node;
    shards[h].device = where.device;
  }
}

/// Key and value of one token in one layer, all KV heads.
std::int64_t unit_bytes(const kv_shape& shape) { return 2 * shape.element_bytes * shape.kv_heads * shape.head_dim; }

void check(const plan_request& request, std::span<const device_view> devices) {
  const auto& options = request.options;
  if (devices.empty()) throw fault(fault_code::bad_input, "no device is there to run on", "devices");
  if (request.document_tokens < 1) refuse("document", "it is empty");
  if (options.ranks < 1) refuse("ranks", fmt::format("{} is not a number of ranks; at least 1", options.ranks));
  if (options.ranks > 65535) refuse("ranks", fmt::format("{} ranks are too many; at most 65535", options.ranks));
  if (options.chunk_tokens < 1) refuse("chunk-tokens", "at least 1");
  if (options.max_new_tokens < 1) refuse("max-new-tokens", fmt::format("{}; at least 1", options.max_new_tokens));
  // Written so that what is not a number is refused too.
  if (!(options.sampling.temperature >= 0 && options.sampling.temperature <= 100))
    refuse("temperature", "between 0 (greedy) and 100");
  const auto check_tokens = [](const std::optional<std::int64_t>& tokens, std::string_view option) {
    if (tokens && (*tokens < 0 || *tokens > INT32_MAX))
      refuse(option, fmt::format("{} is not a number of tokens; 0 to {}", *tokens, INT32_MAX));
  };
  check_tokens(options.anchor_tokens, "anchor-tokens");
  check_tokens(options.passing_tokens, "passing-tokens");
  if (!(options.sampling.top_p > 0 && options.sampling.top_p <= 1)) refuse("top-p", "between 0 (excluded) and 1");
  if (request.system_tokens < 0 || request.system_tokens > request.document_tokens) {
    refuse("system_tokens",
           fmt::format("{} opening tokens in a document of {}", request.system_tokens, request.document_tokens));
  }
  const std::int64_t last = request.document_tokens + request.query_tokens + options.max_new_tokens;
  if (request.positions_max > 0 && last > request.positions_max) {
    refuse("document",
           fmt::format("{} document + {} query + {} new tokens exceed the {} positions of the model",
                       request.document_tokens, request.query_tokens, options.max_new_tokens, request.positions_max));
  }
}

}  // namespace

std::string_view name_of(compressor_kind kind) { return compressor_names[static_cast<std::size_t>(kind)]; }

compressor_kind compressor_from(std::string_view name) {
  for (std::size_t i = 1; i < compressor_names.size(); ++i) {
    if (compressor_names[i] == name) return static_cast<compressor_kind>(i);
  }
  refuse("compressor", fmt::format("'{}' is unknown; one of auto, retaining_heads, query_key, recent, random", name));
}

std::int64_t shard_plan::document_index(std::int64_t index) const {
  for (const auto& run : block) {
    if (index < run.count) return run.first + index;
    index -= run.count;
  }
  throw fault(fault_code::internal, fmt::format("token {} lies outside the block of rank {}", index, rank));
}

published_budget budget_for(std::int64_t n) {
  const auto rounded = [](std::int64_t tokens) { return (tokens + 8) / 16 * 16; };
  const std::int64_t anchor = std::clamp<std::int64_t>(rounded(n / 32), 128, 8192);
  const std::int64_t passing = std::max<std::int64_t>(rounded(n / 64), 16);
  return {std::min(anchor, n), passing};
}

job_plan make_job_plan(const plan_request& request, std::span<const device_view> devices) {
  check(request, devices);
  const auto& how = find_strategy(request.options.strategy);
  if (!how.splits() && request.options.ranks != 1) {
    refuse("ranks", fmt::format("strategy {} runs on one rank, {} were asked for", how.name(), request.options.ranks));
  }
  std::int64_t multiple = 1;
  for (const auto& device : devices) multiple = std::max(multiple, device.block_multiple);
  split_request split{
      .document_tokens = request.document_tokens,
      .query_tokens = request.query_tokens,
      .system_tokens = request.system_tokens,
      .block_tokens = block_lengths(request, multiple),
  };
  auto budget = how.budget(request.options, split.block_tokens, request.document_tokens);
  if (how.compresses()) budget = in_multiples(budget, request.options, multiple);
  job_plan plan{
      .strategy = std::string(how.name()),
      .compressor_seed = request.options.compressor_seed,
      .document_tokens = request.document_tokens,
      .query_tokens = request.query_tokens,
      .system_tokens = request.system_tokens,
      .anchor_tokens = budget.anchor_tokens,
      .passing_tokens = budget.passing_tokens,
      .chunk_tokens = request.options.chunk_tokens,
      .max_new_tokens = request.options.max_new_tokens,
      .sampling = request.options.sampling,
  };
  if (how.compresses() && request.options.ranks > 1) {
    choose_compressor(request, request.query_tokens > 0 && budget.anchor_tokens > 0, plan);
  }
  split.anchor_tokens = budget.anchor_tokens;
  split.passing_tokens = budget.passing_tokens;
  split.compressor = plan.compressor;
  plan.shards = how.split(split);
  place(devices, plan.shards);
  plan.kernel_class = devices.front().kernel_class;
  for (const auto& device : devices) {
    if (device.kernel_class != plan.kernel_class) plan.kernel_class = "mixed";
  }
  return plan;
}

shard_tokens tokens_of(const shard_plan& shard, std::span<const std::int32_t> document,
                       std::span<const std::int32_t> query) {
  shard_tokens tokens;
  tokens.ids.reserve(static_cast<std::size_t>(shard.tokens()));
  tokens.positions.reserve(static_cast<std::size_t>(shard.tokens()));
  for (const auto* runs : {&shard.anchor, &shard.block}) {
    for (const auto& run : *runs) {
      const auto source = run.source == token_run::source_kind::document ? document : query;
      for (std::int64_t i = 0; i < run.count; ++i) {
        tokens.ids.push_back(source[static_cast<std::size_t>(run.first + i)]);
        tokens.positions.push_back(static_cast<std::int32_t>(run.position + i));
      }
    }
  }
  return tokens;
}

traffic prefill_traffic(const job_plan& plan, const kv_shape& shape) {
  traffic sum;
  for (const auto& shard : plan.shards) {
    if (shard.compressed_units == 0) continue;
    const std::int64_t readers = plan.ranks() - 1 - shard.rank;
    sum.messages += shape.layers * readers;
    sum.bytes += shape.layers * readers * shard.compressed_units * unit_bytes(shape);
  }
  return sum;
}

std::int64_t relay_log_bytes(const job_plan& plan, const kv_shape& shape) {
  std::int64_t units = 0;
  for (const auto& shard : plan.shards) units += shard.compressed_units;
  return shape.layers * units * unit_bytes(shape);
}

traffic decode_traffic(const job_plan& plan, const kv_shape& shape, std::int64_t tokens) {
  const std::int64_t ranks = plan.ranks();
  const std::int64_t pairs = ranks * (ranks - 1);
  // Each rank's partial output and log-sum-exp over its shard; the last rank's over query and answer as well.
  const std::int64_t partial = 4 * tokens * shape.heads * (shape.head_dim + 1);
  return {shape.layers * pairs, shape.layers * (pairs + ranks - 1) * partial};
}

}  // namespace baton
