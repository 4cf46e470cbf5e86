#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/model/model_config.hpp"
#include "runtime/model/model_shape.hpp"
#include "runtime/model/refusal_list.hpp"
#include "runtime/model/safetensors.hpp"
#include "runtime/model/weight_files.hpp"

namespace baton {

/// The weights of one decoder layer; linear layers as (outputs, inputs).
struct layer_tensors {
  const tensor_view* input_norm = nullptr;           ///< (hidden)
  const tensor_view* q = nullptr;                    ///< (heads * head_dim, hidden)
  const tensor_view* k = nullptr;                    ///< (kv_heads * head_dim, hidden)
  const tensor_view* v = nullptr;                    ///< (kv_heads * head_dim, hidden)
  const tensor_view* o = nullptr;                    ///< (hidden, heads * head_dim)
  const tensor_view* post_attention_norm = nullptr;  ///< (hidden)
  const tensor_view* gate = nullptr;                 ///< (ffn, hidden)
  const tensor_view* up = nullptr;                   ///< (ffn, hidden)
  const tensor_view* down = nullptr;                 ///< (hidden, ffn)
  // Null where the configuration has none.
  const tensor_view* q_bias = nullptr;  ///< (heads * head_dim)
  const tensor_view* k_bias = nullptr;  ///< (kv_heads * head_dim)
  const tensor_view* v_bias = nullptr;  ///< (kv_heads * head_dim)
  const tensor_view* o_bias = nullptr;  ///< (hidden)
};

/// The retaining heads of one layer (Locret, arXiv 2410.01805, section 3): scores = fc2(silu(fc1([q; k; v]))).
struct retaining_head_tensors {
  const tensor_view* fc1 = nullptr;  ///< (retaining width, (heads + 2 * kv_heads) * head_dim)
  const tensor_view* fc2 = nullptr;  ///< (kv_heads, retaining width)
};

/// How the numbers of a tensor come about that no file holds: offset + random_weights(seed, scale), as kernels/random_weight.hpp has
/// them.
struct drawn_numbers {
  std::uint64_t seed = 0;
  float scale = 0;
  float offset = 0;
};

/// A Hugging Face checkpoint directory of a family of runtime/model/families: config.json, generation_config.json, weights
/// in one or several safetensors files and, where there is one, retaining_heads.safetensors. Opening checks the name, type
/// (F32, F16, BF16) and shape of every tensor that is used and reads no weights. Tensors that are not used are ignored, but
/// for biases, which are refused.
///
/// Owns the mapped files: views stay valid when the object is moved and until it is destroyed. Any thread may read.
class checkpoint {
 public:
  /// `directory` may also be a shape's file (model_shape.hpp): then all tensors are drawn, and have no bytes.
  /// Throws fault(bad_input) that names the file, the key or tensor, and what is expected.
  static checkpoint open(const std::filesystem::path& directory);

  /// A model of these sizes, all of whose tensors are drawn.
  static checkpoint of_shape(const model_shape& shape) { return checkpoint(shape); }

  /// The same as `open`, but goes on after a refusal and adds it to `refusals`; nothing where there was one. `config` becomes what could
  /// be read of config.json.
  static std::optional<checkpoint> open_or_refuse(const std::filesystem::path& directory, model_config& config,
                                                  refusal_list& refusals);

  [[nodiscard]] const model_config& config() const noexcept { return config_; }
  /// Null for a shape.
  [[nodiscard]] const weight_files* files() const noexcept { return weights_ ? &*weights_ : nullptr; }

  /// (vocabulary, hidden)
  [[nodiscard]] const tensor_view& embedding() const noexcept { return *embedding_; }
  /// (vocabulary, hidden); the embedding itself where config().tied_embeddings.
  [[nodiscard]] const tensor_view& output_head() const noexcept { return *output_head_; }
  /// (hidden)
  [[nodiscard]] const tensor_view& final_norm() const noexcept { return *final_norm_; }

  /// 0 <= index < config().layers.
  [[nodiscard]] const layer_tensors& layer(int index) const { return layers_.at(static_cast<std::size_t>(index)); }

  [[nodiscard]] bool has_retaining_heads() const noexcept { return !retaining_heads_.empty(); }

  /// The width between fc1 and fc2, the same in all layers; 0 without retaining heads.
  [[nodiscard]] std::int64_t retaining_width() const noexcept {
    return has_retaining_heads() ? retaining_heads_.front().fc1->shape[0] : 0;
  }

  /// 0 <= index < config().layers, and has_retaining_heads().
  [[nodiscard]] const retaining_head_tensors& retaining_head(int index) const {
    return retaining_heads_.at(static_cast<std::size_t>(index));
  }

  /// How a tensor of this checkpoint is drawn; null where a file holds it.
  [[nodiscard]] const drawn_numbers* drawn(const tensor_view& tensor) const noexcept;

  /// What loading reads, or draws, two bytes a number: a tensor that is both embedding and output head counts twice.
  [[nodiscard]] std::int64_t bytes_to_read() const;

  /// Gives the pages of a tensor's bytes, or of some of them, back to the system.
  void let_go(std::span<const std::byte> bytes) const noexcept;

 private:
  struct drawn_tensor {
    std::string name;
    tensor_view view;
    drawn_numbers numbers;
  };

  checkpoint(model_config config, weight_files weights, std::optional<weight_files> retaining_weights,
             refusal_list& refusals);
  explicit checkpoint(const model_shape& shape);

  model_config config_;
  std::optional<weight_files> weights_;
  std::optional<weight_files> retaining_weights_;
  const tensor_view* embedding_ = nullptr;
  const tensor_view* output_head_ = nullptr;
  const tensor_view* final_norm_ = nullptr;
  std::vector<layer_tensors> layers_;
  std::vector<retaining_head_tensors> retaining_heads_;
  std::deque<drawn_tensor> drawn_;  ///< of a shape
};

}  // namespace baton
