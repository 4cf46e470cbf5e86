#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

/// Reference implementations for tests. They share no code with kernels/ and runtime/: single-threaded plain arithmetic
/// that is meant to be read. Everything here throws std::runtime_error or std::invalid_argument with a message.
namespace baton::reference {

/// How RoPE's frequencies are stretched for long contexts; the names are those of a Hugging Face config.json.
struct rope_scaling {
  std::string type = "linear";  ///< "linear", "llama3" or "yarn"
  double factor = 1;
  double low_freq_factor = 1;                      ///< llama3
  double high_freq_factor = 4;                     ///< llama3
  double original_max_position_embeddings = 8192;  ///< llama3, yarn
  double beta_fast = 32;                           ///< yarn
  double beta_slow = 1;                            ///< yarn
  bool truncate = true;                            ///< yarn
  std::optional<double> attention_factor = {};     ///< yarn: factor of cos and sin; absent: from the three below
  std::optional<double> mscale = {};               ///< yarn
  std::optional<double> mscale_all_dim = {};       ///< yarn
};

/// The sizes of a model.
struct shape {
  std::string family = "llama";  ///< what config.json calls it: "llama" or "qwen2", whose q, k and v always have a bias
  int layers = 2;
  int hidden = 64;
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 16;
  int ffn = 128;
  int vocabulary = 256;
  double rms_eps = 1e-5;
  double rope_theta = 10000;
  std::optional<rope_scaling> scaling = {};
  bool tied = false;            ///< logits come from the embedding matrix
  bool attention_bias = false;  ///< random_weights gives q, k, v and o a bias
};

/// y = weight · x + bias.
struct linear {
  int outputs = 0;
  int inputs = 0;
  std::vector<float> weight = {};  ///< (outputs, inputs)
  std::vector<float> bias = {};    ///< (outputs), or empty for none
};

struct layer_weights {
  std::vector<float> attention_norm = {};  ///< (hidden)
  linear q = {}, k = {}, v = {}, o = {};
  std::vector<float> ffn_norm = {};  ///< (hidden)
  linear gate = {}, up = {}, down = {};
};

/// Locret's scorer of one layer (arXiv 2410.01805): score = fc2(silu(fc1([q; k; v]))), one score per KV head.
struct retaining_heads {
  linear fc1 = {}, fc2 = {};
};

/// A whole model in fp32. `lm_head` is a copy of the embedding when it is tied.
struct weights {
  shape s = {};
  std::vector<float> embedding = {};  ///< (vocabulary, hidden)
  std::vector<layer_weights> layers = {};
  std::vector<float> norm = {};  ///< (hidden)
  linear lm_head = {};
  std::vector<retaining_heads> compressor = {};  ///< one per layer, or empty: the model has none
};

/// All tensors have the sizes of `s` and hold zeros; no biases, no retaining heads.
weights zero_weights(const shape& s);

/// Normally distributed weights, the same for the same seed. Attention logits have a standard deviation of about 2.5,
/// so that a token that is wrongly seen or missed changes the result. Retaining heads are `retaining_hidden` wide.
weights random_weights(const shape& s, std::uint64_t seed, bool with_retaining_heads, int retaining_hidden = 48);

/// The nearest bf16, ties to even.
float to_bf16(float value);

/// Every tensor rounded to bf16.
weights rounded_to_bf16(weights w);

/// Reads a Hugging Face checkpoint directory: config.json (the forms of transformers 4 and 5), model.safetensors or all
/// model-*.safetensors and, where it exists, retaining_heads.safetensors.
weights load_weights(const std::filesystem::path& directory);

/// Writes the same layout in F32, with a config.json as transformers 5 writes it. There is no tokenizer and no stop
/// token.
void write_checkpoint(const weights& w, const std::filesystem::path& directory);

/// One tensor of a safetensors file, row-major. Integers up to 2^53 are exact.
struct tensor {
  std::vector<int> shape = {};
  std::vector<double> values = {};
};

/// All tensors of a safetensors file with the types F32, F16, BF16, I32 and I64.
std::map<std::string, tensor> read_tensors(const std::filesystem::path& file);

}  // namespace baton::reference
