#include "runtime/model/checkpoint.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/fault.hpp"
#include "kernels/random_score.hpp"

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

/// What is read of a tensor, or drawn, two bytes a number.
std::int64_t bytes_of(const tensor_view& tensor) {
  if (!tensor.bytes.empty()) return static_cast<std::int64_t>(tensor.bytes.size());
  return std::accumulate(tensor.shape.begin(), tensor.shape.end(), std::int64_t{2}, std::multiplies<>());
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
    refusals.attempt([&] { to = weights(*weights_, name, shape); });
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
    const auto& layer = layers_.emplace_back(layer_of(*weights_, config_, i, refusals));
    for (const auto* bias : {layer.q_bias, layer.k_bias, layer.v_bias, layer.o_bias}) biases.push_back(bias);
  }
  refuse_unused_biases(*weights_, std::move(biases), refusals);
  if (retaining_weights_) {
    refusals.attempt([&] { retaining_heads_ = retaining_heads_of(*retaining_weights_, config_); });
    refuse_unused_biases(*retaining_weights_, {}, refusals);
  }
}

/// Weights that keep the width of what passes through them, so that no activation overflows, however deep the model is: each
/// linear layer is drawn for a variance of 1 / inputs, and what is added to the residual stream for one over its number of terms.
checkpoint::checkpoint(const model_shape& shape) : config_(shape.config) {
  const auto& c = config_;
  const std::int64_t hidden = c.hidden, q = std::int64_t{c.heads} * c.head_dim,
                     kv = std::int64_t{c.kv_heads} * c.head_dim;
  const auto uniform = [](double variance) { return static_cast<float>(std::sqrt(3 * variance)); };
  const auto draw = [&](std::string name, extents of, float scale, float offset = 0) {
    auto& made = drawn_.emplace_back();
    made.name = std::move(name);
    made.view = {made.name, tensor_type::bf16, std::move(of), {}};
    made.numbers = {splitmix64(shape.seed) + drawn_.size(), scale, offset};
    return &made.view;
  };
  const auto linear = [&](std::string name, std::int64_t outputs, std::int64_t inputs, double terms = 1) {
    return draw(std::move(name), {outputs, inputs}, uniform(1 / (static_cast<double>(inputs) * terms)));
  };
  const double terms = 2.0 * c.layers;
  embedding_ = draw("model.embed_tokens.weight", {c.vocabulary, hidden},
                    uniform(c.tied_embeddings ? 1 / static_cast<double>(hidden) : 1));
  output_head_ = c.tied_embeddings ? embedding_ : linear("lm_head.weight", c.vocabulary, hidden);
  final_norm_ = draw("model.norm.weight", {hidden}, 0, 1);
  for (int i = 0; i < c.layers; ++i) {
    const auto name = [i](std::string_view part) {
      return "model.layers." + std::to_string(i) + "." + std::string(part);
    };
    auto& layer = layers_.emplace_back();
    layer.input_norm = draw(name("input_layernorm.weight"), {hidden}, 0, 1);
    layer.q = linear(name("self_attn.q_proj.weight"), q, hidden);
    layer.k = linear(name("self_attn.k_proj.weight"), kv, hidden);
    layer.v = linear(name("self_attn.v_proj.weight"), kv, hidden);
    if (c.qkv_bias) {
      layer.q_bias = draw(name("self_attn.q_proj.bias"), {q}, 0.1F);
      layer.k_bias = draw(name("self_attn.k_proj.bias"), {kv}, 0.1F);
      layer.v_bias = draw(name("self_attn.v_proj.bias"), {kv}, 0.1F);
    }
    layer.o = linear(name("self_attn.o_proj.weight"), hidden, q, terms);
    layer.post_attention_norm = draw(name("post_attention_layernorm.weight"), {hidden}, 0, 1);
    layer.gate = linear(name("mlp.gate_proj.weight"), c.ffn, hidden);
    layer.up = linear(name("mlp.up_proj.weight"), c.ffn, hidden);
    layer.down = linear(name("mlp.down_proj.weight"), hidden, c.ffn, terms);
    if (shape.retaining_width > 0) {
      const std::string head = "layers." + std::to_string(i);
      retaining_heads_.push_back({.fc1 = linear(head + ".fc1.weight", shape.retaining_width, q + 2 * kv),
                                  .fc2 = linear(head + ".fc2.weight", c.kv_heads, shape.retaining_width)});
    }
  }
}

const drawn_numbers* checkpoint::drawn(const tensor_view& tensor) const noexcept {
  const auto found = std::ranges::find(drawn_, &tensor, [](const drawn_tensor& made) { return &made.view; });
  return found == drawn_.end() ? nullptr : &found->numbers;
}

std::optional<checkpoint> checkpoint::open_or_refuse(const fs::path& directory, model_config& config,
                                                     refusal_list& refusals) {
  if (std::error_code ignored; fs::is_regular_file(directory, ignored)) {
    std::optional<checkpoint> model;
    refusals.attempt([&] { model = checkpoint(load_model_shape(directory)); });
    if (model) config = model->config();
    return model;
  }
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
    if (tensor != nullptr) bytes += bytes_of(*tensor);
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
  if (weights_) weights_->let_go(bytes);
  if (retaining_weights_) retaining_weights_->let_go(bytes);
}

}  // namespace baton
