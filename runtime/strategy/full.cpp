#include "runtime/prefill/layer.hpp"
#include "runtime/strategy/strategy.hpp"

namespace baton {
namespace {

/// Causal attention over the whole document on one rank (FlashAttention): what the others are compared with.
class full final : public strategy {
 public:
  [[nodiscard]] std::string_view name() const override { return "full"; }
  [[nodiscard]] bool splits() const override { return false; }

  [[nodiscard]] published_budget budget(const job_options&, std::span<const std::int64_t>,
                                        std::int64_t) const override {
    return {0, 0};
  }

  [[nodiscard]] std::vector<shard_plan> split(const split_request& request) const override {
    shard_plan shard;
    shard.block = {{.first = 0, .count = request.document_tokens, .position = 0}};
    shard.block_tokens = request.document_tokens;
    return {shard};
  }

  task attend(layer& l) const override { co_await l.attend_causal(l.anchor_and_local()); }
};

}  // namespace

const strategy& full_strategy() {
  static const full instance;
  return instance;
}

}  // namespace baton
