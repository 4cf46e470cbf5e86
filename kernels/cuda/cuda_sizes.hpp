#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/buffer_sizes.hpp"
#include "kernels/cuda/compressor.hpp"
#include "kernels/cuda/decode_attention.hpp"
#include "kernels/cuda/sampling.hpp"

namespace baton::cuda {

/// What the CUDA backend's buffers take; known without a GPU. Activations, weights and KV are bf16.
class cuda_sizes final : public buffer_sizes {
 public:
  [[nodiscard]] element_type activation_type() const override { return element_type::bf16; }
  /// Rows of a tile of cuDNN's attention, and of most products.
  [[nodiscard]] std::int64_t block_multiple() const override { return 128; }
  [[nodiscard]] std::size_t packed_bytes(std::int64_t outputs, std::int64_t inputs) const override {
    return static_cast<std::size_t>(outputs * inputs * 2);
  }
  /// Attention reads keys and values where they stand.
  [[nodiscard]] std::size_t panel_bytes(std::int64_t, int, int) const override { return 0; }
  [[nodiscard]] std::size_t decode_attention_workspace_bytes(std::int64_t, int heads, int dim) const override {
    return cuda::decode_attention_workspace_bytes(heads, dim);
  }
  [[nodiscard]] std::size_t select_workspace_bytes(std::int64_t tokens, int kv_heads) const override {
    return cuda::select_workspace_bytes(tokens, kv_heads);
  }
  [[nodiscard]] std::size_t sample_workspace_bytes(std::int64_t vocabulary) const override {
    return cuda::sample_workspace_bytes(vocabulary);
  }
};

}  // namespace baton::cuda
