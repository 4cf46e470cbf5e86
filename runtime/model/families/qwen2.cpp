#include <limits>

#include "runtime/model/families/family.hpp"

namespace baton {
namespace {

// Layers from max_window_layers on have a window where use_sliding_window is true; published checkpoints say false.
void refuse_window(const config_section& config, const model_config& model) {
  constexpr int limit = std::numeric_limits<int>::max();
  const bool in_use = config.boolean("use_sliding_window").value_or(false);
  const bool has_window = !config.has("sliding_window") || config.integer("sliding_window", 0, limit).has_value();
  const int full_layers = config.integer("max_window_layers", 0, limit).value_or(28);
  if (in_use && has_window && full_layers < model.layers && config.find("layer_types") == nullptr) {
    config.refuse("use_sliding_window", "true, and max_window_layers is " + std::to_string(full_layers) + " of " +
                                            std::to_string(model.layers) +
                                            " layers: sliding-window attention is not supported");
  }
}

void read_qwen2(const config_section& config, model_config& model, refusal_list& refusals) {
  model.qkv_bias = true;
  refusals.attempt([&] { refuse_window(config, model); });
}

}  // namespace

/// arXiv 2407.10671, 2412.15115: Llama's architecture with a bias in the projections of queries, keys and values.
const model_family& qwen2_family() {
  static const model_family family{
      .model_type = "qwen2", .models = "Qwen2, Qwen2.5", .max_positions = 32768, .kv_heads = 32, .read = read_qwen2};
  return family;
}

}  // namespace baton
