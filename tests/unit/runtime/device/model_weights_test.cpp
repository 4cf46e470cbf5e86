#include "runtime/device/model_weights.hpp"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_backend.hpp"
#include "tests/support/places.hpp"
#include "tests/support/reference_weights.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

const std::filesystem::path models = std::filesystem::path(BATON_SOURCE_DIR) / "tests/fixtures/models";

TEST(model_weights, take_what_was_said_beforehand_for_every_fixture) {
  for (const auto precision : {element_type::f32, element_type::bf16}) {
    const auto kernels = cpu::make_cpu_backend({.threads = 2, .activation = precision});
    for (const auto& entry : std::filesystem::directory_iterator(models)) {
      const auto model = checkpoint::open(entry.path());
      const model_weights weights(*kernels, model);
      std::size_t packed = weights.output_head().bytes();
      for (int i = 0; i < model.config().layers; ++i) {
        const auto& layer = weights.layer(i);
        for (const auto* part :
             {&layer.qkv, &layer.o, &layer.gate_up, &layer.down, &layer.retain_in, &layer.retain_out}) {
          if (*part) packed += (*part)->bytes();
        }
      }
      const auto& c = model.config();
      const std::size_t embedding = static_cast<std::size_t>(c.vocabulary) * static_cast<std::size_t>(c.hidden) *
                                    static_cast<std::size_t>(bytes_of(precision));
      EXPECT_GE(weights.bytes(), packed + embedding) << entry.path();
      EXPECT_LE(weights.bytes(), packed + embedding + 20'000) << entry.path();  // norms, biases, alignment
    }
  }
}

TEST(model_weights, biases_and_norms_are_those_of_the_file_one_behind_the_other) {
  const auto kernels = cpu::make_cpu_backend({.threads = 1, .activation = element_type::bf16});
  const auto reference = reference::load_weights(models / "llama_bias");
  const auto model = checkpoint::open(models / "llama_bias");
  const model_weights weights(*kernels, model);
  for (std::size_t i = 0; i < reference.layers.size(); ++i) {
    const auto& expected = reference.layers[i];
    const auto& layer = weights.layer(static_cast<int>(i));
    std::vector<float> qkv = expected.q.bias;
    qkv.insert(qkv.end(), expected.k.bias.begin(), expected.k.bias.end());
    qkv.insert(qkv.end(), expected.v.bias.begin(), expected.v.bias.end());
    EXPECT_EQ(std::vector<float>(layer.qkv_bias, layer.qkv_bias + qkv.size()), qkv);
    EXPECT_EQ(std::vector<float>(layer.o_bias, layer.o_bias + expected.o.bias.size()), expected.o.bias);
    EXPECT_EQ(std::vector<float>(layer.input_norm, layer.input_norm + expected.attention_norm.size()),
              expected.attention_norm);
    EXPECT_EQ(std::vector<float>(layer.post_attention_norm, layer.post_attention_norm + expected.ffn_norm.size()),
              expected.ffn_norm);
  }
  const model_weights without(*kernels, checkpoint::open(models / "llama_untied"));
  EXPECT_EQ(without.layer(0).qkv_bias, nullptr);
  EXPECT_EQ(without.layer(0).o_bias, nullptr);
}

TEST(model_weights, the_embedding_is_rounded_as_the_reference_rounds_it_whatever_the_files_type) {
  for (const char* name : {"llama_tied", "yi", "qwen2_f32", "llama_untied"}) {
    const auto reference = reference::load_weights(models / name);
    const auto model = checkpoint::open(models / name);
    const auto f32 = cpu::make_cpu_backend({.threads = 1, .activation = element_type::f32});
    const model_weights exact(*f32, model);
    const auto* values = static_cast<const float*>(exact.embedding().data);
    EXPECT_EQ(std::vector<float>(values, values + reference.embedding.size()), reference.embedding) << name;
    const auto bf16 = cpu::make_cpu_backend({.threads = 1, .activation = element_type::bf16});
    const model_weights rounded(*bf16, model);
    const auto* halves = static_cast<const std::uint16_t*>(rounded.embedding().data);
    for (std::size_t i = 0; i < reference.embedding.size(); ++i) {
      ASSERT_EQ(static_cast<std::uint32_t>(halves[i]) << 16,
                std::bit_cast<std::uint32_t>(reference::to_bf16(reference.embedding[i])))
          << name << " " << i;
    }
  }
}

TEST(model_weights, progress_ends_with_all_that_was_to_be_read) {
  const auto kernels = cpu::make_cpu_backend({.threads = 2, .activation = element_type::bf16});
  for (const char* name : {"llama_tied", "qwen2_untied_yarn"}) {
    const auto model = checkpoint::open(models / name);
    std::vector<std::pair<std::int64_t, std::int64_t>> heard;
    const model_weights weights(*kernels, model, [&](std::int64_t done, std::int64_t total) {
      if (!heard.empty()) {
        EXPECT_GE(done, heard.back().first);
      }
      heard.emplace_back(done, total);
    });
    ASSERT_FALSE(heard.empty());
    EXPECT_LT(heard.front().first, model.bytes_to_read());
    EXPECT_EQ(heard.back(), std::pair(model.bytes_to_read(), model.bytes_to_read()));
  }
}

/// What of the process is in memory because of mapped files, in bytes.
std::int64_t resident_file_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word == "RssFile:") {
      std::int64_t kib = 0;
      status >> kib;
      return kib * 1024;
    }
  }
  return -1;
}

// So that a checkpoint's pages and its packed weights are never in memory together.
TEST(model_weights, little_of_the_file_is_resident_while_and_after_it_is_loaded) {
  reference::shape shape;
  shape.layers = 3;
  shape.hidden = 1024;
  shape.heads = 8;
  shape.kv_heads = 4;
  shape.head_dim = 128;
  shape.ffn = 2048;
  shape.vocabulary = 6000;
  const temporary_directory folder;
  reference::write_checkpoint(reference::zero_weights(shape), folder.path());
  const auto kernels = cpu::make_cpu_backend({.threads = 2, .activation = element_type::bf16});
  const auto model = checkpoint::open(folder.path());
  ASSERT_GT(model.bytes_to_read(), 150 << 20);
  const auto before = resident_file_bytes();
  ASSERT_GE(before, 0);
  std::int64_t most = 0;
  const model_weights weights(*kernels, model,
                              [&](std::int64_t, std::int64_t) { most = std::max(most, resident_file_bytes()); });
  EXPECT_LT(most - before, 24 << 20);
  EXPECT_LT(resident_file_bytes() - before, 8 << 20);
}

}  // namespace
}  // namespace baton
