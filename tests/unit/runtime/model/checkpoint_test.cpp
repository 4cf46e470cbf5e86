#include "runtime/model/checkpoint.hpp"

#include <cmath>
#include <map>
#include <type_traits>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "kernels/fault.hpp"
#include "tests/support/places.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using nlohmann::json;

static_assert(std::is_move_constructible_v<checkpoint>);
static_assert(!std::is_copy_constructible_v<checkpoint>);

struct described_tensor {
  std::vector<std::int64_t> shape;
  tensor_type type = tensor_type::bf16;
};

using described_file = std::map<std::string, described_tensor>;

// A checkpoint of two layers with no two widths alike, to be changed before it is written.
struct tiny_checkpoint {
  json config = {{"model_type", "llama"},  {"hidden_size", 8},         {"intermediate_size", 12},
                 {"num_hidden_layers", 2}, {"num_attention_heads", 6}, {"num_key_value_heads", 2},
                 {"head_dim", 4},          {"vocab_size", 10},         {"tie_word_embeddings", false}};
  described_file weights;
  described_file retaining_heads;

  tiny_checkpoint() {
    weights = {{"model.embed_tokens.weight", {{10, 8}}}, {"model.norm.weight", {{8}}}, {"lm_head.weight", {{10, 8}}}};
    for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
      weights[layer + "input_layernorm.weight"] = {{8}};
      weights[layer + "self_attn.q_proj.weight"] = {{24, 8}};
      weights[layer + "self_attn.k_proj.weight"] = {{8, 8}};
      weights[layer + "self_attn.v_proj.weight"] = {{8, 8}};
      weights[layer + "self_attn.o_proj.weight"] = {{8, 24}};
      weights[layer + "post_attention_layernorm.weight"] = {{8}};
      weights[layer + "mlp.gate_proj.weight"] = {{12, 8}};
      weights[layer + "mlp.up_proj.weight"] = {{12, 8}};
      weights[layer + "mlp.down_proj.weight"] = {{8, 12}};
    }
  }

  void add_retaining_heads() {
    for (const std::string layer : {"layers.0.", "layers.1."}) {
      retaining_heads[layer + "fc1.weight"] = {{5, 40}};
      retaining_heads[layer + "fc2.weight"] = {{2, 5}};
    }
  }

  void write(const temporary_directory& directory) const {
    directory.write("config.json", config.dump());
    write(directory.path() / "model.safetensors", weights);
    if (!retaining_heads.empty()) write(directory.path() / "retaining_heads.safetensors", retaining_heads);
  }

 private:
  static void write(const std::filesystem::path& path, const described_file& file) {
    static const std::vector<std::byte> zeros(4096);
    std::vector<tensor_view> tensors;
    for (const auto& [name, tensor] : file) {
      std::size_t bytes = static_cast<std::size_t>(bits_of(tensor.type)) / 8;
      for (const std::int64_t extent : tensor.shape) bytes *= static_cast<std::size_t>(extent);
      tensors.push_back({name, tensor.type, tensor.shape, std::span(zeros).first(bytes)});
    }
    write_safetensors(path, tensors);
  }
};

// The message of the fault that opening throws, without the directory.
std::string refusal_in(const std::filesystem::path& directory) {
  try {
    checkpoint::open(directory);
  } catch (const fault& refused) {
    EXPECT_EQ(refused.code(), fault_code::bad_input);
    const std::string message = refused.what();
    EXPECT_TRUE(message.starts_with(directory.string() + "/")) << message;
    return message.substr(directory.string().size() + 1);
  }
  return "nothing was refused";
}

std::string refusal(const tiny_checkpoint& tiny) {
  const temporary_directory directory;
  tiny.write(directory);
  return refusal_in(directory.path());
}

TEST(checkpoint, finds_every_tensor_of_every_layer) {
  const temporary_directory directory;
  tiny_checkpoint().write(directory);
  const auto opened = checkpoint::open(directory.path());
  EXPECT_EQ(opened.config().layers, 2);
  EXPECT_EQ(opened.embedding().name, "model.embed_tokens.weight");
  EXPECT_EQ(opened.output_head().name, "lm_head.weight");
  EXPECT_EQ(opened.final_norm().name, "model.norm.weight");
  for (int i = 0; i < 2; ++i) {
    const layer_tensors& layer = opened.layer(i);
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    EXPECT_EQ(layer.input_norm->name, prefix + "input_layernorm.weight");
    EXPECT_EQ(layer.q->name, prefix + "self_attn.q_proj.weight");
    EXPECT_EQ(layer.k->name, prefix + "self_attn.k_proj.weight");
    EXPECT_EQ(layer.v->name, prefix + "self_attn.v_proj.weight");
    EXPECT_EQ(layer.o->name, prefix + "self_attn.o_proj.weight");
    EXPECT_EQ(layer.post_attention_norm->name, prefix + "post_attention_layernorm.weight");
    EXPECT_EQ(layer.gate->name, prefix + "mlp.gate_proj.weight");
    EXPECT_EQ(layer.up->name, prefix + "mlp.up_proj.weight");
    EXPECT_EQ(layer.down->name, prefix + "mlp.down_proj.weight");
  }
  EXPECT_FALSE(opened.has_retaining_heads());
  EXPECT_EQ(opened.retaining_width(), 0);
}

TEST(checkpoint, takes_every_float_type_also_mixed) {
  tiny_checkpoint tiny;
  tiny.weights["model.norm.weight"].type = tensor_type::f32;
  tiny.weights["model.layers.1.self_attn.q_proj.weight"].type = tensor_type::f16;
  const temporary_directory directory;
  tiny.write(directory);
  const auto opened = checkpoint::open(directory.path());
  EXPECT_EQ(opened.final_norm().type, tensor_type::f32);
  EXPECT_EQ(opened.layer(1).q->type, tensor_type::f16);
}

TEST(checkpoint, tied_embeddings_are_the_output_head) {
  tiny_checkpoint tiny;
  tiny.config["tie_word_embeddings"] = true;
  for (const bool with_head : {true, false}) {
    if (!with_head) tiny.weights.erase("lm_head.weight");
    const temporary_directory directory;
    tiny.write(directory);
    const auto opened = checkpoint::open(directory.path());
    EXPECT_EQ(&opened.output_head(), &opened.embedding());
  }
}

TEST(checkpoint, ignores_tensors_that_it_does_not_use) {
  tiny_checkpoint tiny;
  tiny.weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = {{2}, tensor_type::f32};
  tiny.weights["model.layers.0.step"] = {{}, tensor_type::i64};
  EXPECT_EQ(refusal(tiny), "nothing was refused");
}

TEST(checkpoint, finds_retaining_heads_of_any_width) {
  tiny_checkpoint tiny;
  tiny.add_retaining_heads();
  const temporary_directory directory;
  tiny.write(directory);
  const auto opened = checkpoint::open(directory.path());
  ASSERT_TRUE(opened.has_retaining_heads());
  EXPECT_EQ(opened.retaining_width(), 5);
  EXPECT_EQ(opened.retaining_head(1).fc1->name, "layers.1.fc1.weight");
  EXPECT_EQ(opened.retaining_head(1).fc2->name, "layers.1.fc2.weight");
}

TEST(checkpoint, stays_valid_when_moved) {
  tiny_checkpoint tiny;
  tiny.add_retaining_heads();
  const temporary_directory directory;
  tiny.write(directory);
  auto first = checkpoint::open(directory.path());
  const tensor_view* q = first.layer(0).q;
  const checkpoint second = std::move(first);
  EXPECT_EQ(second.layer(0).q, q);
  EXPECT_EQ(to_f32(*q), std::vector<float>(24 * 8));
  EXPECT_EQ(second.embedding().name, "model.embed_tokens.weight");
  EXPECT_EQ(to_f32(*second.retaining_head(1).fc2), std::vector<float>(2 * 5));
}

TEST(checkpoint, refuses_missing_tensors) {
  const tiny_checkpoint whole;
  for (const auto& [name, tensor] : whole.weights) {
    tiny_checkpoint tiny;
    tiny.weights.erase(name);
    EXPECT_EQ(refusal(tiny), "model.safetensors: tensor \"" + name + "\" is missing");
  }
}

TEST(checkpoint, refuses_wrong_shapes_with_what_is_expected) {
  const tiny_checkpoint whole;
  for (const auto& [name, tensor] : whole.weights) {
    tiny_checkpoint tiny;
    auto& shape = tiny.weights[name].shape;
    shape.back() += 1;
    EXPECT_EQ(refusal(tiny), "model.safetensors: tensor \"" + name + "\", BF16 " + describe_shape(shape) +
                                 ": config.json asks for the shape " + describe_shape(tensor.shape));
  }
}

TEST(checkpoint, refuses_weights_that_are_not_floats) {
  tiny_checkpoint tiny;
  tiny.weights["model.layers.1.mlp.up_proj.weight"].type = tensor_type::f8_e4m3;
  EXPECT_EQ(refusal(tiny),
            "model.safetensors: tensor \"model.layers.1.mlp.up_proj.weight\", F8_E4M3 (12, 8): "
            "F32, F16 or BF16 is expected");
}

TEST(checkpoint, refuses_biases_that_nothing_adds) {
  tiny_checkpoint tiny;
  tiny.weights["model.layers.0.self_attn.q_proj.bias"] = {{24}};
  EXPECT_EQ(refusal(tiny),
            "model.safetensors: tensor \"model.layers.0.self_attn.q_proj.bias\", BF16 (24): the model has no place for "
            "this bias");
}

TEST(checkpoint, refuses_retaining_heads_of_another_model) {
  const auto refused = [](const std::string& name, const described_tensor& tensor) {
    tiny_checkpoint tiny;
    tiny.add_retaining_heads();
    tiny.retaining_heads[name] = tensor;
    return refusal(tiny);
  };
  const std::string file = "retaining_heads.safetensors: ";
  EXPECT_EQ(refused("layers.0.fc1.weight", {{5, 41}}),
            file + "tensor \"layers.0.fc1.weight\", BF16 (5, 41): config.json asks for the shape (5, 40)");
  EXPECT_EQ(refused("layers.1.fc1.weight", {{6, 40}}),
            file + "tensor \"layers.1.fc1.weight\", BF16 (6, 40): config.json asks for the shape (5, 40)");
  EXPECT_EQ(refused("layers.1.fc2.weight", {{6, 5}}),
            file + "tensor \"layers.1.fc2.weight\", BF16 (6, 5): config.json asks for the shape (2, 5)");
  EXPECT_EQ(refused("layers.0.fc1.weight", {{}}),
            file + "tensor \"layers.0.fc1.weight\", BF16 (): a shape of (width, 40) is expected");
  EXPECT_EQ(refused("layers.1.fc2.bias", {{2}}),
            file + "tensor \"layers.1.fc2.bias\", BF16 (2): the model has no place for this bias");

  tiny_checkpoint deeper;
  deeper.add_retaining_heads();
  deeper.retaining_heads.erase("layers.1.fc1.weight");
  EXPECT_EQ(refusal(deeper), file + "tensor \"layers.1.fc1.weight\" is missing");
}

TEST(checkpoint, finds_the_biases_that_the_family_has) {
  tiny_checkpoint tiny;
  tiny.config["model_type"] = "qwen2";
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    tiny.weights[layer + "self_attn.q_proj.bias"] = {{24}};
    tiny.weights[layer + "self_attn.k_proj.bias"] = {{8}};
    tiny.weights[layer + "self_attn.v_proj.bias"] = {{8}};
  }
  const temporary_directory directory;
  tiny.write(directory);
  {
    const auto opened = checkpoint::open(directory.path());
    EXPECT_EQ(opened.layer(1).q_bias->name, "model.layers.1.self_attn.q_proj.bias");
    EXPECT_EQ(opened.layer(1).k_bias->name, "model.layers.1.self_attn.k_proj.bias");
    EXPECT_EQ(opened.layer(1).v_bias->name, "model.layers.1.self_attn.v_proj.bias");
    EXPECT_EQ(opened.layer(1).o_bias, nullptr);
  }
  const std::string k = "model.layers.1.self_attn.k_proj.bias", o = "model.layers.1.self_attn.o_proj.bias";
  tiny.weights[k] = {{9}};
  EXPECT_EQ(refusal(tiny), "model.safetensors: tensor \"" + k + "\", BF16 (9): config.json asks for the shape (8)");
  tiny.weights.erase(k);
  EXPECT_EQ(refusal(tiny), "model.safetensors: tensor \"" + k + "\" is missing");
  tiny.weights[k] = {{8}};
  tiny.weights[o] = {{8}};
  EXPECT_EQ(refusal(tiny), "model.safetensors: tensor \"" + o + "\", BF16 (8): the model has no place for this bias");
}

TEST(checkpoint, counts_what_loading_reads) {
  tiny_checkpoint tiny;
  tiny.config["tie_word_embeddings"] = true;
  tiny.weights.erase("lm_head.weight");
  tiny.add_retaining_heads();
  const temporary_directory directory;
  tiny.write(directory);
  const auto opened = checkpoint::open(directory.path());
  const std::int64_t layer = 8 + 24 * 8 + 2 * 8 * 8 + 8 * 24 + 8 + 3 * 12 * 8, head = 5 * 40 + 2 * 5;
  EXPECT_EQ(opened.bytes_to_read(), 2 * (2 * 10 * 8 + 8 + 2 * (layer + head)));
}

TEST(checkpoint, tells_every_reason_when_asked_to) {
  tiny_checkpoint tiny;
  tiny.config["hidden_act"] = "gelu";
  tiny.weights.erase("model.norm.weight");
  tiny.weights["model.layers.0.mlp.up_proj.weight"].shape = {12, 7};
  tiny.weights["model.layers.1.mlp.up_proj.weight"].type = tensor_type::i8;
  tiny.weights["lm_head.bias"] = {{10}};
  const temporary_directory directory;
  tiny.write(directory);
  refusal_list refusals(100);
  model_config config;
  EXPECT_FALSE(checkpoint::open_or_refuse(directory.path(), config, refusals));
  EXPECT_EQ(config.layers, 2);
  std::vector<std::string> reasons;
  for (const fault& why : refusals.reasons()) reasons.push_back(why.reason());
  EXPECT_EQ(reasons,
            (std::vector<std::string>{
                R"(hidden_act: "gelu" is not supported, "silu" is)", R"(tensor "model.norm.weight" is missing)",
                R"(tensor "model.layers.0.mlp.up_proj.weight", BF16 (12, 7): config.json asks for the shape (12, 8))",
                R"(tensor "model.layers.1.mlp.up_proj.weight", I8 (12, 8): F32, F16 or BF16 is expected)",
                R"(tensor "lm_head.bias", BF16 (10): the model has no place for this bias)"}));
}

TEST(checkpoint, gives_up_early_on_a_configuration_of_millions_of_layers) {
  tiny_checkpoint tiny;
  tiny.config["num_hidden_layers"] = 16777215;
  const temporary_directory directory;
  tiny.write(directory);
  refusal_list refusals(20);
  model_config config;
  EXPECT_FALSE(checkpoint::open_or_refuse(directory.path(), config, refusals));
  EXPECT_EQ(refusals.reasons().size(), 20U);
  EXPECT_EQ(refusals.reasons().front().reason(), "tensor \"model.layers.2.input_layernorm.weight\" is missing");
}

TEST(checkpoint, opens_the_fixtures_of_every_family_and_form) {
  const auto models = std::filesystem::path(BATON_SOURCE_DIR) / "tests/fixtures/models";
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(models)) {
    EXPECT_NO_THROW(checkpoint::open(entry.path())) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 10);
  EXPECT_GT(checkpoint::open(models / "qwen2_untied_yarn").files()->files().size(), 1U);
  EXPECT_EQ(checkpoint::open(models / "yi").embedding().type, tensor_type::f16);
}

TEST(checkpoint, says_which_file_is_missing) {
  const temporary_directory directory;
  EXPECT_EQ(refusal_in(directory.path() / "absent"), "config.json: no such file");
  tiny_checkpoint().write(directory);
  std::filesystem::remove(directory.path() / "model.safetensors");
  EXPECT_EQ(refusal_in(directory.path()), "model.safetensors: cannot be opened: No such file or directory");
}

TEST(checkpoint, refuses_a_truncated_file) {
  const temporary_directory directory;
  tiny_checkpoint().write(directory);
  const auto path = directory.path() / "model.safetensors";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  EXPECT_TRUE(refusal_in(directory.path()).ends_with("truncated?"));
}

TEST(checkpoint, opens_the_demo_model) {
  const auto needle = checkpoint::open(std::filesystem::path(BATON_SOURCE_DIR) / "models" / "needle");
  const model_config& config = needle.config();
  EXPECT_EQ(config.layers, 4);
  EXPECT_EQ(config.hidden, 256);
  EXPECT_EQ(config.heads, 4);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.ffn, 512);
  EXPECT_EQ(config.vocabulary, 3072);
  EXPECT_EQ(config.rms_eps, 1e-5);
  EXPECT_EQ(config.rope_theta, 1e10);
  EXPECT_EQ(config.max_positions, 131072);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.stop_tokens, std::vector<std::int32_t>{1});
  EXPECT_EQ(config.bos, 0);
  EXPECT_EQ(config.generation.do_sample, false);
  EXPECT_EQ(config.generation.max_new_tokens, 64);
  EXPECT_EQ(needle.retaining_width(), 256);

  const auto norm = to_f32(needle.final_norm());
  ASSERT_EQ(norm.size(), 256U);
  for (const float weight : norm) EXPECT_TRUE(std::isfinite(weight) && weight != 0);
}

}  // namespace
}  // namespace baton
