#include "runtime/model/model_config.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "kernels/fault.hpp"

namespace baton {
namespace {

using nlohmann::json;

constexpr std::uintmax_t file_bytes_max = 4 << 20;
constexpr int json_depth_max = 32;
constexpr int size_max = (1 << 24) - 1;
constexpr int positions_max = std::numeric_limits<int>::max();

// A value for a message: shortened, and only ASCII is left as it is.
std::string shown(const json& value) {
  constexpr std::size_t length_max = 120;
  const std::string text = value.dump(-1, ' ', true);
  return text.size() <= length_max ? text : text.substr(0, length_max) + "…";
}

std::string line_and_column(std::string_view text, std::size_t byte) {
  const std::string_view before = text.substr(0, std::min(byte == 0 ? 0 : byte - 1, text.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const auto column = before.size() - (before.rfind('\n') + 1) + 1;  // npos + 1 is 0
  return ":" + std::to_string(line) + ":" + std::to_string(column);
}

json parse_file(const std::filesystem::path& path) {
  const auto refuse = [&](const std::string& what, const std::string& place = {}) {
    throw fault(fault_code::bad_input, what, path.string() + place);
  };
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) refuse("no such file");
  if (std::filesystem::file_size(path, ignored) > file_bytes_max) {
    refuse("larger than " + std::to_string(file_bytes_max) + " bytes: not a model's configuration");
  }
  std::ifstream stream(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (!stream) refuse("cannot be read");

  const auto check_depth = [&](int depth, json::parse_event_t, const json&) {
    if (depth > json_depth_max) refuse("nested too deep");
    return true;
  };
  json result;
  try {
    result = json::parse(text, check_depth);
  } catch (const json::parse_error& error) {
    refuse("not JSON: a syntax error", line_and_column(text, error.byte));
  } catch (const json::exception&) {
    refuse("not JSON: a number is out of range");
  }
  if (!result.is_object()) refuse("not a JSON object");
  return result;
}

// One object of a JSON file. A key that is absent or null takes its default, as transformers does it.
class section {
 public:
  section(const json& object, std::string where, std::string prefix = {})
      : object_(object), where_(std::move(where)), prefix_(std::move(prefix)) {}

  [[noreturn]] void refuse(std::string_view key, const std::string& what) const {
    throw fault(fault_code::bad_input, prefix_ + std::string(key) + ": " + what, where_);
  }

  // nullptr for absent and null.
  [[nodiscard]] const json* find(std::string_view key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  [[nodiscard]] std::optional<int> integer(std::string_view key, int min, int max) const {
    const json* value = find(key);
    if (value == nullptr) return std::nullopt;
    return as_integer(key, *value, min, max);
  }

  [[nodiscard]] int size(std::string_view key) const {
    const auto value = integer(key, 1, size_max);
    if (!value) refuse(key, "missing, an integer from 1 to " + std::to_string(size_max) + " is expected");
    return *value;
  }

  template <class Predicate>
  [[nodiscard]] std::optional<double> number(std::string_view key, Predicate fits, const std::string& right) const {
    const json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number() || !fits(value->get<double>())) expected(key, *value, right);
    return value->get<double>();
  }

  [[nodiscard]] std::optional<double> positive(std::string_view key) const {
    return number(
        key, [](double x) { return x >= 1e-30 && x <= 1e30; }, "a number above 0 that fits fp32");
  }

  [[nodiscard]] double required_positive(std::string_view key) const {
    const auto value = positive(key);
    if (!value) refuse(key, "missing, a number above 0 is expected");
    return *value;
  }

  [[nodiscard]] std::optional<bool> boolean(std::string_view key) const {
    const json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean()) expected(key, *value, "true or false");
    return value->get<bool>();
  }

  [[nodiscard]] std::optional<std::string> text(std::string_view key) const {
    const json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) expected(key, *value, "a string");
    return value->get<std::string>();
  }

  [[nodiscard]] std::optional<section> object(std::string_view key) const {
    const json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_object()) expected(key, *value, "an object");
    return section(*value, where_, prefix_ + std::string(key) + ".");
  }

  // One token id or a list of them.
  [[nodiscard]] std::optional<std::vector<std::int32_t>> tokens(std::string_view key, int vocabulary) const {
    const json* value = find(key);
    if (value == nullptr) return std::nullopt;
    std::vector<std::int32_t> result;
    if (!value->is_array()) {
      result.push_back(as_integer(key, *value, 0, vocabulary - 1));
    } else {
      for (const json& item : *value) result.push_back(as_integer(key, item, 0, vocabulary - 1));
    }
    return result;
  }

  [[nodiscard]] bool has(std::string_view key) const { return object_.contains(key); }
  [[nodiscard]] bool empty() const { return object_.empty(); }

 private:
  [[noreturn]] void expected(std::string_view key, const json& found, const std::string& right) const {
    refuse(key, shown(found) + " found, " + right + " is expected");
  }

  [[nodiscard]] int as_integer(std::string_view key, const json& value, int min, int max) const {
    // A double tells any 64-bit integer from those between two 32-bit bounds.
    const bool fits = value.is_number_integer() && value.get<double>() >= min && value.get<double>() <= max;
    if (!fits) expected(key, value, "an integer from " + std::to_string(min) + " to " + std::to_string(max));
    return value.get<int>();
  }

  const json& object_;
  std::string where_;
  std::string prefix_;
};

void check_family(const section& config) {
  const auto family = config.text("model_type");
  if (!family) config.refuse("model_type", "missing, \"llama\" is expected");
  if (*family != "llama") {
    config.refuse("model_type", shown(*family) + " is not supported, \"llama\" is");
  }
}

void refuse_partial_rotation(const section& rope) {
  constexpr std::string_view key = "partial_rotary_factor";
  if (rope.positive(key).value_or(1) != 1) rope.refuse(key, "RoPE on a part of each head is not supported");
}

// Refuses what would load but compute something else.
void check_features(const section& config) {
  for (const std::string_view key : {"attention_bias", "mlp_bias"}) {
    if (config.boolean(key).value_or(false)) config.refuse(key, "projections with a bias are not supported");
  }
  for (const std::string_view key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
    if (config.integer(key, 0, size_max).value_or(0) > 0) config.refuse(key, "mixtures of experts are not supported");
  }
  if (config.integer("sliding_window", 0, positions_max) && config.boolean("use_sliding_window").value_or(true)) {
    config.refuse("sliding_window", "sliding-window attention is not supported");
  }
  refuse_partial_rotation(config);
  if (config.find("quantization_config") != nullptr) {
    config.refuse("quantization_config", "quantized weights are not supported, F32, F16 and BF16 are");
  }
  const auto activation = config.text("hidden_act").value_or("silu");
  if (activation != "silu") {
    config.refuse("hidden_act", shown(activation) + " is not supported, \"silu\" is");
  }
}

rope_scaling read_scaling(const section& config, const section& rope, int max_positions) {
  const std::string_view type_key = rope.find("rope_type") != nullptr ? "rope_type" : "type";
  const auto type = rope.text(type_key).value_or("default");
  rope_scaling scaling;
  if (type == "default") return scaling;
  if (type != "linear" && type != "llama3") {
    rope.refuse(type_key, shown(type) + " is not supported; default, linear and llama3 are");
  }
  scaling.factor = rope.required_positive("factor");
  if (type == "linear") {
    scaling.type = rope_scaling::kind::linear;
    return scaling;
  }
  scaling.type = rope_scaling::kind::llama3;
  scaling.low_frequency_factor = rope.required_positive("low_freq_factor");
  scaling.high_frequency_factor = rope.required_positive("high_freq_factor");
  if (scaling.high_frequency_factor <= scaling.low_frequency_factor) {
    rope.refuse("high_freq_factor", "must be above low_freq_factor");
  }
  // transformers 5 lets a value outside of the object win.
  constexpr std::string_view original = "original_max_position_embeddings";
  const auto outside = config.integer(original, 1, positions_max), inside = rope.integer(original, 1, positions_max);
  scaling.original_max_positions = outside.value_or(inside.value_or(max_positions));
  return scaling;
}

// transformers 4 writes rope_theta and rope_scaling, transformers 5 puts both into rope_parameters.
void read_rope(const section& config, model_config& model) {
  constexpr double default_theta = 10000;
  model.rope_theta = config.positive("rope_theta").value_or(default_theta);
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    const auto rope = config.object(key);
    if (!rope || rope->empty()) continue;
    refuse_partial_rotation(*rope);
    model.rope_theta = rope->positive("rope_theta").value_or(model.rope_theta);
    model.scaling = read_scaling(config, *rope, model.max_positions);
    return;
  }
}

void read_generation(const section& config, const section& generation, model_config& model) {
  // What transformers assumes where config.json does not have the key; null means that there is none.
  constexpr std::int32_t default_bos = 1, default_stop = 2;
  constexpr std::string_view bos = "bos_token_id", stop = "eos_token_id";

  for (const section& source : {generation, config}) {
    if (model.stop_tokens.empty()) {
      model.stop_tokens = source.tokens(stop, model.vocabulary).value_or(std::vector<std::int32_t>{});
    }
    if (!model.bos) model.bos = source.integer(bos, 0, model.vocabulary - 1);
  }
  if (model.stop_tokens.empty() && !config.has(stop) && default_stop < model.vocabulary) {
    model.stop_tokens = {default_stop};
  }
  if (!model.bos && !config.has(bos) && default_bos < model.vocabulary) model.bos = default_bos;

  auto& defaults = model.generation;
  defaults.do_sample = generation.boolean("do_sample");
  defaults.temperature = generation.number(
      "temperature", [](double x) { return x >= 0; }, "a number of at least 0");
  defaults.top_p = generation.number(
      "top_p", [](double x) { return x > 0 && x <= 1; }, "a number above 0 and at most 1");
  defaults.max_new_tokens = generation.integer("max_new_tokens", 1, positions_max);
}

}  // namespace

model_config load_model_config(const std::filesystem::path& directory) {
  const auto config_path = directory / "config.json", generation_path = directory / "generation_config.json";
  const json config_json = parse_file(config_path);
  const section config(config_json, config_path.string());
  check_family(config);
  check_features(config);

  model_config model;
  model.family = *config.text("model_type");
  model.layers = config.size("num_hidden_layers");
  model.hidden = config.size("hidden_size");
  model.ffn = config.size("intermediate_size");
  model.vocabulary = config.size("vocab_size");

  model.heads = config.size("num_attention_heads");
  model.kv_heads = config.integer("num_key_value_heads", 1, size_max).value_or(model.heads);
  if (model.heads % model.kv_heads != 0) {
    config.refuse("num_key_value_heads", std::to_string(model.kv_heads) + " does not divide num_attention_heads, " +
                                             std::to_string(model.heads));
  }
  if (const auto head_dim = config.integer("head_dim", 1, size_max)) {
    model.head_dim = *head_dim;
  } else if (model.hidden % model.heads == 0) {
    model.head_dim = model.hidden / model.heads;
  } else {
    config.refuse("hidden_size", std::to_string(model.hidden) + " is no multiple of num_attention_heads, " +
                                     std::to_string(model.heads) + ", and there is no head_dim");
  }
  if (model.head_dim % 2 != 0) {
    config.refuse("head_dim", std::to_string(model.head_dim) + " is odd, RoPE turns pairs of dimensions");
  }

  model.rms_eps = config.positive("rms_norm_eps").value_or(1e-6);
  model.max_positions = config.integer("max_position_embeddings", 1, positions_max).value_or(2048);
  model.tied_embeddings = config.boolean("tie_word_embeddings").value_or(false);
  read_rope(config, model);

  std::error_code ignored;
  const bool has_generation = std::filesystem::exists(generation_path, ignored);
  const json generation_json = has_generation ? parse_file(generation_path) : json::object();
  read_generation(config, section(generation_json, generation_path.string()), model);
  return model;
}

}  // namespace baton
