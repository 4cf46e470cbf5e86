#pragma once

#include <cstdint>

#include "kernels/backend.hpp"
#include "runtime/device/arena.hpp"
#include "runtime/model/model_config.hpp"
#include "runtime/plan/job_plan.hpp"

namespace baton {

/// The buffers of one prefill pass, kept while it is suspended. T = l_a + b_h tokens, A first; U = units of P_h.
/// A layer's anchor KV and P_h stand here until that layer's attention ends.
struct prefill_workspace {
  std::int32_t* ids = nullptr;        ///< (T)
  std::int32_t* positions = nullptr;  ///< (T)
  matrix hidden;                      ///< (T, hidden): the residual stream
  matrix qkv;                         ///< (T, (n_q + 2 n_kv) D): q and k after RoPE once `project` is through
  head_matrix attended;               ///< (T, n_q, D)
  matrix log_sum_exp;                 ///< (T, n_q) fp32
  kv_panel local_panel;               ///< [A; B_h], or B_h alone where A is aside
  kv_panel aside_panel;               ///< A, where it is aside
  kv_panel passing_panel;             ///< P_h
  head_matrix passing_keys;           ///< (U, n_kv, D)
  head_matrix passing_values;         ///< (U, n_kv, D)
  head_matrix compressed_keys;        ///< C_h: (units, n_kv, D)
  head_matrix compressed_values;
  matrix scores;      ///< (b_h, n_kv) fp32
  matrix pooled;      ///< (b_h, n_kv) fp32
  matrix mean_query;  ///< (n_kv, D) fp32
  std::byte* selection = nullptr;
  std::int32_t* chosen = nullptr;  ///< (layers, n_kv, units of C_h): indices into B_h
};

/// Cuts the workspace of `shard`; with a measuring layout, tells its size.
prefill_workspace cut_prefill_workspace(layout& cut, const buffer_sizes& kernels, const model_config& config,
                                        const shard_plan& shard);

std::size_t prefill_workspace_bytes(const buffer_sizes& kernels, const model_config& config, const shard_plan& shard);

}  // namespace baton
