#include "runtime/prefill/layer.hpp"
#include "runtime/strategy/blocks.hpp"
#include "runtime/strategy/strategy.hpp"

namespace baton {
namespace {

/// Star Attention (arXiv 2411.17116), phase 1: every rank sees the first block as its anchor and its own block, and nothing
/// else of the document.
class star final : public strategy {
 public:
  [[nodiscard]] std::string_view name() const override { return "star"; }

  [[nodiscard]] published_budget budget(const job_options&, std::span<const std::int64_t> block_tokens,
                                        std::int64_t) const override {
    return {block_tokens.size() > 1 ? block_tokens.front() : 0, 0};
  }

  [[nodiscard]] std::vector<shard_plan> split(const split_request& request) const override {
    auto shards = local_blocks(request.block_tokens);
    for (auto& shard : shards) {
      if (shard.rank > 0) set_anchor(shard, {{.first = 0, .count = request.anchor_tokens, .position = 0}});
    }
    return shards;
  }

  task attend(layer& l) const override { co_await l.attend_causal(l.anchor_and_local()); }
};

}  // namespace

const strategy& star_strategy() {
  static const star instance;
  return instance;
}

}  // namespace baton
