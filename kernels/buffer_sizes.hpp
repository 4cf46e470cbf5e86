#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.hpp"

namespace baton {

/// What the buffers of a kind of device take, in bytes, and how long it likes blocks. Plans are made with this alone, so that they can
/// be made for a device that is not there. Pure, any thread.
class buffer_sizes {
 public:
  virtual ~buffer_sizes() = default;

  /// The type of hidden states, queries, keys and values: bf16, or f32 for verification.
  [[nodiscard]] virtual element_type activation_type() const = 0;
  /// Long blocks of tokens are best a multiple of this: where attention computes tiles, a part of one takes as long as the whole, and
  /// where it is set up for each length, there are fewer lengths.
  [[nodiscard]] virtual std::int64_t block_multiple() const = 0;
  /// Packed weights of (outputs, inputs).
  [[nodiscard]] virtual std::size_t packed_bytes(std::int64_t outputs, std::int64_t inputs) const = 0;
  /// A kv_panel for block attention.
  [[nodiscard]] virtual std::size_t panel_bytes(std::int64_t tokens_max, int kv_heads, int dim) const = 0;
  /// For attention of any number of queries over up to `keys` keys of a KV shard.
  [[nodiscard]] virtual std::size_t decode_attention_workspace_bytes(std::int64_t keys, int heads, int dim) const = 0;
  /// For choosing among so many tokens.
  [[nodiscard]] virtual std::size_t select_workspace_bytes(std::int64_t tokens, int kv_heads) const = 0;
  [[nodiscard]] virtual std::size_t sample_workspace_bytes(std::int64_t vocabulary) const = 0;
};

}  // namespace baton
