#include "runtime/model/model_config.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <rapidcheck/gtest.h>

#include "kernels/fault.hpp"
#include "runtime/model/refusal_list.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using nlohmann::json;

// The sizes of a small model; all else has defaults.
json minimal_config() {
  return {{"model_type", "llama"},    {"hidden_size", 64},  {"intermediate_size", 96}, {"num_hidden_layers", 3},
          {"num_attention_heads", 4}, {"vocab_size", 1000}, {"eos_token_id", 7},       {"bos_token_id", 5}};
}

json with(const json& changes) {
  json config = minimal_config();
  config.update(changes);
  return config;
}

json without(const std::string& key) {
  json config = minimal_config();
  config.erase(key);
  return config;
}

model_config load(const json& config) {
  const temporary_directory directory;
  directory.write("config.json", config.dump());
  return load_model_config(directory.path());
}

model_config load(const json& config, const json& generation) {
  const temporary_directory directory;
  directory.write("config.json", config.dump());
  directory.write("generation_config.json", generation.dump());
  return load_model_config(directory.path());
}

// The message of the fault that loading throws, without the directory.
std::string refusal_in(const std::filesystem::path& directory) {
  try {
    load_model_config(directory);
  } catch (const fault& refused) {
    EXPECT_EQ(refused.code(), fault_code::bad_input);
    std::string message = refused.what();
    EXPECT_TRUE(message.starts_with(directory.string() + "/")) << message;
    return message.substr(directory.string().size() + 1);
  }
  return "nothing was refused";
}

std::string refusal_of_text(const std::string& config, const std::string& generation = "{}") {
  const temporary_directory directory;
  directory.write("config.json", config);
  directory.write("generation_config.json", generation);
  return refusal_in(directory.path());
}

std::string refusal(const json& config) { return refusal_of_text(config.dump()); }

TEST(model_config, absent_keys_mean_what_they_mean_to_transformers) {
  const model_config config = load(minimal_config());
  EXPECT_EQ(config.family, "llama");
  EXPECT_EQ(config.layers, 3);
  EXPECT_EQ(config.hidden, 64);
  EXPECT_EQ(config.heads, 4);
  EXPECT_EQ(config.kv_heads, 4);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.ffn, 96);
  EXPECT_EQ(config.vocabulary, 1000);
  EXPECT_EQ(config.rms_eps, 1e-6);
  EXPECT_EQ(config.rope_theta, 10000);
  EXPECT_EQ(config.scaling, rope_scaling{});
  EXPECT_EQ(config.max_positions, 2048);
  EXPECT_FALSE(config.tied_embeddings);
  EXPECT_EQ(config.generation, generation_defaults{});
}

TEST(model_config, null_means_absent) {
  const json nulls = {{"num_key_value_heads", nullptr}, {"head_dim", nullptr},       {"rope_scaling", nullptr},
                      {"rope_theta", nullptr},          {"sliding_window", nullptr}, {"quantization_config", nullptr}};
  EXPECT_EQ(load(with(nulls)), load(minimal_config()));
}

TEST(model_config, a_head_may_be_wider_than_its_share_of_the_hidden_states) {
  const model_config config = load(with({{"head_dim", 32}, {"num_key_value_heads", 2}, {"hidden_size", 66}}));
  EXPECT_EQ(config.head_dim, 32);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.hidden, 66);
}

TEST(model_config, reads_the_rope_keys_of_transformers_4_and_5_alike) {
  const json scaling = {{"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192},
                        {"rope_type", "llama3"}};
  json parameters = scaling;
  parameters["rope_theta"] = 500000.0;
  const json common = {{"max_position_embeddings", 131072}, {"rms_norm_eps", 1e-5}, {"tie_word_embeddings", true}};

  json version_4 = with(common), version_5 = with(common);
  version_4.update({{"rope_theta", 500000.0}, {"rope_scaling", scaling}, {"torch_dtype", "bfloat16"}});
  version_5.update({{"rope_parameters", parameters}, {"dtype", "bfloat16"}});

  const model_config config = load(version_4);
  EXPECT_EQ(config.rope_theta, 500000);
  EXPECT_EQ(config.scaling, (rope_scaling{rope_scaling::kind::llama3, 8, 1, 4, 8192}));
  EXPECT_EQ(config.max_positions, 131072);
  EXPECT_EQ(config.rms_eps, 1e-5);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(load(version_5), config);
}

TEST(model_config, reads_a_scaling_that_calls_its_kind_type) {
  const model_config config = load(with({{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}}));
  EXPECT_EQ(config.scaling.type, rope_scaling::kind::linear);
  EXPECT_EQ(config.scaling.factor, 2);
  EXPECT_EQ(config.rope_theta, 10000);
}

TEST(model_config, default_rope_parameters_scale_nothing) {
  const model_config config = load(with({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e10}}}}));
  EXPECT_EQ(config.scaling, rope_scaling{});
  EXPECT_EQ(config.rope_theta, 1e10);
}

TEST(model_config, original_positions_default_to_all_positions) {
  const json scaling = {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 1}, {"high_freq_factor", 4}};
  EXPECT_EQ(load(with({{"rope_scaling", scaling}, {"max_position_embeddings", 4096}})).scaling.original_max_positions,
            4096);
}

// As transformers 5 does it, whose frequencies for such a config follow the outer key.
TEST(model_config, original_positions_outside_of_the_scaling_win) {
  const json scaling = {{"rope_type", "llama3"},
                        {"factor", 8},
                        {"low_freq_factor", 1},
                        {"high_freq_factor", 4},
                        {"original_max_position_embeddings", 8192}};
  EXPECT_EQ(load(with({{"rope_scaling", scaling}, {"original_max_position_embeddings", 1024}}))
                .scaling.original_max_positions,
            1024);
}

json qwen2_with(const json& changes) {
  json config = with({{"model_type", "qwen2"}, {"num_key_value_heads", 2}});
  config.update(changes);
  return config;
}

TEST(model_config, qwen2_has_biases_and_its_own_defaults) {
  const model_config config = load(qwen2_with({{"bos_token_id", nullptr}}));
  EXPECT_EQ(config.family, "qwen2");
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.o_bias);
  EXPECT_EQ(config.max_positions, 32768);
  json bare = qwen2_with({{"num_attention_heads", 64}, {"head_dim", 16}});
  for (const char* key : {"num_key_value_heads", "bos_token_id", "eos_token_id"}) bare.erase(key);
  const model_config defaults = load(bare);
  EXPECT_EQ(defaults.kv_heads, 32);
  EXPECT_EQ(defaults.bos, std::nullopt);
  EXPECT_TRUE(defaults.stop_tokens.empty());
}

TEST(model_config, attention_bias_of_llama_means_all_four_projections) {
  EXPECT_FALSE(load(minimal_config()).qkv_bias);
  const model_config config = load(with({{"attention_bias", true}}));
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_TRUE(config.o_bias);
}

TEST(model_config, qwen2_windows_are_refused_where_a_layer_uses_one) {
  const json published = {{"use_sliding_window", false}, {"sliding_window", 131072}, {"max_window_layers", 1}};
  EXPECT_EQ(load(qwen2_with(published)), load(qwen2_with(json::object())));
  const json no_layer = {{"use_sliding_window", true}, {"sliding_window", 4096}, {"max_window_layers", 3}};
  EXPECT_EQ(load(qwen2_with(no_layer)), load(qwen2_with(json::object())));
  EXPECT_EQ(load(qwen2_with({{"use_sliding_window", true}, {"sliding_window", nullptr}, {"max_window_layers", 0}})),
            load(qwen2_with(json::object())));
  for (const bool says_how_wide : {false, true}) {
    json changes = {{"use_sliding_window", true}, {"max_window_layers", 2}};
    if (says_how_wide) changes["sliding_window"] = 4096;
    EXPECT_EQ(
        refusal(qwen2_with(changes)),
        "config.json: use_sliding_window: true, and max_window_layers is 2 of 3 layers: sliding-window attention is "
        "not supported");
  }
}

TEST(model_config, reads_yarn_as_transformers_does) {
  const auto read = [](json scaling, int max_positions) {
    scaling["type"] = "yarn";
    return load(with({{"rope_scaling", scaling}, {"max_position_embeddings", max_positions}}));
  };
  // Qwen2.5's model cards; context is the first training's positions times the factor.
  const model_config qwen = read({{"factor", 4.0}, {"original_max_position_embeddings", 32768}}, 32768);
  EXPECT_EQ(qwen.scaling.type, rope_scaling::kind::yarn);
  EXPECT_EQ(qwen.scaling.factor, 4);
  EXPECT_EQ(qwen.scaling.original_max_positions, 32768);
  EXPECT_EQ(qwen.scaling.beta_fast, 32);
  EXPECT_EQ(qwen.scaling.beta_slow, 1);
  EXPECT_TRUE(qwen.scaling.truncate);
  EXPECT_DOUBLE_EQ(qwen.scaling.amplitude, 1.138629436111989);
  EXPECT_EQ(qwen.max_positions, 131072);

  EXPECT_EQ(read({{"factor", 2.0}}, 4096).scaling.original_max_positions, 4096);
  EXPECT_EQ(read({{"factor", 2.0}, {"original_max_position_embeddings", 1024}}, 65536).max_positions, 65536);
  EXPECT_EQ(read({{"factor", nullptr}, {"original_max_position_embeddings", 1024}}, 8192).scaling.factor, 8);
  EXPECT_EQ(read({{"factor", 2.0}, {"attention_factor", 1.5}}, 4096).scaling.amplitude, 1.5);
  EXPECT_EQ(read({{"factor", 0.5}}, 4096).scaling.amplitude, 1);
  EXPECT_DOUBLE_EQ(read({{"factor", 8.0}, {"mscale", 1.2}, {"mscale_all_dim", 0.6}}, 4096).scaling.amplitude,
                   1.1109265730555202);
  EXPECT_DOUBLE_EQ(read({{"factor", 4.0}, {"mscale", 1.2}, {"mscale_all_dim", 0}}, 4096).scaling.amplitude,
                   1.138629436111989);
  const auto by_hand = read({{"factor", 2.0}, {"beta_fast", 16}, {"beta_slow", 0}, {"truncate", false}}, 4096).scaling;
  EXPECT_EQ(by_hand.beta_fast, 16);
  EXPECT_EQ(by_hand.beta_slow, 1);
  EXPECT_FALSE(by_hand.truncate);
}

TEST(model_config, examining_tells_every_reason_and_reads_what_can_be_read) {
  const temporary_directory directory;
  directory.write("config.json", with({{"model_type", "deepseek_v3"},
                                       {"n_routed_experts", 64},
                                       {"kv_lora_rank", 512},
                                       {"hidden_act", "gelu"},
                                       {"vocab_size", 0},
                                       {"rope_scaling", {{"type", "longrope"}}},
                                       {"quantization_config", {{"quant_method", "fp8"}}}})
                                     .dump());
  refusal_list refusals(100);
  const model_config config = examine_model_config(directory.path(), refusals);
  std::vector<std::string> keys;
  for (const fault& why : refusals.reasons()) keys.push_back(why.reason().substr(0, why.reason().find(':')));
  EXPECT_EQ(keys, (std::vector<std::string>{"model_type", "n_routed_experts", "kv_lora_rank", "quantization_config",
                                            "hidden_act", "vocab_size", "rope_scaling.type"}));
  EXPECT_EQ(config.family, "deepseek_v3");
  EXPECT_EQ(config.layers, 3);
  EXPECT_EQ(config.head_dim, 16);
}

TEST(model_config, special_tokens_of_the_generation_config_win) {
  const model_config config = load(minimal_config(), {{"eos_token_id", {11, 12}}, {"bos_token_id", 13}});
  EXPECT_EQ(config.stop_tokens, (std::vector<std::int32_t>{11, 12}));
  EXPECT_EQ(config.bos, 13);
}

TEST(model_config, special_tokens_of_the_config_fill_in) {
  const model_config config = load(minimal_config(), {{"eos_token_id", nullptr}});
  EXPECT_EQ(config.stop_tokens, std::vector<std::int32_t>{7});
  EXPECT_EQ(config.bos, 5);
  EXPECT_EQ(load(with({{"eos_token_id", {1, 2, 3}}})).stop_tokens, (std::vector<std::int32_t>{1, 2, 3}));
}

TEST(model_config, absent_special_tokens_are_those_of_llama_and_null_ones_are_none) {
  const model_config absent = load(without("eos_token_id"));
  EXPECT_EQ(absent.stop_tokens, std::vector<std::int32_t>{2});
  EXPECT_EQ(load(without("bos_token_id")).bos, 1);
  const model_config null = load(with({{"eos_token_id", nullptr}, {"bos_token_id", nullptr}}));
  EXPECT_TRUE(null.stop_tokens.empty());
  EXPECT_EQ(null.bos, std::nullopt);
}

TEST(model_config, reads_generation_defaults) {
  const auto generation =
      load(minimal_config(), {{"do_sample", true}, {"temperature", 0.6}, {"top_p", 0.9}, {"max_new_tokens", 64}})
          .generation;
  EXPECT_EQ(generation.do_sample, true);
  EXPECT_EQ(generation.temperature, 0.6);
  EXPECT_EQ(generation.top_p, 0.9);
  EXPECT_EQ(generation.max_new_tokens, 64);
}

TEST(model_config, keeps_a_sliding_window_that_is_switched_off) {
  EXPECT_EQ(load(with({{"sliding_window", 4096}, {"use_sliding_window", false}})), load(minimal_config()));
}

struct refused_change {
  json changes;
  std::string message;
};

TEST(model_config, refuses_what_it_cannot_compute_and_names_the_key) {
  const json llama3 = {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 1}, {"high_freq_factor", 4}};
  const auto llama3_with = [&](const json& changes) {
    json scaling = llama3;
    scaling.update(changes);
    return json{{"rope_scaling", scaling}};
  };
  const auto yarn_with = [](const json& changes) {
    json scaling = {{"type", "yarn"}, {"factor", 4}};
    scaling.update(changes);
    return json{{"rope_scaling", scaling}};
  };
  const refused_change cases[] = {
      {{{"model_type", "mixtral"}}, "model_type: \"mixtral\" is not supported; \"llama\" and \"qwen2\" are"},
      {{{"model_type", 3}}, "model_type: 3 found, a string is expected"},
      {{{"hidden_act", "gelu"}}, "hidden_act: \"gelu\" is not supported, \"silu\" is"},
      {{{"attention_bias", 1}}, "attention_bias: 1 found, true or false is expected"},
      {{{"mlp_bias", true}}, "mlp_bias: feed-forward projections with a bias are not supported"},
      {{{"kv_lora_rank", 512}}, "kv_lora_rank: multi-head latent attention is not supported"},
      {{{"n_routed_experts", 64}}, "n_routed_experts: mixtures of experts are not supported"},
      {{{"layer_types", {"full_attention", "sliding_attention"}}}, "layer_types: \"sliding_attention\" found"},
      {{{"layer_types", {1}}}, "layer_types: [1] found, a list of strings is expected"},
      {{{"num_local_experts", 8}}, "num_local_experts: mixtures of experts are not supported"},
      {{{"sliding_window", 4096}}, "sliding_window: sliding-window attention is not supported"},
      {{{"quantization_config", {{"bits", 4}}}}, "quantization_config: quantized weights are not supported; F32"},
      {{{"quantization_config", {{"quant_method", "awq"}}}},
       "quantization_config: quantized weights are not supported (\"awq\")"},
      {{{"partial_rotary_factor", 0.5}}, "partial_rotary_factor: RoPE on a part of each head is not supported"},

      {{{"num_hidden_layers", 0}}, "num_hidden_layers: 0 found, an integer from 1 to 16777215 is expected"},
      {{{"hidden_size", nullptr}}, "hidden_size: missing, an integer from 1 to"},
      {{{"hidden_size", -64}}, "hidden_size: -64 found"},
      {{{"hidden_size", 64.0}}, "hidden_size: 64.0 found"},
      {{{"hidden_size", "64"}}, "hidden_size: \"64\" found"},
      {{{"hidden_size", 18446744073709551615U}}, "hidden_size: 18446744073709551615 found"},
      {{{"hidden_size", 66}}, "hidden_size: 66 is no multiple of num_attention_heads, 4"},
      {{{"num_key_value_heads", 3}}, "num_key_value_heads: 3 does not divide num_attention_heads, 4"},
      {{{"num_key_value_heads", 8}}, "num_key_value_heads: 8 does not divide num_attention_heads, 4"},
      {{{"head_dim", 17}}, "head_dim: 17 is odd"},
      {{{"rms_norm_eps", 0}}, "rms_norm_eps: 0 found, a number above 0"},
      {{{"rope_theta", -1e4}}, "rope_theta: -10000.0 found, a number above 0"},
      {{{"rope_theta", 1e300}}, "rope_theta: 1e+300 found, a number above 0 that fits fp32"},
      {{{"tie_word_embeddings", "yes"}}, "tie_word_embeddings: \"yes\" found, true or false is expected"},
      {{{"eos_token_id", 1000}}, "eos_token_id: 1000 found, an integer from 0 to 999 is expected"},
      {{{"eos_token_id", {1, -1}}}, "eos_token_id: -1 found"},
      {{{"bos_token_id", "a"}}, "bos_token_id: \"a\" found"},

      {{{"rope_scaling", "yarn"}}, "rope_scaling: \"yarn\" found, an object is expected"},
      {{{"rope_parameters", {{"rope_type", "dynamic"}}}},
       "rope_parameters.rope_type: \"dynamic\" is not supported; default, linear, llama3 and yarn are"},
      {{{"rope_scaling", {{"type", "longrope"}}}}, "rope_scaling.type: \"longrope\" is not supported"},
      {{{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}},
       "rope_parameters.full_attention: RoPE that differs by layer is not supported"},
      {{{"rope_scaling", {{"type", "yarn"}}}}, "rope_scaling.factor: missing"},
      {yarn_with({{"factor", -1}}), "rope_scaling.factor: -1 found, a number above 0"},
      {yarn_with({{"attention_factor", 0}}), "rope_scaling.attention_factor: 0 found, a number above 0"},
      {yarn_with({{"beta_fast", -1}}), "rope_scaling.beta_fast: -1 found, a number of at least 0"},
      {yarn_with({{"beta_fast", 2}, {"beta_slow", 3}}), "rope_scaling.beta_fast: must not be below beta_slow"},
      {yarn_with({{"mscale", "1"}}), "rope_scaling.mscale: \"1\" found, a number of at least 0"},
      {yarn_with({{"truncate", 0}}), "rope_scaling.truncate: 0 found, true or false"},
      {yarn_with({{"rope_theta", 1}}), "rope_scaling.rope_theta: must be above 1 for yarn"},
      {{{"rope_parameters", {{"rope_theta", 0}}}}, "rope_parameters.rope_theta: 0 found"},
      {{{"rope_scaling", {{"type", "linear"}}}}, "rope_scaling.factor: missing"},
      {llama3_with({{"factor", 0}}), "rope_scaling.factor: 0 found, a number above 0"},
      {llama3_with({{"low_freq_factor", nullptr}}), "rope_scaling.low_freq_factor: missing"},
      {llama3_with({{"high_freq_factor", 1}}), "rope_scaling.high_freq_factor: must be above low_freq_factor"},
      {llama3_with({{"original_max_position_embeddings", 0}}), "rope_scaling.original_max_position_embeddings: 0"},
  };
  for (const auto& [changes, message] : cases) {
    const std::string refused = refusal(with(changes));
    EXPECT_TRUE(refused.starts_with("config.json: " + message)) << refused << "\nexpected: " << message;
  }
  for (const char* key :
       {"model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    EXPECT_TRUE(refusal(without(key)).starts_with(std::string("config.json: ") + key + ": missing")) << key;
  }
}

TEST(model_config, refuses_impossible_generation_defaults) {
  const std::string config = minimal_config().dump();
  const auto refused = [&](const json& generation) { return refusal_of_text(config, generation.dump()); };
  EXPECT_EQ(refused({{"temperature", -1}}),
            "generation_config.json: temperature: -1 found, a number of at least 0 is expected");
  EXPECT_EQ(refused({{"top_p", 1.5}}),
            "generation_config.json: top_p: 1.5 found, a number above 0 and at most 1 is expected");
  EXPECT_EQ(refused({{"do_sample", 1}}), "generation_config.json: do_sample: 1 found, true or false is expected");
  EXPECT_EQ(refused({{"eos_token_id", 1000}}),
            "generation_config.json: eos_token_id: 1000 found, an integer from 0 to 999 is expected");
}

TEST(model_config, says_where_a_file_stops_being_json) {
  EXPECT_EQ(refusal_of_text("{\n  \"hidden_size\": 64,\n  \"a\": x\n}"), "config.json:3:8: not JSON: a syntax error");
  EXPECT_EQ(refusal_of_text(""), "config.json:1:1: not JSON: a syntax error");
  EXPECT_EQ(refusal_of_text("[1]"), "config.json: not a JSON object");
  EXPECT_EQ(refusal_of_text("{\"rope_theta\": 1e999}"), "config.json: not JSON: a number is out of range");
  EXPECT_EQ(refusal_of_text(std::string(100'000, '[')), "config.json: nested too deep");
  EXPECT_EQ(refusal_of_text(std::string(5 << 20, ' ')),
            "config.json: larger than 4194304 bytes: not a model's configuration");
  EXPECT_EQ(refusal_of_text(minimal_config().dump(), "{"), "generation_config.json:1:2: not JSON: a syntax error");
}

TEST(model_config, says_which_file_is_missing) {
  const temporary_directory directory;
  EXPECT_EQ(refusal_in(directory.path()), "config.json: no such file");
  EXPECT_EQ(refusal_in(directory.path() / "absent"), "config.json: no such file");
  std::filesystem::create_directory(directory.path() / "config.json");
  EXPECT_EQ(refusal_in(directory.path()), "config.json: no such file");
}

TEST(model_config, shortens_long_values_in_messages) {
  const std::string refused = refusal(with({{"model_type", std::string(100'000, 'x')}}));
  EXPECT_LT(refused.size(), 300U);
  EXPECT_EQ(refusal(with({{"hidden_act", "\x1b[2J"}})),
            "config.json: hidden_act: \"\\u001b[2J\" is not supported, \"silu\" is");
}

// (position, replacement): what a damaged or hostile file may look like.
using byte_changes = std::vector<std::tuple<std::uint16_t, char>>;

RC_GTEST_PROP(model_config, loads_or_refuses_a_damaged_file, (const byte_changes& changes)) {
  const std::string valid = with({{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}}).dump();
  const temporary_directory directory;
  std::string damaged = valid;
  for (const auto& [position, replacement] : changes) {
    // Digits are swapped for digits, which leaves most files JSON.
    char& target = damaged[position % damaged.size()];
    const bool digit = target >= '0' && target <= '9';
    target = digit ? static_cast<char>('0' + static_cast<unsigned char>(replacement) % 10) : replacement;
    directory.write("config.json", damaged);
    try {
      const model_config config = load_model_config(directory.path());
      RC_ASSERT(config.heads % config.kv_heads == 0);
      RC_ASSERT(config.head_dim % 2 == 0);
    } catch (const fault&) {
    }
    if (!digit) damaged = valid;
  }
}

}  // namespace
}  // namespace baton
