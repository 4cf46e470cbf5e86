#include "runtime/model/checkpoint.hpp"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/fault.hpp"

namespace baton {
namespace {

namespace fs = std::filesystem;
using extents = std::vector<std::int64_t>;

[[noreturn]] void refuse(const fs::path& path, const std::string& what) {
  throw fault(fault_code::bad_input, what, path.string());
}

bool is_weight_type(tensor_type type) {
  return type == tensor_type::f32 || type == tensor_type::f16 || type == tensor_type::bf16;
}

// The tensor of that name, if it is what the model needs.
const tensor_view* weights(const weight_files& files, const std::string& name, const extents& shape) {
  const auto [tensor, file] = files.at(name);
  if (!is_weight_type(tensor->type)) refuse(*file, describe(*tensor) + ": F32, F16 or BF16 is expected");
  if (tensor->shape != shape) {
    refuse(*file, describe(*tensor) + ": config.json asks for the shape " + describe_shape(shape));
  }
  return tensor;
}

// A bias that nothing adds would be a model computed wrongly.
void refuse_unused_biases(const weight_files& files, std::vector<const tensor_view*> used, refusal_list& refusals) {
  std::ranges::sort(used);
  for (const auto& file : files.files()) {
    for (const tensor_view& tensor : file.tensors()) {
      if (!tensor.name.ends_with(".bias") || std::ranges::binary_search(used, &tensor)) continue;
      refusals.attempt([&] { refuse(file.path(), describe(tensor) + ": the model has no place for this bias"); });
    }
  }
}

layer_tensors layer_of(const weight_files& files, const model_config& config, int index, refusal_list& refusals) {
  const std::int64_t hidden = config.hidden, ffn = config.ffn;
  const std::int64_t q_width = std::int64_t{config.heads} * config.head_dim;
  const std::int64_t kv_width = std::int64_t{config.kv_heads} * config.head_dim;
  const auto take = [&](const tensor_view*& to, std::string_view name, const extents& shape) {
    refusals.attempt(
        [&] { to = weights(files, "model.layers." + std::to_string(index) + "." + std::string(name), shape); });
  };
  layer_tensors layer;
  take(layer.input_norm, "input_layernorm.weight", {hidden});
  take(layer.q, "self_attn.q_proj.weight", {q_width, hidden});
  take(layer.k, "self_attn.k_proj.weight", {kv_width, hidden});
  take(layer.v, "self_attn.v_proj.weight", {kv_width, hidden});
  take(layer.o, "self_attn.o_proj.weight", {hidden, q_width});
  if (config.qkv_bias) {
    take(layer.q_bias, "self_attn.q_proj.bias", {q_width});
    take(layer.k_bias, "self_attn.k_proj.bias", {kv_width});
    take(layer.v_bias, "self_attn.v_proj.bias", {kv_width});
  }
  if (config.o_bias) take(layer.o_bias, "self_attn.o_proj.bias", {hidden});
  take(layer.post_attention_norm, "post_attention_layernorm.weight", {hidden});
  take(layer.gate, "mlp.gate_proj.weight", {ffn, hidden});
  take(layer.up, "mlp.up_proj.weight", {ffn, hidden});
  take(layer.down, "mlp.down_proj.weight", {hidden, ffn});
  return layer;
}

std::vector<retaining_head_tensors> retaining_heads_of(const weight_files& files, const model_config& config) {
  const std::int64_t inputs = (std::int64_t{config.heads} + 2 * std::int64_t{config.kv_heads}) * config.head_dim;
  const auto name = [](int layer, std::string_view part) {
    return "layers." + std::to_string(layer) + "." + std::string(part) + ".weight";
  };
  // The first layer's width is everybody's.
  const auto [first, file] = files.at(name(0, "fc1"));
  const std::int64_t width = first->shape.empty() ? 0 : first->shape.front();
  if (width == 0) refuse(*file, describe(*first) + ": a shape of (width, " + std::to_string(inputs) + ") is expected");

  std::vector<retaining_head_tensors> heads;
  for (int i = 0; i < config.layers; ++i) {
    heads.push_back({.fc1 = weights(files, name(i, "fc1"), {width, inputs}),
                     .fc2 = weights(files, name(i, "fc2"), {config.kv_heads, width})});
  }
  return heads;
}

bool has_sizes(const model_config& c) {
  return c.layers > 0 && c.hidden > 0 && c.ffn > 0 && c.vocabulary > 0 && c.heads > 0 && c.kv_heads > 0 &&
         c.head_dim > 0;
}

}  // namespace

checkpoint::checkpoint(model_config config, weight_files weight_files_of_model,
                       std::optional<weight_files> retaining_weights, refusal_list& refusals)
    : config_(std::move(config)),
      weights_(std::move(weight_files_of_model)),
      retaining_weights_(std::move(retaining_weights)) {
  const std::int64_t vocabulary = config_.vocabulary, hidden = config_.hidden;
  const auto take = [&](const tensor_view*& to, const std::string& name, const extents& shape) {
    refusals.attempt([&] { to = weights(weights_, name, shape); });
  };
  take(embedding_, "model.embed_tokens.weight", {vocabulary, hidden});
  if (config_.tied_embeddings) {
    output_head_ = embedding_;
  } else {
    take(output_head_, "lm_head.weight", {vocabulary, hidden});
  }
  take(final_norm_, "model.norm.weight", {hidden});
  std::vector<const tensor_view*> biases;
  // A hostile configuration may ask for millions of layers.
  for (int i = 0; i < config_.layers && !refusals.full(); ++i) {
    const auto& layer = layers_.emplace_back(layer_of(weights_, config_, i, refusals));
    for (const auto* bias : {layer.q_bias, layer.k_bias, layer.v_bias, layer.o_bias}) biases.push_back(bias);
  }
  refuse_unused_biases(weights_, std::move(biases), refusals);
  if (retaining_weights_) {
    refusals.attempt([&] { retaining_heads_ = retaining_heads_of(*retaining_weights_, config_); });
    refuse_unused_biases(*retaining_weights_, {}, refusals);
  }
}

std::optional<checkpoint> checkpoint::open_or_refuse(const fs::path& directory, model_config& config,
                                                     refusal_list& refusals) {
  config = examine_model_config(directory, refusals);
  if (refusals.full()) return std::nullopt;
  std::optional<weight_files> files, retaining;
  refusals.attempt([&] { files = weight_files::open(directory); });
  const fs::path heads = directory / "retaining_heads.safetensors";
  std::error_code ignored;
  if (fs::exists(heads, ignored)) refusals.attempt([&] { retaining = weight_files::open_file(heads); });
  if (!files || !has_sizes(config)) return std::nullopt;
  checkpoint model(config, std::move(*files), std::move(retaining), refusals);
  if (!refusals.empty()) return std::nullopt;
  return model;
}

checkpoint checkpoint::open(const fs::path& directory) {
  refusal_list refusals(1);
  model_config config;
  auto model = open_or_refuse(directory, config, refusals);
  refusals.throw_first();
  return std::move(*model);
}

std::int64_t checkpoint::bytes_to_read() const {
  std::int64_t bytes = 0;
  const auto add = [&](const tensor_view* tensor) {
    if (tensor != nullptr) bytes += static_cast<std::int64_t>(tensor->bytes.size());
  };
  for (const auto* tensor : {embedding_, output_head_, final_norm_}) add(tensor);
  for (const auto& l : layers_) {
    for (const auto* tensor : {l.input_norm, l.q, l.k, l.v, l.o, l.q_bias, l.k_bias, l.v_bias, l.o_bias,
                               l.post_attention_norm, l.gate, l.up, l.down}) {
      add(tensor);
    }
  }
  for (const auto& head : retaining_heads_) {
    add(head.fc1);
    add(head.fc2);
  }
  return bytes;
}

void checkpoint::let_go(std::span<const std::byte> bytes) const noexcept {
  weights_.let_go(bytes);
  if (retaining_weights_) retaining_weights_->let_go(bytes);
}

}  // namespace baton
