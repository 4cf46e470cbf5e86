#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace baton {

class refusal_list;

/// How RoPE's inverse frequencies are stretched for contexts beyond those of the first training.
struct rope_scaling {
  enum class kind : std::uint8_t { none, linear, llama3, yarn };

  kind type = kind::none;
  double factor = 1;                 ///< what (low) frequencies are divided by
  double low_frequency_factor = 1;   ///< llama3: wavelengths over original_max_positions / this are divided by `factor`
  double high_frequency_factor = 4;  ///< llama3: wavelengths under original_max_positions / this are kept
  int original_max_positions = 0;    ///< llama3, yarn: positions of the first training
  double beta_fast = 32;             ///< yarn: dimensions that turn more often than this in the first training are kept
  double beta_slow = 1;              ///< yarn: those that turn less often are divided by `factor`
  bool truncate = true;              ///< yarn: the bounds between them are whole dimensions
  double amplitude = 1;              ///< yarn: what cosines and sines are multiplied by

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

/// The shape of a decoder of the Llama architecture and what it needs beside its weights. Each tensor carries its own type.
/// A plain value; all counts are at least 1 and below 2^24 (max_positions: 2^31).
struct model_config {
  std::string family;  ///< config.json's model_type: "llama" for Llama and Yi, "qwen2" for Qwen2 and Qwen2.5
  std::string dtype;   ///< what config.json says of the weights, such as "bfloat16"; empty where it says nothing
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
  int max_positions = 0;                  ///< positions that the model was made for, with those that yarn adds
  bool tied_embeddings = false;           ///< the output head is the embedding
  bool qkv_bias = false;                  ///< the projections of queries, keys and values add a bias
  bool o_bias = false;                    ///< and so does attention's output projection
  std::vector<std::int32_t> stop_tokens;  ///< any of them ends an answer; empty if there are none
  std::optional<std::int32_t> bos;        ///< the token that opens every document
  generation_defaults generation;

  bool operator==(const model_config&) const = default;
};

/// How many numbers the weights of such a model are; 0 where a size is missing. Retaining heads are not among them.
std::int64_t parameters_of(const model_config& config);

/// Reads config.json, as transformers 4 and 5 write it, and generation_config.json where there is one, whose special
/// tokens win. Absent keys mean what they mean to transformers, but the sizes of the model must be there.
/// Throws fault(bad_input) naming file, key and what would be right: for files that are missing or no JSON, for
/// impossible values, and for features that would change the arithmetic (experts, latent attention, sliding windows, other
/// activations, RoPE scalings, quantized weights, model types).
model_config load_model_config(const std::filesystem::path& directory);

/// The same, but goes on after a refusal and adds it to `refusals`: what could not be read keeps its default, 0 for sizes.
model_config examine_model_config(const std::filesystem::path& directory, refusal_list& refusals);

}  // namespace baton
