#include "runtime/model/checkpoint.hpp"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/fault.hpp"

namespace baton {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const fs::path& path, const std::string& what) {
  throw fault(fault_code::bad_input, what, path.string());
}

bool is_weight_type(tensor_type type) {
  return type == tensor_type::f32 || type == tensor_type::f16 || type == tensor_type::bf16;
}

// The tensor of that name, if it is what the model needs.
const tensor_view* weights(const safetensors_file& file, const std::string& name,
                           const std::vector<std::int64_t>& shape) {
  const tensor_view& tensor = file.at(name);
  if (!is_weight_type(tensor.type)) refuse(file.path(), describe(tensor) + ": F32, F16 or BF16 is expected");
  if (tensor.shape != shape) {
    refuse(file.path(), describe(tensor) + ": config.json asks for the shape " + describe_shape(shape));
  }
  return &tensor;
}

void refuse_biases(const safetensors_file& file) {
  for (const tensor_view& tensor : file.tensors()) {
    if (tensor.name.ends_with(".bias")) refuse(file.path(), describe(tensor) + ": biases are not supported");
  }
}

layer_tensors layer_of(const safetensors_file& file, const model_config& config, int index) {
  const std::int64_t hidden = config.hidden, ffn = config.ffn;
  const std::int64_t q_width = std::int64_t{config.heads} * config.head_dim;
  const std::int64_t kv_width = std::int64_t{config.kv_heads} * config.head_dim;
  const auto take = [&](std::string_view part, const std::vector<std::int64_t>& shape) {
    return weights(file, "model.layers." + std::to_string(index) + "." + std::string(part) + ".weight", shape);
  };
  return {
      .input_norm = take("input_layernorm", {hidden}),
      .q = take("self_attn.q_proj", {q_width, hidden}),
      .k = take("self_attn.k_proj", {kv_width, hidden}),
      .v = take("self_attn.v_proj", {kv_width, hidden}),
      .o = take("self_attn.o_proj", {hidden, q_width}),
      .post_attention_norm = take("post_attention_layernorm", {hidden}),
      .gate = take("mlp.gate_proj", {ffn, hidden}),
      .up = take("mlp.up_proj", {ffn, hidden}),
      .down = take("mlp.down_proj", {hidden, ffn}),
  };
}

std::vector<retaining_head_tensors> retaining_heads_of(const safetensors_file& file, const model_config& config) {
  const std::int64_t inputs = (std::int64_t{config.heads} + 2 * std::int64_t{config.kv_heads}) * config.head_dim;
  const auto name = [](int layer, std::string_view part) {
    return "layers." + std::to_string(layer) + "." + std::string(part) + ".weight";
  };
  // The first layer's width is everybody's.
  const tensor_view& first = file.at(name(0, "fc1"));
  const std::int64_t width = first.shape.empty() ? 0 : first.shape.front();
  if (width == 0)
    refuse(file.path(), describe(first) + ": a shape of (width, " + std::to_string(inputs) + ") is expected");

  std::vector<retaining_head_tensors> heads;
  heads.reserve(static_cast<std::size_t>(config.layers));
  for (int i = 0; i < config.layers; ++i) {
    heads.push_back({.fc1 = weights(file, name(i, "fc1"), {width, inputs}),
                     .fc2 = weights(file, name(i, "fc2"), {config.kv_heads, width})});
  }
  return heads;
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

safetensors_file open_weights(const fs::path& directory) {
  const fs::path path = directory / "model.safetensors", index = directory / "model.safetensors.index.json";
  if (!is_there(path) && is_there(index)) {
    refuse(index, "the weights are split over several files; a single model.safetensors is supported");
  }
  return safetensors_file::open(path);
}

std::optional<safetensors_file> open_retaining_weights(const fs::path& directory) {
  const fs::path path = directory / "retaining_heads.safetensors";
  if (!is_there(path)) return std::nullopt;
  return safetensors_file::open(path);
}

}  // namespace

checkpoint::checkpoint(model_config config, safetensors_file weight_file,
                       std::optional<safetensors_file> retaining_weights)
    : config_(std::move(config)), weights_(std::move(weight_file)), retaining_weights_(std::move(retaining_weights)) {
  refuse_biases(weights_);
  const std::int64_t vocabulary = config_.vocabulary, hidden = config_.hidden;
  embedding_ = weights(weights_, "model.embed_tokens.weight", {vocabulary, hidden});
  output_head_ = config_.tied_embeddings ? embedding_ : weights(weights_, "lm_head.weight", {vocabulary, hidden});
  final_norm_ = weights(weights_, "model.norm.weight", {hidden});
  for (int i = 0; i < config_.layers; ++i) layers_.push_back(layer_of(weights_, config_, i));
  if (retaining_weights_) {
    refuse_biases(*retaining_weights_);
    retaining_heads_ = retaining_heads_of(*retaining_weights_, config_);
  }
}

checkpoint checkpoint::open(const fs::path& directory) {
  model_config config = load_model_config(directory);
  return {std::move(config), open_weights(directory), open_retaining_weights(directory)};
}

}  // namespace baton
