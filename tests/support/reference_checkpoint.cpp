#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <numeric>
#include <sstream>
#include <stdexcept>

#include <nlohmann/json.hpp>

#include "tests/support/reference_weights.hpp"

namespace baton::reference {
namespace {

using json = nlohmann::json;
namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "safetensors is little-endian and is copied as it is");

std::string read_file(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error(file.string() + ": cannot be read");
  std::ostringstream bytes;
  bytes << in.rdbuf();
  return std::move(bytes).str();
}

template <class T>
T load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

float from_half(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  float magnitude = 0;
  if (exponent == 31) {
    magnitude = mantissa ? NAN : INFINITY;
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    magnitude = std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  }
  return bits & 0x8000 ? -magnitude : magnitude;
}

struct element_type {
  std::size_t bytes;
  double (*value)(const char*);
};

const std::map<std::string, element_type>& element_types() {
  static const std::map<std::string, element_type> types = {
      {"F32", {4, [](const char* p) { return static_cast<double>(load<float>(p)); }}},
      {"BF16",
       {2,
        [](const char* p) {
          return static_cast<double>(std::bit_cast<float>(std::uint32_t{load<std::uint16_t>(p)} << 16));
        }}},
      {"F16", {2, [](const char* p) { return static_cast<double>(from_half(load<std::uint16_t>(p))); }}},
      {"I32", {4, [](const char* p) { return static_cast<double>(load<std::int32_t>(p)); }}},
      {"I64", {8, [](const char* p) { return static_cast<double>(load<std::int64_t>(p)); }}},
  };
  return types;
}

enum class presence { required, optional };

/// Gives every tensor of the checkpoint its name and shape: (name, shape, values, presence). Reading and writing both
/// go through these two lists.
using visitor = std::function<void(const std::string&, const std::vector<int>&, std::vector<float>&, presence)>;

void visit_linear(const std::string& name, linear& l, const visitor& visit) {
  visit(name + ".weight", {l.outputs, l.inputs}, l.weight, presence::required);
  visit(name + ".bias", {l.outputs}, l.bias, presence::optional);
}

void visit_model(weights& w, const visitor& visit) {
  visit("model.embed_tokens.weight", {w.s.vocabulary, w.s.hidden}, w.embedding, presence::required);
  for (std::size_t i = 0; i < w.layers.size(); ++i) {
    layer_weights& layer = w.layers[i];
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    visit(prefix + "input_layernorm.weight", {w.s.hidden}, layer.attention_norm, presence::required);
    visit_linear(prefix + "self_attn.q_proj", layer.q, visit);
    visit_linear(prefix + "self_attn.k_proj", layer.k, visit);
    visit_linear(prefix + "self_attn.v_proj", layer.v, visit);
    visit_linear(prefix + "self_attn.o_proj", layer.o, visit);
    visit(prefix + "post_attention_layernorm.weight", {w.s.hidden}, layer.ffn_norm, presence::required);
    visit_linear(prefix + "mlp.gate_proj", layer.gate, visit);
    visit_linear(prefix + "mlp.up_proj", layer.up, visit);
    visit_linear(prefix + "mlp.down_proj", layer.down, visit);
  }
  visit("model.norm.weight", {w.s.hidden}, w.norm, presence::required);
  if (!w.s.tied) visit_linear("lm_head", w.lm_head, visit);
}

void visit_compressor(weights& w, const visitor& visit) {
  for (std::size_t i = 0; i < w.compressor.size(); ++i) {
    const std::string prefix = "layers." + std::to_string(i) + ".";
    visit_linear(prefix + "fc1", w.compressor[i].fc1, visit);
    visit_linear(prefix + "fc2", w.compressor[i].fc2, visit);
  }
}

visitor reader_of(const std::map<std::string, tensor>& tensors, const fs::path& file) {
  return [&tensors, file](const std::string& name, const std::vector<int>& dimensions, std::vector<float>& values,
                          presence p) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      if (p == presence::optional) return;
      throw std::runtime_error(file.string() + ": no tensor " + name);
    }
    if (found->second.shape != dimensions) throw std::runtime_error(file.string() + ": wrong shape of " + name);
    values.assign(found->second.values.size(), 0);
    std::transform(found->second.values.begin(), found->second.values.end(), values.begin(),
                   [](double value) { return static_cast<float>(value); });
  };
}

void write_tensors(const fs::path& file, const std::function<void(const visitor&)>& visit_all) {
  json header = json::object();
  std::string data;
  visit_all(
      [&](const std::string& name, const std::vector<int>& dimensions, const std::vector<float>& values, presence) {
        if (values.empty()) return;  // no bias
        const std::size_t begin = data.size();
        data.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
        header[name] = {{"dtype", "F32"}, {"shape", dimensions}, {"data_offsets", {begin, data.size()}}};
      });
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // tensors start aligned
  const std::uint64_t length = text.size();
  std::ofstream out(file, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&length), sizeof length);
  out << text << data;
  if (!out.flush()) throw std::runtime_error(file.string() + ": cannot be written");
}

/// `rope` is transformers 5's rope_parameters or transformers 4's rope_scaling.
std::optional<rope_scaling> scaling_from(const json& rope, double max_position_embeddings) {
  const std::string type = rope.value("rope_type", rope.value("type", "default"));
  if (type == "default") return std::nullopt;
  if (type != "linear" && type != "llama3" && type != "yarn") throw std::runtime_error("unknown rope_type " + type);
  const auto number = [&rope](const char* key) -> std::optional<double> {
    return rope.contains(key) && rope[key].is_number() ? std::optional<double>(rope[key].get<double>()) : std::nullopt;
  };
  rope_scaling r;
  r.type = type;
  r.factor = rope.at("factor");
  r.low_freq_factor = number("low_freq_factor").value_or(r.low_freq_factor);
  r.high_freq_factor = number("high_freq_factor").value_or(r.high_freq_factor);
  r.original_max_position_embeddings = number("original_max_position_embeddings").value_or(max_position_embeddings);
  r.beta_fast = number("beta_fast").value_or(r.beta_fast);
  r.beta_slow = number("beta_slow").value_or(r.beta_slow);
  r.truncate = rope.value("truncate", true);
  r.attention_factor = number("attention_factor");
  r.mscale = number("mscale");
  r.mscale_all_dim = number("mscale_all_dim");
  return r;
}

json to_json(const rope_scaling& r) {
  json rope = {{"rope_type", r.type}, {"factor", r.factor}};
  if (r.type != "linear") rope["original_max_position_embeddings"] = r.original_max_position_embeddings;
  if (r.type == "llama3") {
    rope["low_freq_factor"] = r.low_freq_factor;
    rope["high_freq_factor"] = r.high_freq_factor;
  }
  if (r.type == "yarn") {
    rope["beta_fast"] = r.beta_fast;
    rope["beta_slow"] = r.beta_slow;
    rope["truncate"] = r.truncate;
    if (r.attention_factor) rope["attention_factor"] = *r.attention_factor;
    if (r.mscale) rope["mscale"] = *r.mscale;
    if (r.mscale_all_dim) rope["mscale_all_dim"] = *r.mscale_all_dim;
  }
  return rope;
}

shape shape_from(const json& config) {
  shape s;
  s.family = config.at("model_type");
  s.layers = config.at("num_hidden_layers");
  s.hidden = config.at("hidden_size");
  s.heads = config.at("num_attention_heads");
  s.kv_heads = config.value("num_key_value_heads", s.heads);
  const bool has_head_dim = config.contains("head_dim") && !config["head_dim"].is_null();
  s.head_dim = has_head_dim ? config["head_dim"].get<int>() : s.hidden / s.heads;
  s.ffn = config.at("intermediate_size");
  s.vocabulary = config.at("vocab_size");
  s.rms_eps = config.value("rms_norm_eps", 1e-6);
  s.tied = config.value("tie_word_embeddings", false);
  s.attention_bias = config.value("attention_bias", false);
  s.rope_theta = config.value("rope_theta", 10000.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!config.contains(key) || config[key].is_null()) continue;
    s.rope_theta = config[key].value("rope_theta", s.rope_theta);
    s.scaling = scaling_from(config[key], config.value("max_position_embeddings", 2048.0));
  }
  return s;
}

json config_of(const weights& w) {
  const shape& s = w.s;
  json rope = s.scaling ? to_json(*s.scaling) : json{{"rope_type", "default"}};
  rope["rope_theta"] = s.rope_theta;
  return {{"architectures", {s.family == "qwen2" ? "Qwen2ForCausalLM" : "LlamaForCausalLM"}},
          {"model_type", s.family},
          {"attention_bias", s.attention_bias},
          {"mlp_bias", false},
          {"dtype", "float32"},
          {"hidden_act", "silu"},
          {"num_hidden_layers", s.layers},
          {"hidden_size", s.hidden},
          {"num_attention_heads", s.heads},
          {"num_key_value_heads", s.kv_heads},
          {"head_dim", s.head_dim},
          {"intermediate_size", s.ffn},
          {"vocab_size", s.vocabulary},
          {"max_position_embeddings", 131072},
          {"rms_norm_eps", s.rms_eps},
          {"rope_parameters", rope},
          {"tie_word_embeddings", s.tied}};
}

}  // namespace

std::map<std::string, tensor> read_tensors(const fs::path& file) {
  const std::string bytes = read_file(file);
  const auto broken = [&file](const std::string& why) { return std::runtime_error(file.string() + ": " + why); };
  if (bytes.size() < 8) throw broken("too short for a safetensors file");
  const auto header_bytes = load<std::uint64_t>(bytes.data());
  if (header_bytes > bytes.size() - 8) throw broken("the header is cut off");
  const json header = json::parse(bytes.substr(8, header_bytes));
  const std::size_t data = 8 + header_bytes;
  std::map<std::string, tensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto type = element_types().find(entry.at("dtype"));
    if (type == element_types().end()) throw broken("unknown dtype of " + name);
    tensor t{entry.at("shape").get<std::vector<int>>(), {}};
    const auto count =
        std::accumulate(t.shape.begin(), t.shape.end(), std::size_t{1},
                        [](std::size_t product, int size) { return product * static_cast<std::size_t>(size); });
    const std::size_t begin = entry.at("data_offsets").at(0);
    const std::size_t end = entry.at("data_offsets").at(1);
    if (end > bytes.size() - data || begin > end || end - begin != count * type->second.bytes) {
      throw broken("the data of " + name + " is cut off");
    }
    for (std::size_t i = 0; i < count; ++i) {
      t.values.push_back(type->second.value(bytes.data() + data + begin + i * type->second.bytes));
    }
    tensors.emplace(name, std::move(t));
  }
  return tensors;
}

weights load_weights(const fs::path& directory) {
  weights w = zero_weights(shape_from(json::parse(read_file(directory / "config.json"))));
  std::map<std::string, tensor> model_tensors;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename();
    if (name == "model.safetensors" || (name.starts_with("model-") && name.ends_with(".safetensors"))) {
      model_tensors.merge(read_tensors(entry.path()));
    }
  }
  visit_model(w, reader_of(model_tensors, directory));
  if (w.s.tied) w.lm_head.weight = w.embedding;

  const fs::path compressor_file = directory / "retaining_heads.safetensors";
  if (fs::exists(compressor_file)) {
    const auto tensors = read_tensors(compressor_file);
    const int width = tensors.at("layers.0.fc1.weight").shape.at(0);
    const retaining_heads sizes{{width, (w.s.heads + 2 * w.s.kv_heads) * w.s.head_dim, {}, {}},
                                {w.s.kv_heads, width, {}, {}}};
    w.compressor.assign(w.layers.size(), sizes);
    visit_compressor(w, reader_of(tensors, compressor_file));
  }
  return w;
}

void write_checkpoint(const weights& w, const fs::path& directory) {
  fs::create_directories(directory);
  std::ofstream config(directory / "config.json");
  config << config_of(w).dump(2) << '\n';
  if (!config.flush()) throw std::runtime_error((directory / "config.json").string() + ": cannot be written");
  weights copy = w;  // the lists hand out writable tensors
  write_tensors(directory / "model.safetensors", [&](const visitor& visit) { visit_model(copy, visit); });
  if (!w.compressor.empty()) {
    write_tensors(directory / "retaining_heads.safetensors",
                  [&](const visitor& visit) { visit_compressor(copy, visit); });
  }
}

}  // namespace baton::reference
