#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "runtime/device/device_context.hpp"
#include "runtime/device/pass.hpp"
#include "runtime/plan/job_plan.hpp"
#include "runtime/prefill/compressed_source.hpp"
#include "runtime/prefill/kv_shard.hpp"
#include "runtime/prefill/layer.hpp"
#include "runtime/prefill/workspace.hpp"
#include "runtime/strategy/strategy.hpp"

namespace baton {

/// The layer loop of one rank: project, strategy.attend, feed_forward (APB section 3.1). Borrows the device context, the plan
/// and its transport, which outlive it; hands the finished KV shard over by move.
class prefill_pass final : public pass {
 public:
  /// Takes KV shard and workspace: throws fault(out_of_memory); fault(bad_input) for token ids outside the vocabulary.
  prefill_pass(device_context& device, const job_plan& plan, int rank, job_id job, std::span<const std::int32_t> ids,
               transport& network, pass_progress& progress, trace_recorder* trace = nullptr);
  /// By `how`, which outlives the pass, whatever strategy the plan names; the plan's shards must suit it.
  prefill_pass(device_context& device, const job_plan& plan, const strategy& how, int rank, job_id job,
               std::span<const std::int32_t> ids, transport& network, pass_progress& progress,
               trace_recorder* trace = nullptr);

  /// Before the first step: the compressed blocks of these layers have a holder, which whoever needs them asks. They are chosen again
  /// and not sent (first holder wins).
  void leave_out(std::span<const std::int32_t> held_layers);
  /// Between steps: a layer that has not come yet and was to be left out is not.
  void send_after_all(int layer);

  /// KV of B_h, once step() has returned finished.
  [[nodiscard]] kv_shard take_shard() { return std::move(shard_); }
  /// Document indices of the chosen units of one layer, (n_kv, units), ascending per head.
  [[nodiscard]] std::vector<std::int32_t> chosen_units(int layer) const;
  /// Between steps: C_h of a layer as the later ranks were given it. Empty where nothing is passed on, or the layer has not come so
  /// far, so that its block is still to be sent.
  [[nodiscard]] std::optional<block> gather_again(int layer) const;
  /// By which the same can be done without the pass, once step() has returned finished.
  [[nodiscard]] compressed_source source() const;

 private:
  friend class layer;

  /// Tell the kernels what the layers will ask for, while nobody waits for it.
  void prepare_attention();
  void prepare_products();
  task run();
  task project(int index);
  task feed_forward(int index);

  void score(int index, const matrix& rows, std::int64_t first);

  [[nodiscard]] bool scores_by_heads() const {
    return plan_.compressor == compressor_kind::retaining_heads && share_.compressed_units > 0;
  }
  [[nodiscard]] std::int64_t chunk_end(std::int64_t first, std::int64_t limit) const {
    return std::min(first + plan_.chunk_tokens, limit);
  }
  [[nodiscard]] head_matrix queries() const;  ///< (T, n_q, D)
  [[nodiscard]] head_matrix keys() const;     ///< (T, n_kv, D)
  [[nodiscard]] head_matrix values() const;   ///< (T, n_kv, D)
  [[nodiscard]] std::int32_t* chosen(int layer) const;
  [[nodiscard]] std::vector<std::int32_t> chosen_of_block(int layer) const;

  device_context& device_;
  backend& kernels_;
  stream& queue_;
  const model_config& model_;
  const job_plan& plan_;
  const shard_plan& share_;
  const strategy& strategy_;
  const job_id job_;
  transport& network_;
  extent memory_;
  prefill_workspace work_;
  kv_shard shard_;
  causal_runs runs_;
  std::vector<bool> held_elsewhere_;  ///< by layer; empty: none is
  int layers_compressed_ = 0;         ///< these have their indices in the workspace
};

}  // namespace baton
