#include "runtime/model/model_shape.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/fault.hpp"
#include "runtime/device/model_weights.hpp"
#include "runtime/model/checkpoint.hpp"
#include "tests/support/places.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_engine.hpp"

namespace baton {
namespace {

const std::filesystem::path shapes = std::filesystem::path(BATON_SOURCE_DIR) / "configs" / "shapes";

const std::string tiny =
    "model_type: qwen2\n"
    "num_hidden_layers: 3\n"
    "hidden_size: 64\n"
    "intermediate_size: 96\n"
    "num_attention_heads: 4\n"
    "num_key_value_heads: 2\n"
    "vocab_size: 100\n"
    "max_position_embeddings: 4096\n"
    "qkv_bias: true\n";

std::string refusal_of(const std::string& text) {
  const temporary_directory folder;
  const auto file = folder.write("s.yaml", text);
  try {
    load_model_shape(file);
  } catch (const fault& why) {
    EXPECT_EQ(why.code(), fault_code::bad_input);
    return std::string(why.what()).substr(folder.path().string().size() + 1);
  }
  return "no fault";
}

TEST(model_shape, every_file_in_the_shapes_folder_is_a_model_of_the_size_that_its_name_says) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(shapes)) names.push_back(entry.path().stem().string());
  std::ranges::sort(names);
  EXPECT_EQ(names, (std::vector<std::string>{"llama-3.1-8b", "qwen2.5-14b", "small", "yi-34b-200k"}));
  const auto billions = [](const char* name) {
    return static_cast<double>(parameters_of(load_model_shape(shapes / name).config)) / 1e9;
  };
  EXPECT_NEAR(billions("llama-3.1-8b.yaml"), 8.03, 0.01);
  EXPECT_NEAR(billions("qwen2.5-14b.yaml"), 14.77, 0.01);
  EXPECT_NEAR(billions("yi-34b-200k.yaml"), 34.39, 0.01);
  const auto llama = load_model_shape(shapes / "llama-3.1-8b.yaml");
  EXPECT_EQ(llama.config.scaling.type, rope_scaling::kind::llama3);
  EXPECT_EQ(llama.config.scaling.original_max_positions, 8192);
  EXPECT_EQ(llama.config.head_dim, 128);
  EXPECT_EQ(llama.retaining_width, 1024);
  EXPECT_TRUE(load_model_shape(shapes / "qwen2.5-14b.yaml").config.qkv_bias);
}

TEST(model_shape, comments_every_key_of_the_files_in_the_shapes_folder) {
  for (const auto& entry : std::filesystem::directory_iterator(shapes)) {
    std::ifstream file(entry.path());
    std::string before;
    for (std::string line; std::getline(file, line); before = line) {
      const auto first = line.find_first_not_of(' ');
      if (first == std::string::npos || line[first] == '#') continue;
      const auto comment = before.find_first_not_of(' ');
      EXPECT_TRUE(comment != std::string::npos && before[comment] == '#') << entry.path() << ": " << line;
    }
  }
}

TEST(model_shape, refuses_what_is_missing_unknown_or_cannot_be_with_its_place) {
  EXPECT_EQ(refusal_of(tiny), "no fault");
  EXPECT_EQ(refusal_of(tiny + "hiden_size: 3\n"), "s.yaml:10:1: hiden_size: unknown key; did you mean hidden_size?");
  EXPECT_EQ(refusal_of("model_type: llama\n"),
            "s.yaml:1:1: num_hidden_layers: this key is missing; give it, as the model's config.json has it");
  EXPECT_EQ(refusal_of(tiny + "head_dim: 7\n"),
            "s.yaml:10:11: head_dim: must be an even number, for RoPE turns pairs; give it where heads do not divide "
            "hidden_size");
  EXPECT_EQ(refusal_of(tiny + "rope_scaling: {type: llama3, factor: 8}\n"),
            "s.yaml:10:15: rope_scaling.original_max_position_embeddings: llama3 needs this key");
  EXPECT_EQ(refusal_of(tiny + "rope_theta: 0\n"), "s.yaml:10:13: rope_theta: expected a number above 0, got '0'");
}

TEST(model_shape, loads_as_a_checkpoint_that_takes_the_memory_said_beforehand_and_differs_with_its_seed) {
  const temporary_directory folder;
  const auto embedding_of = [&](const std::string& more) {
    const auto model = checkpoint::open(folder.write("s.yaml", tiny + more));
    EXPECT_EQ(model.files(), nullptr);
    EXPECT_EQ(model.retaining_width(), 24);
    const auto kernels = cpu::make_cpu_backend({.threads = 2, .activation = element_type::f32});
    std::int64_t done_last = 0;
    const model_weights weights(*kernels, model, [&](std::int64_t done, std::int64_t total) {
      EXPECT_LE(done, total);
      done_last = done;
    });
    EXPECT_EQ(done_last, model.bytes_to_read());
    EXPECT_EQ(weights.bytes(), model_weights::bytes_needed(*kernels, model.config(), 24));
    EXPECT_TRUE(weights.has_retaining_heads());
    EXPECT_EQ(weights.layer(2).input_norm[63], 1);
    EXPECT_NE(weights.layer(2).qkv_bias[0], weights.layer(1).qkv_bias[0]);
    const auto* numbers = static_cast<const float*>(weights.embedding().data);
    return std::vector<float>(numbers, numbers + 100 * 64);
  };
  const auto first = embedding_of("retaining_width: 24\nseed: 5\n");
  EXPECT_EQ(first, embedding_of("retaining_width: 24\nseed: 5\n"));
  EXPECT_NE(first, embedding_of("retaining_width: 24\nseed: 6\n"));
}

TEST(model_shape, runs_a_job_whose_numbers_stay_numbers_and_whose_answer_is_the_same_every_time) {
  const temporary_directory folder;
  const auto file = folder.write("s.yaml", tiny + "retaining_width: 24\n");
  std::vector<std::int32_t> document;
  for (std::int32_t i = 0; i < 300; ++i) document.push_back(i * 37 % 100);
  const std::vector<std::int32_t> query{1, 2, 3};
  job_options job;
  job.ranks = 3;
  job.anchor_tokens = 16;
  job.passing_tokens = 8;
  job.max_new_tokens = 4;
  std::vector<float> logits;
  for (int i = 0; i < 2; ++i) {
    test_engine engine(file, {});
    const auto answer = engine.run(job, document, query, 0);
    EXPECT_EQ(answer.plan.compressor, compressor_kind::retaining_heads);
    for (const float value : answer.first_logits) {
      ASSERT_LT(std::abs(value), 100);
    }
    if (i == 1) {
      EXPECT_EQ(answer.first_logits, logits);
    }
    logits = answer.first_logits;
  }
}

}  // namespace
}  // namespace baton
