#include <algorithm>

#include <fmt/format.h>

#include "kernels/fault.hpp"
#include "runtime/prefill/layer.hpp"
#include "runtime/strategy/blocks.hpp"
#include "runtime/strategy/strategy.hpp"

namespace baton {
namespace {

/// APB (arXiv 2502.12085): a short anchor block with the query written into it, and the best KV units of every block passed
/// on to all later ranks.
class apb final : public strategy {
 public:
  [[nodiscard]] std::string_view name() const override { return "apb"; }
  [[nodiscard]] bool compresses() const override { return true; }

  [[nodiscard]] published_budget budget(const job_options& asked, std::span<const std::int64_t> block_tokens,
                                        std::int64_t document_tokens) const override {
    if (block_tokens.size() == 1) return {0, 0};
    const auto published = budget_for(document_tokens);
    const published_budget budget{asked.anchor_tokens.value_or(published.anchor_tokens),
                                  asked.passing_tokens.value_or(published.passing_tokens)};
    if (budget.anchor_tokens < 0) throw fault(fault_code::bad_input, "at least 0 (no anchor block)", "anchor-tokens");
    if (budget.passing_tokens < 0)
      throw fault(fault_code::bad_input, "at least 0 (nothing is passed)", "passing-tokens");
    return budget;
  }

  [[nodiscard]] std::vector<shard_plan> split(const split_request& request) const override {
    auto shards = local_blocks(request.block_tokens);
    if (shards.size() == 1) return shards;
    const auto anchor = anchor_block(request);
    const bool scored_by_query = request.compressor == compressor_kind::query_key;
    std::int64_t passed = 0;
    for (auto& shard : shards) {
      const bool first = shard.rank == 0;
      const bool last = shard.rank + 1 == static_cast<int>(shards.size());
      // Rank 0 holds the anchor's tokens in its own block; only a compressor that asks the query needs A beside it.
      if (!first || scored_by_query) set_anchor(shard, anchor);
      shard.anchor_aside = first && scored_by_query;
      if (shard.anchor_tokens > 0) {
        shard.anchor_query_first = request.system_tokens;
        shard.anchor_query_tokens = request.query_tokens;
      }
      shard.eligible_from = first ? std::min(request.anchor_tokens, shard.block_tokens) : 0;
      shard.passing_units = passed;
      if (!last) shard.compressed_units = std::min(request.passing_tokens, shard.block_tokens - shard.eligible_from);
      passed += shard.compressed_units;
    }
    return shards;
  }

  task attend(layer& l) const override {
    auto passing = l.exchange(l.compress(), l.later_ranks(), l.earlier_ranks());
    co_await l.attend_causal(l.anchor_and_local());
    co_await l.attend_dense(co_await passing);
  }

 private:
  /// A = d[0..s) ++ query ++ d[s..l_a-m): the compressor knows the question while it chooses.
  static std::vector<token_run> anchor_block(const split_request& request) {
    const std::int64_t s = request.system_tokens;
    const std::int64_t m = request.query_tokens;
    const std::int64_t anchor = request.anchor_tokens;
    if (anchor == 0) return {};
    if (m > 0 && anchor <= s + m) {
      throw fault(
          fault_code::bad_input,
          fmt::format(
              "the query does not fit the anchor block: {} opening and {} query tokens need anchor-tokens of at "
              "least {}, it is {}",
              s, m, s + m + 1, anchor),
          "anchor-tokens");
    }
    if (anchor - m > request.document_tokens) {
      throw fault(fault_code::bad_input,
                  fmt::format("an anchor block of {} tokens takes {} from a document of {}; at most {}", anchor,
                              anchor - m, request.document_tokens, request.document_tokens + m),
                  "anchor-tokens");
    }
    if (m == 0) return {{.first = 0, .count = anchor, .position = 0}};
    std::vector<token_run> runs;
    if (s > 0) runs.push_back({.first = 0, .count = s, .position = 0});
    runs.push_back({.source = token_run::source_kind::query, .first = 0, .count = m, .position = s});
    runs.push_back({.first = s, .count = anchor - s - m, .position = s + m});
    return runs;
  }
};

}  // namespace

const strategy& apb_strategy() {
  static const apb instance;
  return instance;
}

}  // namespace baton
