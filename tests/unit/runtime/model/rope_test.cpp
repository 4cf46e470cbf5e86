#include "runtime/model/rope.hpp"

#include <cmath>
#include <limits>
#include <map>

#include <gtest/gtest.h>

namespace baton {
namespace {

model_config config_with(int head_dim, double theta, const rope_scaling& scaling = {}) {
  model_config config;
  config.head_dim = head_dim;
  config.rope_theta = theta;
  config.scaling = scaling;
  return config;
}

rope_scaling llama3(double factor) { return {rope_scaling::kind::llama3, factor, 1, 4, 8192}; }

// The C library's pow may round the last bit in another way than the one that the constants were computed with.
void expect_same(const std::vector<float>& actual, const std::map<std::size_t, float>& expected) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (const auto& [index, value] : expected) {
    EXPECT_GE(actual.at(index), std::nextafter(value, -infinity)) << "index " << index;
    EXPECT_LE(actual.at(index), std::nextafter(value, infinity)) << "index " << index;
  }
}

// The constants of this file are LlamaRotaryEmbedding(config).inv_freq[i].item().hex() of transformers 5.23 with
// PyTorch 2.8 on a CPU, where config is LlamaConfig(hidden_size=4 * head_dim, num_attention_heads=4,
// max_position_embeddings=131072, rope_parameters={...}).

TEST(rope, equals_transformers_without_scaling) {
  const auto small_theta = rope_inverse_frequencies(config_with(128, 1e4));
  ASSERT_EQ(small_theta.size(), 64U);
  expect_same(small_theta,
              {{0, 0x1p+0F}, {1, 0x1.bb5faep-1F}, {31, 0x1.7a6622p-7F}, {62, 0x1.17a8e4p-13F}, {63, 0x1.e459c4p-14F}});
  expect_same(rope_inverse_frequencies(config_with(128, 5e5)),
              {{0, 0x1p+0F}, {1, 0x1.a11582p-1F}, {31, 0x1.c7182p-10F}, {62, 0x1.94836p-19F}, {63, 0x1.4985fep-19F}});
  const auto large_theta = rope_inverse_frequencies(config_with(64, 1e10));
  ASSERT_EQ(large_theta.size(), 32U);
  expect_same(large_theta,
              {{0, 0x1p+0F}, {1, 0x1.f2a79ep-2F}, {15, 0x1.58863ap-16F}, {30, 0x1.cfa902p-32F}, {31, 0x1.c3933p-33F}});
}

TEST(rope, equals_transformers_with_linear_scaling) {
  expect_same(
      rope_inverse_frequencies(config_with(128, 1e4, {.type = rope_scaling::kind::linear, .factor = 3})),
      {{0, 0x1.555556p-2F}, {1, 0x1.27951ep-2F}, {31, 0x1.f8882ep-9F}, {62, 0x1.74e13p-15F}, {63, 0x1.42e682p-15F}});
}

// Frequencies 0 to 28 are kept, 29 to 34 interpolated, 35 to 63 divided by 8.
TEST(rope, equals_transformers_with_the_scaling_of_llama_3_1) {
  expect_same(rope_inverse_frequencies(config_with(128, 5e5, llama3(8))), {{0, 0x1p+0F},
                                                                           {1, 0x1.a11582p-1F},
                                                                           {28, 0x1.a4ee4p-9F},
                                                                           {29, 0x1.1bfa0cp-9F},
                                                                           {30, 0x1.67a23ap-10F},
                                                                           {35, 0x1.90d10cp-14F},
                                                                           {36, 0x1.46831ap-14F},
                                                                           {50, 0x1.280d96p-18F},
                                                                           {63, 0x1.4985fep-22F}});
}

TEST(rope, equals_transformers_with_the_scaling_of_llama_3_2) {
  expect_same(rope_inverse_frequencies(config_with(64, 5e5, llama3(32))), {{0, 0x1p+0F},
                                                                           {1, 0x1.53c38cp-1F},
                                                                           {13, 0x1.3d2804p-8F},
                                                                           {14, 0x1.a4ee4p-9F},
                                                                           {15, 0x1.524f36p-10F},
                                                                           {16, 0x1.c26c4p-12F},
                                                                           {17, 0x1.9731eep-14F},
                                                                           {18, 0x1.46831ap-16F},
                                                                           {20, 0x1.1f91fp-17F},
                                                                           {31, 0x1.94836p-24F}});
}

// Frequencies 0 to 23 are kept, 24 to 39 interpolated, 40 to 63 divided by 4: what Qwen2.5's model cards recommend.
TEST(rope, equals_transformers_with_yarn) {
  const auto config =
      config_with(128, 1e6, {.type = rope_scaling::kind::yarn, .factor = 4, .original_max_positions = 32768});
  expect_same(rope_inverse_frequencies(config), {{0, 0x1p+0F},
                                                 {1, 0x1.9c975ap-1F},
                                                 {16, 0x1.030dc6p-5F},
                                                 {24, 0x1.6046eep-8F},
                                                 {30, 0x1.17040ep-10F},
                                                 {32, 0x1.3c1d64p-11F},
                                                 {34, 0x1.5e7a04p-12F},
                                                 {37, 0x1.107c70p-13F},
                                                 {48, 0x1.094564p-17F},
                                                 {63, 0x1.4d1c98p-22F}});
}

TEST(rope, equals_transformers_with_a_yarn_whose_bounds_are_no_whole_dimensions) {
  const auto config = config_with(64, 1e4,
                                  {.type = rope_scaling::kind::yarn,
                                   .factor = 8,
                                   .original_max_positions = 4096,
                                   .beta_fast = 16,
                                   .beta_slow = 0.5,
                                   .truncate = false,
                                   .amplitude = 1.1109265730555202});
  expect_same(rope_inverse_frequencies(config), {{0, 0x1p+0F},
                                                 {8, 0x1.99999ap-4F},
                                                 {13, 0x1.8126c6p-6F},
                                                 {14, 0x1.0ba6acp-6F},
                                                 {16, 0x1.facc72p-8F},
                                                 {18, 0x1.cedda2p-9F},
                                                 {21, 0x1.fdb7ccp-11F},
                                                 {24, 0x1.929a4cp-13F},
                                                 {31, 0x1.17a8e4p-16F}});
  EXPECT_EQ(rope_amplitude(config), 0x1.1c65bp+0F);  // attention_scaling, in fp32
  EXPECT_EQ(rope_amplitude(config_with(64, 1e4)), 1);
}

}  // namespace
}  // namespace baton
