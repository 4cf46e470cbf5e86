#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/backend.hpp"
#include "runtime/model/checkpoint.hpp"
#include "runtime/model/model_config.hpp"

namespace baton {

struct layer_weights {
  const float* input_norm = nullptr;           ///< (hidden), device memory
  const float* post_attention_norm = nullptr;  ///< (hidden), device memory
  std::unique_ptr<packed_weights> qkv;         ///< q, k, v under one another: ((n_q + 2 n_kv) D, hidden)
  std::unique_ptr<packed_weights> o;           ///< (hidden, n_q D)
  std::unique_ptr<packed_weights> gate_up;     ///< gate, up under one another: (2 F, hidden)
  std::unique_ptr<packed_weights> down;        ///< (hidden, F)
  const float* qkv_bias = nullptr;             ///< ((n_q + 2 n_kv) D), device memory; null where the family has none
  const float* o_bias = nullptr;               ///< (hidden), device memory; null where the family has none
  std::unique_ptr<packed_weights> retain_in;   ///< retaining head fc1: (W, (n_q + 2 n_kv) D); null where there is none
  std::unique_ptr<packed_weights> retain_out;  ///< retaining head fc2: (n_kv, W)
};

/// Hears how many of the bytes have been read, on the thread that loads.
using load_progress = std::function<void(std::int64_t bytes_done, std::int64_t bytes_total)>;

/// A model on a kind of device: packed once, immutable afterwards, shared by all ranks whose devices use the same backend kind.
/// Outlives every device context that borrows it.
class model_weights {
 public:
  /// Reads the checkpoint once, tensor by tensor, and lets go of the pages behind it; it may be closed afterwards.
  /// Throws fault(bad_input | out_of_memory).
  model_weights(backend& kernels, const checkpoint& from, const load_progress& progress = {});

  [[nodiscard]] const model_config& config() const { return config_; }
  [[nodiscard]] const layer_weights& layer(int index) const { return layers_[static_cast<std::size_t>(index)]; }
  [[nodiscard]] const matrix& embedding() const { return embedding_; }  ///< (vocabulary, hidden)
  [[nodiscard]] const float* final_norm() const { return final_norm_; }
  [[nodiscard]] const packed_weights& output_head() const { return *output_head_; }
  [[nodiscard]] bool has_retaining_heads() const { return layers_.front().retain_in != nullptr; }
  /// Width W of the retaining heads, 0 where there are none.
  [[nodiscard]] std::int64_t retaining_width() const;
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  /// What `bytes` will be, from the sizes alone; `retaining_width` is 0 without retaining heads.
  [[nodiscard]] static std::size_t bytes_needed(const buffer_sizes& kernels, const model_config& config,
                                                std::int64_t retaining_width);

 private:
  model_config config_;
  std::unique_ptr<device_memory> memory_;  ///< embedding, norms and biases
  matrix embedding_;
  const float* final_norm_ = nullptr;
  std::unique_ptr<packed_weights> output_head_;
  std::vector<layer_weights> layers_;
  std::size_t bytes_ = 0;
};

}  // namespace baton
