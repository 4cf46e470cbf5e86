#pragma once

#include <cstdint>

#include "runtime/model/model_config.hpp"
#include "runtime/plan/job_plan.hpp"

namespace baton {

/// What a shard's prefill has to compute in one layer, counted from the plan. Pairs are (query, key) pairs of one head.
struct layer_counts {
  std::int64_t tokens = 0;         ///< A ++ B_h: projected and fed forward
  std::int64_t scored_tokens = 0;  ///< seen by the compressor
  std::int64_t causal_pairs = 0;   ///< inside [A; B_h], or inside A and B_h where A is aside
  std::int64_t dense_pairs = 0;    ///< of B_h with P_h
  std::int64_t panel_keys = 0;     ///< packed for block attention: A ++ B_h ++ P_h
};
layer_counts counts_of(const shard_plan& shard);

/// Floating-point operations of a shard's whole prefill, a multiplication with its addition as two: what any implementation has to
/// do. Norms, RoPE, softmax and choosing are not counted.
struct counted_work {
  double project = 0;
  double compress = 0;
  double attend = 0;
  double feed_forward = 0;  ///< with attention's output projection, as the phase of that name

  [[nodiscard]] double total() const { return project + compress + attend + feed_forward; }
};
counted_work work_of(const shard_plan& shard, const model_config& model, compressor_kind compressor,
                     std::int64_t retaining_width);

/// The most work that stands on one device of a plan: with devices that are alike, what the prefill's time cannot go below, and
/// so what a ratio of two plans can be.
double largest_device_work(const job_plan& plan, const model_config& model, std::int64_t retaining_width);

}  // namespace baton
