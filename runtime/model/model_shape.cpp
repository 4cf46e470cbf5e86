#include "runtime/model/model_shape.hpp"

#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "runtime/config/config_reader.hpp"
#include "runtime/config/yaml_tree.hpp"
#include "runtime/model/families/family.hpp"

namespace baton {
namespace {

namespace yaml = config;

constexpr int size_max = (1 << 24) - 1;
constexpr float number_max = 1e12F;

auto size() { return yaml::whole(1, size_max); }
auto positive() { return yaml::real(1e-12F, number_max, "above 0"); }
auto yes_or_no() { return yaml::one_of<bool>({{"true", true}, {"false", false}}); }

rope_scaling read_scaling(yaml::config_section& in) {
  using kind = rope_scaling::kind;
  rope_scaling scaling;
  in.require("type", scaling.type, yaml::one_of<kind>({{"linear", kind::linear}, {"llama3", kind::llama3}}),
             "linear or llama3");
  in.require("factor", scaling.factor, positive(), "what frequencies are divided by");
  in.read("low_freq_factor", scaling.low_frequency_factor, positive());
  in.read("high_freq_factor", scaling.high_frequency_factor, positive());
  in.read("original_max_position_embeddings", scaling.original_max_positions, size());
  if (scaling.type == kind::llama3) {
    if (scaling.original_max_positions == 0) in.refuse("original_max_position_embeddings", "llama3 needs this key");
    if (scaling.high_frequency_factor <= scaling.low_frequency_factor)
      in.refuse("high_freq_factor", "must be above low_freq_factor");
  }
  return scaling;
}

model_shape read_shape(yaml::config_section& in) {
  model_shape shape;
  auto& c = shape.config;
  std::vector<std::pair<std::string_view, std::string>> families;
  for (const auto* family : model_families()) families.emplace_back(family->model_type, family->model_type);
  in.require("model_type", c.family, yaml::one_of(std::move(families)), "the family, llama or qwen2");
  const std::string advice = "it, as the model's config.json has it";
  in.require("num_hidden_layers", c.layers, size(), advice);
  in.require("hidden_size", c.hidden, size(), advice);
  in.require("intermediate_size", c.ffn, size(), advice);
  in.require("num_attention_heads", c.heads, size(), advice);
  c.kv_heads = c.heads;
  in.read("num_key_value_heads", c.kv_heads, size());
  if (c.heads > 0 && c.heads % c.kv_heads != 0) {
    in.refuse("num_key_value_heads", fmt::format("{} does not divide num_attention_heads, {}", c.kv_heads, c.heads));
  }
  if (c.heads > 0 && c.hidden % c.heads == 0) c.head_dim = c.hidden / c.heads;
  in.read("head_dim", c.head_dim, size());
  if (c.heads > 0 && c.hidden > 0 && (c.head_dim == 0 || c.head_dim % 2 != 0)) {
    in.refuse("head_dim",
              "must be an even number, for RoPE turns pairs; give it where heads do not divide hidden_size");
  }
  in.require("vocab_size", c.vocabulary, size(), advice);
  in.require("max_position_embeddings", c.max_positions, yaml::whole(1, std::numeric_limits<int>::max()), advice);
  c.rms_eps = 1e-6;
  in.read("rms_norm_eps", c.rms_eps, positive());
  c.rope_theta = 10'000;
  in.read("rope_theta", c.rope_theta, positive());
  in.read("rope_scaling", c.scaling, yaml::section(read_scaling));
  in.read("tie_word_embeddings", c.tied_embeddings, yes_or_no());
  in.read("qkv_bias", c.qkv_bias, yes_or_no());
  in.read("retaining_width", shape.retaining_width, yaml::whole<std::int64_t>(0, size_max));
  in.read("seed", shape.seed, yaml::seed());
  return shape;
}

}  // namespace

model_shape load_model_shape(const std::filesystem::path& file) {
  const std::string text = read_yaml_file(file);
  const yaml_document document = parse_yaml(text, file.string());
  return yaml::section(read_shape)(yaml::config_value(document));
}

}  // namespace baton
