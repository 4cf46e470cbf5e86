#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/buffer_sizes.hpp"

namespace baton {

/// What a GPU's buffers take, for estimates where there is no GPU: everything in bf16, weights and panels as plain as they stand
/// in a checkpoint. Pure, any thread.
class gpu_sizes final : public buffer_sizes {
 public:
  [[nodiscard]] element_type activation_type() const override { return element_type::bf16; }
  [[nodiscard]] std::int64_t block_multiple() const override { return 128; }
  [[nodiscard]] std::size_t packed_bytes(std::int64_t outputs, std::int64_t inputs) const override {
    return bytes(outputs * inputs, 2);
  }
  /// Counted in full; an implementation that attends to keys and values where they stand takes less.
  [[nodiscard]] std::size_t panel_bytes(std::int64_t tokens_max, int kv_heads, int dim) const override {
    return bytes(tokens_max * kv_heads * dim, 2 * 2);
  }
  /// Output and log-sum-exp of each split of 1024 keys for each query of a piece of 64, in fp32.
  [[nodiscard]] std::size_t decode_attention_workspace_bytes(std::int64_t keys, int heads, int dim) const override {
    const std::int64_t splits = (keys + 1023) / 1024;
    return bytes(splits * 64 * heads * (std::int64_t{dim} + 1), 4);
  }
  /// A radix sort's keys and values, twice.
  [[nodiscard]] std::size_t select_workspace_bytes(std::int64_t tokens, int kv_heads) const override {
    return bytes(tokens * kv_heads, 2 * (4 + 4));
  }
  [[nodiscard]] std::size_t sample_workspace_bytes(std::int64_t vocabulary) const override {
    return bytes(vocabulary, 2 * (4 + 4));
  }

 private:
  static std::size_t bytes(std::int64_t count, std::int64_t each) { return static_cast<std::size_t>(count * each); }
};

}  // namespace baton
