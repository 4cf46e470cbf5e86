#include "runtime/prefill/workspace.hpp"

namespace baton {

prefill_workspace cut_prefill_workspace(layout& cut, const buffer_sizes& kernels, const model_config& c,
                                        const shard_plan& shard) {
  const auto type = kernels.activation_type();
  const std::int64_t tokens = shard.tokens();
  const auto cut_indices = [&](std::int64_t count) {
    return reinterpret_cast<std::int32_t*>(cut.cut(static_cast<std::size_t>(count) * sizeof(std::int32_t)));
  };
  const auto cut_panel = [&](std::int64_t keys) {
    return kv_panel{cut.cut(kernels.panel_bytes(keys, c.kv_heads, c.head_dim)), keys, c.kv_heads, c.head_dim};
  };
  prefill_workspace w;
  w.ids = cut_indices(tokens);
  w.positions = cut_indices(tokens);
  w.hidden = cut.cut_matrix(tokens, c.hidden, type);
  w.qkv = cut.cut_matrix(tokens, static_cast<std::int64_t>(c.heads + 2 * c.kv_heads) * c.head_dim, type);
  w.attended = cut.cut_heads(tokens, c.heads, c.head_dim, type);
  w.log_sum_exp = cut.cut_matrix(tokens, c.heads, element_type::f32);
  w.local_panel = cut_panel(shard.anchor_aside ? shard.block_tokens : tokens);
  w.aside_panel = cut_panel(shard.anchor_aside ? shard.anchor_tokens : 0);
  w.passing_panel = cut_panel(shard.passing_units);
  w.passing_keys = cut.cut_heads(shard.passing_units, c.kv_heads, c.head_dim, type);
  w.passing_values = cut.cut_heads(shard.passing_units, c.kv_heads, c.head_dim, type);
  w.compressed_keys = cut.cut_heads(shard.compressed_units, c.kv_heads, c.head_dim, type);
  w.compressed_values = cut.cut_heads(shard.compressed_units, c.kv_heads, c.head_dim, type);
  const std::int64_t scored = shard.compressed_units > 0 ? shard.block_tokens : 0;
  w.scores = cut.cut_matrix(scored, c.kv_heads, element_type::f32);
  w.pooled = cut.cut_matrix(scored, c.kv_heads, element_type::f32);
  w.mean_query = cut.cut_matrix(c.kv_heads, c.head_dim, element_type::f32);
  w.selection = cut.cut(scored > 0 ? kernels.select_workspace_bytes(scored, c.kv_heads) : 0);
  w.chosen = cut_indices(shard.compressed_units * c.kv_heads * c.layers);
  return w;
}

std::size_t prefill_workspace_bytes(const buffer_sizes& kernels, const model_config& config, const shard_plan& shard) {
  layout measure;
  cut_prefill_workspace(measure, kernels, config, shard);
  return measure.bytes();
}

}  // namespace baton
