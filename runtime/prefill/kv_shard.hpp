#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "runtime/device/arena.hpp"
#include "runtime/model/model_config.hpp"

namespace baton {

/// Keys (after RoPE) and values of some tokens in every layer, in one contiguous extent: what a prefill leaves behind, and
/// what query and answer tokens add. Belongs to the compute thread of the device whose arena it came from.
class kv_shard {
 public:
  kv_shard(arena& memory, const model_config& config, std::int64_t tokens, element_type type,
           const std::string& purpose)
      : extent_(memory.take(bytes_needed(config, tokens, type), purpose)), tokens_(tokens) {
    layout cut(extent_.data());
    for (int i = 0; i < config.layers; ++i) {
      auto keys = cut.cut_heads(tokens, config.kv_heads, config.head_dim, type);
      auto values = cut.cut_heads(tokens, config.kv_heads, config.head_dim, type);
      layers_.emplace_back(keys, values);
    }
  }

  [[nodiscard]] std::int64_t tokens() const { return tokens_; }
  [[nodiscard]] const head_matrix& keys(int layer) const { return layers_[static_cast<std::size_t>(layer)].first; }
  [[nodiscard]] const head_matrix& values(int layer) const { return layers_[static_cast<std::size_t>(layer)].second; }

  [[nodiscard]] static std::size_t bytes_needed(const model_config& config, std::int64_t tokens, element_type type) {
    layout measure;
    for (int i = 0; i < 2 * config.layers; ++i) measure.cut_heads(tokens, config.kv_heads, config.head_dim, type);
    return measure.bytes();
  }

 private:
  extent extent_;
  std::int64_t tokens_;
  std::vector<std::pair<head_matrix, head_matrix>> layers_;  ///< keys, values: (tokens, n_kv, D)
};

}  // namespace baton
