#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "kernels/backend.hpp"
#include "runtime/device/task.hpp"
#include "runtime/transport/transport.hpp"

namespace baton {

class prefill_pass;

/// Keys (after RoPE) and values of some units: C_h, P_h. (units, n_kv, D) each, device memory of the pass.
struct kv_block {
  head_matrix keys;
  head_matrix values;
};

/// Tokens [first, first + count) of A ++ B_h that attend causally among themselves.
struct causal_run {
  std::int64_t first = 0;
  std::int64_t count = 0;
  kv_panel* panel = nullptr;
};

/// The runs of a rank: usually one, [A; B_h]; two where the anchor is computed aside.
struct causal_runs {
  std::array<causal_run, 2> runs;
  std::size_t count = 0;
  [[nodiscard]] std::span<const causal_run> view() const { return {runs.data(), count}; }
};

/// P_h on its way: awaiting it suspends the pass until every earlier block is here.
class passing_blocks {
 public:
  passing_blocks(transfer&& under_way, const kv_block& received)
      : transfer_(std::move(under_way)), received_(received) {}
  bool await_ready() { return transfer_.done(); }
  void await_suspend(std::coroutine_handle<task::promise_type> self) noexcept { transfer_.await_suspend(self); }
  const kv_block& await_resume() const noexcept { return received_; }

 private:
  transfer transfer_;
  kv_block received_;
};

/// One layer of a prefill on one rank, as a strategy sees it: queries, keys and values are projected and rotated. Valid within
/// strategy::attend.
class layer {
 public:
  layer(prefill_pass& owner, int index) : pass_(owner), index_(index) {}

  [[nodiscard]] int index() const { return index_; }
  [[nodiscard]] int rank() const;
  [[nodiscard]] int ranks() const;
  [[nodiscard]] rank_range later_ranks() const { return {rank() + 1, ranks()}; }
  [[nodiscard]] rank_range earlier_ranks() const { return {0, rank()}; }

  /// C_h: the best units of B_h, per KV head, in document order (APB section 3.3). Empty where the plan passes nothing on.
  kv_block compress();
  /// Gives C_h to later ranks and asks for P_h; returns at once.
  passing_blocks exchange(const kv_block& compressed, rank_range to, rank_range from);
  /// What every token attends to without any other rank.
  [[nodiscard]] causal_runs anchor_and_local() const;
  /// Anchor queries attend causally to A, local queries to A and causally to B_h (APB section 3.4).
  task attend_causal(causal_runs keys);
  /// Local queries attend to all of P_h; merged with what stands there by log-sum-exp.
  task attend_dense(const kv_block& passing);

 private:
  prefill_pass& pass_;
  int index_;
};

}  // namespace baton
