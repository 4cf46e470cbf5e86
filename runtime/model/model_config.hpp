#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace baton {

/// How RoPE's inverse frequencies are stretched for contexts beyond those of the first training.
struct rope_scaling {
  enum class kind : std::uint8_t { none, linear, llama3 };

  kind type = kind::none;
  double factor = 1;                 ///< linear, llama3: what (low) frequencies are divided by
  double low_frequency_factor = 1;   ///< llama3: wavelengths over original_max_positions / this are divided by `factor`
  double high_frequency_factor = 4;  ///< llama3: wavelengths under original_max_positions / this are kept
  int original_max_positions = 0;    ///< llama3: positions of the first training

  bool operator==(const rope_scaling&) const = default;
};

/// What the model's authors recommend for generation; nothing where they say nothing.
struct generation_defaults {
  std::optional<bool> do_sample;
  std::optional<double> temperature;  ///< at least 0
  std::optional<double> top_p;        ///< above 0, at most 1
  std::optional<int> max_new_tokens;  ///< at least 1

  bool operator==(const generation_defaults&) const = default;
};

/// The shape of a decoder of the Llama architecture and what it needs beside its weights. The type of the weights is
/// not in here: each tensor carries its own. A plain value; all counts are at least 1 and below 2^24 (max_positions:
/// 2^31).
struct model_config {
  std::string family;  ///< "llama", which Llama 2, Llama 3 and Yi checkpoints call themselves
  int layers = 0;
  int hidden = 0;  ///< width of the hidden states
  int heads = 0;   ///< query heads, a multiple of kv_heads
  int kv_heads = 0;
  int head_dim = 0;  ///< even; heads * head_dim need not be `hidden`
  int ffn = 0;       ///< width between the feed-forward's gate and down projections
  int vocabulary = 0;
  double rms_eps = 0;
  double rope_theta = 0;
  rope_scaling scaling;
  int max_positions = 0;                  ///< positions that the model was made for
  bool tied_embeddings = false;           ///< the output head is the embedding
  std::vector<std::int32_t> stop_tokens;  ///< any of them ends an answer; empty if there are none
  std::optional<std::int32_t> bos;        ///< the token that opens every document
  generation_defaults generation;

  bool operator==(const model_config&) const = default;
};

/// Reads config.json, as transformers 4 and 5 write it, and generation_config.json where there is one, whose special
/// tokens win. Absent keys mean what they mean to transformers, but the sizes of the model must be there.
/// Throws fault(bad_input) naming file, key and what would be right: for files that are missing or no JSON, for
/// impossible values, and for features that would change the arithmetic (biases, experts, sliding windows, other
/// activations, RoPE scalings, quantized weights, model types).
model_config load_model_config(const std::filesystem::path& directory);

}  // namespace baton
