#include <limits>

#include "runtime/model/families/family.hpp"

namespace baton {
namespace {

// attention_bias means all four projections of attention (LlamaAttention of transformers).
void read_llama(const config_section& config, model_config& model, refusal_list& refusals) {
  refusals.attempt([&] { model.qkv_bias = model.o_bias = config.boolean("attention_bias").value_or(false); });
  refusals.attempt([&] {
    if (config.boolean("mlp_bias").value_or(false)) {
      config.refuse("mlp_bias", "feed-forward projections with a bias are not supported");
    }
  });
  refusals.attempt([&] {
    const auto window = config.integer("sliding_window", 0, std::numeric_limits<int>::max());
    if (window && config.boolean("use_sliding_window").value_or(true)) {
      config.refuse("sliding_window", "sliding-window attention is not supported");
    }
  });
}

}  // namespace

/// arXiv 2302.13971, 2407.21783; Yi (arXiv 2403.04652) is the same architecture.
const model_family& llama_family() {
  static const model_family family{.model_type = "llama",
                                   .models = "Llama 2, Llama 3, Llama 3.1, Llama 3.2, Yi",
                                   .max_positions = 2048,
                                   .bos = 1,
                                   .stop = 2,
                                   .read = read_llama};
  return family;
}

}  // namespace baton
