#pragma once

#include <memory>
#include <string>

#include "kernels/backend.hpp"
#include "runtime/device/arena.hpp"
#include "runtime/device/model_weights.hpp"

namespace baton {

struct device_options {
  std::string node;
  std::string name;
  std::size_t memory_bytes = 0;       ///< of the arena: KV shards and pass workspaces
  std::int64_t positions_max = 0;     ///< how far the RoPE table reaches
  std::int64_t chunk_tokens_max = 0;  ///< how large a chunk a job may ask for
};

/// Buffers that live within one chunk only and so serve every pass of the device in turn. C = chunk_tokens_max.
struct chunk_scratch {
  matrix normed;         ///< (C, hidden)
  matrix gate_up;        ///< (C, 2 F)
  matrix gated;          ///< (C, F)
  matrix retain_hidden;  ///< (C, W)
  matrix logits;         ///< (1, vocabulary) fp32
  std::byte* sampling = nullptr;
  std::int32_t* token = nullptr;
};

/// One device as passes see it: kernels, stream, memory and the model. Belongs to the compute thread of the device; what it borrows
/// (backend, weights) outlives it.
class device_context {
 public:
  /// Takes all its memory here. Throws fault(out_of_memory).
  device_context(backend& kernels, const model_weights& weights, const device_options& options);

  [[nodiscard]] const device_options& options() const { return options_; }
  [[nodiscard]] backend& kernels() { return kernels_; }
  [[nodiscard]] stream& queue() { return *stream_; }
  [[nodiscard]] arena& memory() { return arena_; }
  [[nodiscard]] const model_weights& weights() const { return weights_; }
  [[nodiscard]] const model_config& config() const { return weights_.config(); }
  [[nodiscard]] const rope_table& rope() const { return rope_; }
  [[nodiscard]] const chunk_scratch& scratch() const { return scratch_; }
  [[nodiscard]] element_type activation() const { return kernels_.activation_type(); }

  /// Bytes that a context takes beside the arena: RoPE table and chunk scratch.
  [[nodiscard]] static std::size_t fixed_bytes(const buffer_sizes& kernels, const model_config& config,
                                               std::int64_t retaining_width, const device_options& options);

 private:
  device_options options_;
  backend& kernels_;
  const model_weights& weights_;
  std::unique_ptr<stream> stream_;
  std::unique_ptr<device_memory> fixed_;
  rope_table rope_;
  chunk_scratch scratch_;
  arena arena_;
};

}  // namespace baton
