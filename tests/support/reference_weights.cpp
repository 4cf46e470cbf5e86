#include "tests/support/reference_weights.hpp"

#include <bit>
#include <cmath>
#include <random>

namespace baton::reference {
namespace {

linear zero_linear(int outputs, int inputs) {
  return {
      outputs, inputs, std::vector<float>(static_cast<std::size_t>(outputs) * static_cast<std::size_t>(inputs)), {}};
}

class generator {
 public:
  explicit generator(std::uint64_t seed) : engine_(seed) {}

  void fill(std::vector<float>& values, double mean, double deviation) {
    std::normal_distribution<double> normal(mean, deviation);
    for (float& value : values) value = static_cast<float>(normal(engine_));
  }

  /// Inputs of size one give outputs of size `gain`.
  void fill(linear& l, double gain) { fill(l.weight, 0, gain / std::sqrt(l.inputs)); }

  void fill_bias(linear& l, double deviation) {
    l.bias.resize(static_cast<std::size_t>(l.outputs));
    fill(l.bias, 0, deviation);
  }

 private:
  std::mt19937_64 engine_;
};

void round_all(std::vector<float>& values) {
  for (float& value : values) value = to_bf16(value);
}

void round_all(linear& l) {
  round_all(l.weight);
  round_all(l.bias);
}

}  // namespace

weights zero_weights(const shape& s) {
  const auto hidden = static_cast<std::size_t>(s.hidden);
  weights w;
  w.s = s;
  w.embedding.resize(static_cast<std::size_t>(s.vocabulary) * hidden);
  w.norm.resize(hidden);
  w.lm_head = zero_linear(s.vocabulary, s.hidden);
  for (int i = 0; i < s.layers; ++i) {
    w.layers.push_back({
        .attention_norm = std::vector<float>(hidden),
        .q = zero_linear(s.heads * s.head_dim, s.hidden),
        .k = zero_linear(s.kv_heads * s.head_dim, s.hidden),
        .v = zero_linear(s.kv_heads * s.head_dim, s.hidden),
        .o = zero_linear(s.hidden, s.heads * s.head_dim),
        .ffn_norm = std::vector<float>(hidden),
        .gate = zero_linear(s.ffn, s.hidden),
        .up = zero_linear(s.ffn, s.hidden),
        .down = zero_linear(s.hidden, s.ffn),
    });
  }
  return w;
}

weights random_weights(const shape& s, std::uint64_t seed, bool with_retaining_heads, int retaining_hidden) {
  generator random(seed);
  weights w = zero_weights(s);
  random.fill(w.embedding, 0, 1);
  for (layer_weights& layer : w.layers) {
    random.fill(layer.attention_norm, 1, 0.1);
    random.fill(layer.q, 1.6);  // logits q·k/sqrt(head_dim) then deviate by 1.6 * 1.6
    random.fill(layer.k, 1.6);
    random.fill(layer.v, 1);
    random.fill(layer.o, 1);
    if (s.attention_bias) {
      for (linear* l : {&layer.q, &layer.k, &layer.v, &layer.o}) random.fill_bias(*l, 0.3);
    } else if (s.family == "qwen2") {
      for (linear* l : {&layer.q, &layer.k, &layer.v}) random.fill_bias(*l, 0.3);
    }
    random.fill(layer.ffn_norm, 1, 0.1);
    random.fill(layer.gate, 1);
    random.fill(layer.up, 1);
    random.fill(layer.down, 1);
  }
  random.fill(w.norm, 1, 0.1);
  if (s.tied) {
    w.lm_head.weight = w.embedding;
  } else {
    random.fill(w.lm_head, 3);
  }
  if (with_retaining_heads) {
    for (int i = 0; i < s.layers; ++i) {
      retaining_heads heads{zero_linear(retaining_hidden, (s.heads + 2 * s.kv_heads) * s.head_dim),
                            zero_linear(s.kv_heads, retaining_hidden)};
      random.fill(heads.fc1, 1);
      random.fill(heads.fc2, 2);
      w.compressor.push_back(std::move(heads));
    }
  }
  return w;
}

float to_bf16(float value) {
  std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if (!std::isnan(value)) bits += 0x7fffu + ((bits >> 16) & 1u);
  return std::bit_cast<float>(bits & 0xffff0000u);
}

weights rounded_to_bf16(weights w) {
  round_all(w.embedding);
  round_all(w.norm);
  round_all(w.lm_head);
  for (layer_weights& layer : w.layers) {
    round_all(layer.attention_norm);
    round_all(layer.ffn_norm);
    for (linear* l : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) round_all(*l);
  }
  for (retaining_heads& heads : w.compressor) {
    round_all(heads.fc1);
    round_all(heads.fc2);
  }
  return w;
}

}  // namespace baton::reference
