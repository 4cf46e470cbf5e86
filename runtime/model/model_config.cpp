#include "runtime/model/model_config.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "kernels/fault.hpp"
#include "runtime/model/config_section.hpp"
#include "runtime/model/families/family.hpp"

namespace baton {
namespace {

using nlohmann::json;

constexpr int size_max = config_section::size_max;
constexpr int positions_max = std::numeric_limits<int>::max();

const model_family& read_family(const config_section& config, model_config& model) {
  const auto name = config.text("model_type");
  if (!name) config.refuse("model_type", "missing; " + model_family_names() + " are supported");
  model.family = *name;
  const auto* family = find_model_family(*name);
  if (family == nullptr) {
    config.refuse("model_type", shown(*name) + " is not supported; " + model_family_names() + " are");
  }
  return *family;
}

void refuse_partial_rotation(const config_section& rope) {
  constexpr std::string_view key = "partial_rotary_factor";
  if (rope.positive(key).value_or(1) != 1) rope.refuse(key, "RoPE on a part of each head is not supported");
}

// Refuses what would load but compute something else, whatever the family.
void check_features(const config_section& config, refusal_list& refusals) {
  for (const std::string_view key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
    refusals.attempt([&] {
      if (config.integer(key, 0, size_max).value_or(0) > 0) {
        config.refuse(key, "mixtures of experts are not supported");
      }
    });
  }
  refusals.attempt([&] {
    constexpr std::string_view key = "kv_lora_rank";
    if (config.integer(key, 0, size_max).value_or(0) > 0) {
      config.refuse(key, "multi-head latent attention is not supported");
    }
  });
  refusals.attempt([&] {
    constexpr std::string_view key = "layer_types";
    for (const auto& type : config.texts(key).value_or(std::vector<std::string>{})) {
      if (type != "full_attention") {
        config.refuse(key, shown(type) + " found, layers other than \"full_attention\" are not supported");
      }
    }
  });
  refusals.attempt([&] { refuse_partial_rotation(config); });
  refusals.attempt([&] {
    constexpr std::string_view key = "quantization_config";
    const json* found = config.find(key);
    if (found == nullptr) return;
    const std::string method = found->is_object() && found->contains("quant_method")
                                   ? " (" + shown(found->at("quant_method")) + ")"
                                   : std::string();
    config.refuse(key, "quantized weights are not supported" + method + "; F32, F16 and BF16 are");
  });
  refusals.attempt([&] {
    const auto activation = config.text("hidden_act").value_or("silu");
    if (activation != "silu") config.refuse("hidden_act", shown(activation) + " is not supported, \"silu\" is");
  });
}

void read_sizes(const config_section& config, const model_family* family, model_config& model, refusal_list& refusals) {
  refusals.attempt([&] { model.layers = config.size("num_hidden_layers"); });
  refusals.attempt([&] { model.hidden = config.size("hidden_size"); });
  refusals.attempt([&] { model.ffn = config.size("intermediate_size"); });
  refusals.attempt([&] { model.vocabulary = config.size("vocab_size"); });
  refusals.attempt([&] { model.heads = config.size("num_attention_heads"); });
  refusals.attempt([&] {
    constexpr std::string_view key = "num_key_value_heads";
    const bool defaults = !config.has(key) && family != nullptr && family->kv_heads;
    const int kv_heads =
        defaults ? *family->kv_heads : config.integer(key, 1, size_max).value_or(std::max(model.heads, 1));
    if (model.heads % kv_heads != 0) {
      config.refuse(key,
                    std::to_string(kv_heads) + " does not divide num_attention_heads, " + std::to_string(model.heads));
    }
    model.kv_heads = kv_heads;
  });
  refusals.attempt([&] {
    int head_dim = 0;
    if (const auto given = config.integer("head_dim", 1, size_max)) {
      head_dim = *given;
    } else if (model.heads == 0 || model.hidden == 0) {
      return;  // refused already
    } else if (model.hidden % model.heads == 0) {
      head_dim = model.hidden / model.heads;
    } else {
      config.refuse("hidden_size", std::to_string(model.hidden) + " is no multiple of num_attention_heads, " +
                                       std::to_string(model.heads) + ", and there is no head_dim");
    }
    if (head_dim % 2 != 0) {
      config.refuse("head_dim", std::to_string(head_dim) + " is odd, RoPE turns pairs of dimensions");
    }
    model.head_dim = head_dim;
  });
  refusals.attempt([&] { model.rms_eps = config.positive("rms_norm_eps").value_or(1e-6); });
  refusals.attempt([&] {
    const int otherwise = family != nullptr ? family->max_positions : 2048;
    model.max_positions = config.integer("max_position_embeddings", 1, positions_max).value_or(otherwise);
  });
  refusals.attempt([&] { model.tied_embeddings = config.boolean("tie_word_embeddings").value_or(false); });
  refusals.attempt([&] {
    for (const std::string_view key : {"torch_dtype", "dtype"}) {
      if (const auto type = config.text(key)) model.dtype = *type;
    }
  });
}

void read_llama3(const config_section& rope, rope_scaling& scaling) {
  scaling.low_frequency_factor = rope.required_positive("low_freq_factor");
  scaling.high_frequency_factor = rope.required_positive("high_freq_factor");
  if (scaling.high_frequency_factor <= scaling.low_frequency_factor) {
    rope.refuse("high_freq_factor", "must be above low_freq_factor");
  }
}

// YaRN (arXiv 2309.00071, section 3.4), with the defaults of transformers, to which 0 is absent too.
void read_yarn(const config_section& rope, double theta, rope_scaling& scaling) {
  const auto or_default = [&](std::string_view key, double otherwise) {
    const double value = rope.not_negative(key).value_or(0);
    return value == 0 ? otherwise : value;
  };
  scaling.beta_fast = or_default("beta_fast", 32);
  scaling.beta_slow = or_default("beta_slow", 1);
  if (scaling.beta_fast < scaling.beta_slow) rope.refuse("beta_fast", "must not be below beta_slow");
  if (theta <= 1) rope.refuse("rope_theta", "must be above 1 for yarn");
  scaling.truncate = rope.boolean("truncate").value_or(true);

  const auto grown = [&](double scale) {
    return scaling.factor <= 1 ? 1.0 : 0.1 * scale * std::log(scaling.factor) + 1;
  };
  const double mscale = or_default("mscale", 0), mscale_all_dim = or_default("mscale_all_dim", 0);
  const double otherwise = mscale != 0 && mscale_all_dim != 0 ? grown(mscale) / grown(mscale_all_dim) : grown(1);
  scaling.amplitude = rope.positive("attention_factor").value_or(otherwise);
}

rope_scaling read_scaling(const config_section& config, const config_section& rope, const model_config& model) {
  const std::string_view type_key = rope.find("rope_type") != nullptr ? "rope_type" : "type";
  const auto type = rope.text(type_key).value_or("default");
  rope_scaling scaling;
  if (type == "default") return scaling;
  if (type != "linear" && type != "llama3" && type != "yarn") {
    rope.refuse(type_key, shown(type) + " is not supported; default, linear, llama3 and yarn are");
  }
  // transformers 5 lets a value outside of the object win.
  constexpr std::string_view original = "original_max_position_embeddings";
  const auto outside = config.integer(original, 1, positions_max), inside = rope.integer(original, 1, positions_max);
  if (type != "linear") scaling.original_max_positions = outside.value_or(inside.value_or(model.max_positions));
  if (type == "yarn" && rope.has("factor") && rope.find("factor") == nullptr && scaling.original_max_positions > 0) {
    scaling.factor = static_cast<double>(model.max_positions) / scaling.original_max_positions;
  } else {
    scaling.factor = rope.required_positive("factor");
  }
  if (type == "linear") {
    scaling.type = rope_scaling::kind::linear;
  } else if (type == "llama3") {
    scaling.type = rope_scaling::kind::llama3;
    read_llama3(rope, scaling);
  } else {
    scaling.type = rope_scaling::kind::yarn;
    read_yarn(rope, model.rope_theta, scaling);
  }
  return scaling;
}

// transformers 4 writes rope_theta and rope_scaling, transformers 5 puts both into rope_parameters.
void read_rope(const config_section& config, model_config& model, refusal_list& refusals) {
  constexpr double default_theta = 10000;
  model.rope_theta = default_theta;
  refusals.attempt([&] { model.rope_theta = config.positive("rope_theta").value_or(default_theta); });
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    std::optional<config_section> rope;
    if (!refusals.attempt([&] { rope = config.object(key); })) return;
    if (!rope || rope->empty()) continue;
    for (const std::string_view layers : {"full_attention", "sliding_attention"}) {
      refusals.attempt([&] {
        if (rope->find(layers) != nullptr) rope->refuse(layers, "RoPE that differs by layer is not supported");
      });
    }
    refusals.attempt([&] { refuse_partial_rotation(*rope); });
    refusals.attempt([&] { model.rope_theta = rope->positive("rope_theta").value_or(model.rope_theta); });
    refusals.attempt([&] { model.scaling = read_scaling(config, *rope, model); });
    break;
  }
  // Published configurations keep the first training's max_position_embeddings when they are given yarn.
  if (model.scaling.type == rope_scaling::kind::yarn) {
    const double stretched =
        std::min(model.scaling.original_max_positions * model.scaling.factor, double{positions_max});
    model.max_positions = std::max(model.max_positions, static_cast<int>(stretched));
  }
}

void read_generation(const config_section& config, const config_section& generation, const model_family* family,
                     model_config& model, refusal_list& refusals) {
  constexpr std::string_view bos = "bos_token_id", stop = "eos_token_id";

  for (const config_section& source : {generation, config}) {
    if (model.vocabulary == 0) break;  // refused already
    refusals.attempt([&] {
      if (model.stop_tokens.empty()) {
        model.stop_tokens = source.tokens(stop, model.vocabulary).value_or(std::vector<std::int32_t>{});
      }
    });
    refusals.attempt([&] {
      if (!model.bos) model.bos = source.integer(bos, 0, model.vocabulary - 1);
    });
  }
  // Where config.json does not have the key the family says what it means; null means that there is none.
  if (family != nullptr) {
    if (model.stop_tokens.empty() && !config.has(stop) && family->stop && *family->stop < model.vocabulary) {
      model.stop_tokens = {*family->stop};
    }
    if (!model.bos && !config.has(bos) && family->bos && *family->bos < model.vocabulary) model.bos = family->bos;
  }

  auto& defaults = model.generation;
  refusals.attempt([&] { defaults.do_sample = generation.boolean("do_sample"); });
  refusals.attempt([&] { defaults.temperature = generation.not_negative("temperature"); });
  refusals.attempt([&] { defaults.top_p = generation.share("top_p"); });
  refusals.attempt([&] { defaults.max_new_tokens = generation.integer("max_new_tokens", 1, positions_max); });
}

}  // namespace

std::int64_t parameters_of(const model_config& c) {
  const bool whole = c.layers > 0 && c.hidden > 0 && c.ffn > 0 && c.vocabulary > 0 && c.heads > 0 && c.head_dim > 0;
  if (!whole) return 0;
  const std::int64_t hidden = c.hidden;
  const std::int64_t q = std::int64_t{c.heads} * c.head_dim, kv = std::int64_t{c.kv_heads} * c.head_dim;
  const std::int64_t layer = 2 * hidden + hidden * (2 * q + 2 * kv + 3 * std::int64_t{c.ffn}) +
                             (c.qkv_bias ? q + 2 * kv : 0) + (c.o_bias ? hidden : 0);
  return (c.tied_embeddings ? 1 : 2) * c.vocabulary * hidden + hidden + c.layers * layer;
}

model_config examine_model_config(const std::filesystem::path& directory, refusal_list& refusals) {
  const auto config_path = directory / "config.json", generation_path = directory / "generation_config.json";
  model_config model;
  json config_json;
  if (!refusals.attempt([&] { config_json = parse_config_file(config_path); })) return model;
  const config_section config(config_json, config_path.string());
  const model_family* family = nullptr;
  refusals.attempt([&] { family = &read_family(config, model); });
  check_features(config, refusals);
  read_sizes(config, family, model, refusals);
  if (family != nullptr) family->read(config, model, refusals);
  read_rope(config, model, refusals);

  std::error_code ignored;
  json generation_json = json::object();
  if (std::filesystem::exists(generation_path, ignored)) {
    refusals.attempt([&] { generation_json = parse_config_file(generation_path); });
  }
  read_generation(config, config_section(generation_json, generation_path.string()), family, model, refusals);
  return model;
}

model_config load_model_config(const std::filesystem::path& directory) {
  refusal_list refusals(1);
  auto model = examine_model_config(directory, refusals);
  refusals.throw_first();
  return model;
}

}  // namespace baton
