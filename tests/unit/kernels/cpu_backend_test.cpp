#include "kernels/cpu/cpu_backend.hpp"

#include <array>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <hwy/targets.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cpu/compressor.hpp"
#include "kernels/cpu/decode_attention.hpp"
#include "kernels/cpu/isa.hpp"
#include "kernels/cpu/rope.hpp"
#include "kernels/cpu/sampling.hpp"
#include "kernels/cpu/thread_pool.hpp"
#include "kernels/cpu/token_wise.hpp"
#include "kernels/fault.hpp"
#include "tests/support/kernel_buffer.hpp"
#include "tests/support/reference_arithmetic.hpp"

namespace baton {
namespace {

/// Runs tests of this binary in a process of its own that may use `isa` at most; returns whether they passed.
bool passes_with(const std::string& isa, const std::string& filter) {
  const pid_t child = fork();
  if (child == 0) {
    setenv("ONEDNN_MAX_CPU_ISA", isa.c_str(), 1);
    execl("/proc/self/exe", "baton_kernels_test", ("--gtest_filter=" + filter).c_str(), "--gtest_brief=1", nullptr);
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(cpu_backend, names_its_kernel_class_by_instruction_set_library_and_precision) {
  const auto bf16 = cpu::make_cpu_backend({.threads = 1});
  const auto f32 = cpu::make_cpu_backend({.threads = 1, .activation = element_type::f32});
  EXPECT_EQ(bf16->kernel_class(), "cpu-" + cpu::effective_isa().name + "-onednn" + cpu::onednn_version());
  EXPECT_EQ(f32->kernel_class(), bf16->kernel_class() + "-f32");
  EXPECT_EQ(bf16->activation_type(), element_type::bf16);
  EXPECT_EQ(f32->activation_type(), element_type::f32);
}

TEST(cpu_backend, keeps_to_the_instruction_set_that_the_environment_allows) {
  const char* variable = std::getenv("ONEDNN_MAX_CPU_ISA");
  const std::string limit = variable != nullptr ? variable : "";
  const std::string used = cpu::effective_isa().name;
  if (limit == "AVX512_CORE" || limit == "AVX2") {
    EXPECT_FALSE(cpu::effective_isa().bf16_matmul);
  }
  if (limit == "AVX2") {
    EXPECT_TRUE(used == "avx2" || used == "sse4") << used;
  }
  // The kernels that are not oneDNN's keep to it as well.
  EXPECT_EQ((hwy::SupportedTargets() & HWY_AVX3) != 0, used == "amx" || used.starts_with("avx512"));
}

TEST(cpu_backend, computes_without_bf16_instructions) {
  EXPECT_TRUE(passes_with("AVX512_CORE",
                          "kernels/linear.*:kernels/block_attention.*:cpu_backend.keeps_to_the_instruction_set*"));
}

TEST(cpu_backend, computes_without_avx512) {
  EXPECT_TRUE(
      passes_with("AVX2", "kernels/linear.*:kernels/block_attention.*:cpu_backend.keeps_to_the_instruction_set*"));
}

TEST(cpu_backend, gives_and_takes_memory) {
  const auto device = cpu::make_cpu_backend({.threads = 1});
  const auto stream = device->make_stream();
  const auto memory = device->allocate(1000);
  EXPECT_EQ(memory->bytes(), 1000U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory->data()) % 64, 0U);
  const std::vector<int> sent{1, 2, 3};
  std::vector<int> received(3);
  device->upload(*stream, memory->data(), sent.data(), 12);
  device->download(*stream, received.data(), memory->data(), 12);
  EXPECT_EQ(received, sent);
  EXPECT_TRUE(device->record(*stream)->reached());
  device->synchronize(*stream);
  EXPECT_EQ(device->allocate(0)->bytes(), 0U);
}

TEST(cpu_backend, says_how_much_memory_it_could_not_get) {
  const auto device = cpu::make_cpu_backend({.threads = 1});
  try {
    (void)device->allocate(std::size_t{1} << 60);
    FAIL() << "there are no machines with so much memory";
  } catch (const fault& refused) {
    EXPECT_EQ(refused.code(), fault_code::out_of_memory);
    EXPECT_NE(refused.reason().find("1152921504606846976"), std::string::npos) << refused.what();
  }
}

TEST(cpu_backend, refuses_impossible_options) {
  EXPECT_THROW((void)cpu::make_cpu_backend({.threads = 0}), fault);
  EXPECT_THROW((void)cpu::make_cpu_backend({.threads = 1, .cores = {-1}}), fault);
  EXPECT_THROW((void)cpu::make_cpu_backend({.threads = 1, .cores = {CPU_SETSIZE - 1}}), fault);
}

TEST(cpu_backend, keeps_a_thread_to_its_cores_and_leaves_the_callers_alone) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  int core = 0;
  while (!CPU_ISSET(core, &before)) ++core;
  const auto device = cpu::make_cpu_backend({.threads = 2, .cores = {core}});
  cpu_set_t after;
  ASSERT_EQ(sched_getaffinity(0, sizeof after, &after), 0);
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
  std::thread([core] {
    cpu::keep_to({core});
    cpu_set_t own;
    ASSERT_EQ(sched_getaffinity(0, sizeof own, &own), 0);
    EXPECT_EQ(CPU_COUNT(&own), 1);
    EXPECT_TRUE(CPU_ISSET(core, &own));
  }).join();
}

/// Each function of the backend against the kernel that it should be.
class delegation : public ::testing::Test {
 protected:
  static constexpr std::int64_t rows = 12;
  static constexpr std::int64_t columns = 32;
  static constexpr int heads = 2;

  static kernel_buffer random(unsigned seed, std::int64_t row_count = rows, std::int64_t column_count = columns) {
    kernel_buffer made(element_type::f32, row_count, column_count);
    made.fill_random(seed);
    return made;
  }

  void expect_same(kernel_buffer start, const std::function<void(kernel_buffer&)>& by_backend,
                   const std::function<void(kernel_buffer&)>& by_kernel) {
    kernel_buffer other(start.type(), start.view().rows, start.view().columns);
    for (std::int64_t row = 0; row < start.view().rows; ++row) {
      for (std::int64_t column = 0; column < start.view().columns; ++column)
        other.set(row, column, start.at(row, column));
    }
    const std::vector<std::byte> before = start.bytes();
    by_backend(start);
    by_kernel(other);
    EXPECT_TRUE(start.bytes() == other.bytes());
    EXPECT_FALSE(start.bytes() == before) << "nothing was computed";
  }

  std::unique_ptr<backend> device = cpu::make_cpu_backend({.threads = 2, .activation = element_type::f32});
  std::unique_ptr<stream> s = device->make_stream();
  cpu::thread_pool pool{1};
  kernel_buffer x = random(1);
};

TEST_F(delegation, of_token_wise_kernels) {
  const std::vector<std::int32_t> ids{3, 0, 11, 5, 5, 1, 2, 4, 6, 7, 8, 9};
  const std::vector<float> weight(columns, 1.5F);
  expect_same(
      random(2), [&](auto& out) { device->copy(*s, x.view(), out.view()); },
      [&](auto& out) { cpu::copy(pool, x.view(), out.view()); });
  expect_same(
      random(2), [&](auto& out) { device->embed(*s, x.view(), ids.data(), out.view()); },
      [&](auto& out) { cpu::embed(pool, x.view(), ids.data(), out.view()); });
  expect_same(
      random(2), [&](auto& out) { device->rms_norm(*s, x.view(), weight.data(), 1e-5F, out.view()); },
      [&](auto& out) { cpu::rms_norm(pool, x.view(), weight.data(), 1e-5F, out.view()); });
  expect_same(
      random(2, rows, columns / 2), [&](auto& out) { device->swiglu(*s, x.view(), out.view()); },
      [&](auto& out) { cpu::swiglu(pool, x.view(), out.view()); });
  expect_same(
      random(2), [&](auto& out) { device->silu(*s, out.view()); }, [&](auto& out) { cpu::silu(pool, out.view()); });
}

TEST_F(delegation, of_rotary_embedding) {
  const std::vector<float> frequencies{1.0F, 0.5F, 0.25F, 0.1F, 0.05F, 0.02F, 0.01F, 0.001F};
  const std::vector<std::int32_t> positions{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  kernel_buffer cosines = random(3, rows, 8);
  kernel_buffer sines = random(4, rows, 8);
  expect_same(
      random(2, rows, 8),
      [&](auto& out) {
        device->fill_rope_table(*s, frequencies, 1, {cosines.view(), out.view()});
      },
      [&](auto& out) {
        cpu::fill_rope_table(pool, frequencies, 1, {cosines.view(), out.view()});
      });
  device->fill_rope_table(*s, frequencies, 1, {cosines.view(), sines.view()});
  const rope_table table{cosines.view(), sines.view()};
  expect_same(
      random(2), [&](auto& out) { device->rotate(*s, out.heads(heads), positions.data(), table); },
      [&](auto& out) { cpu::rotate(pool, out.heads(heads), positions.data(), table); });
}

TEST_F(delegation, of_attention_with_few_queries) {
  kernel_buffer q = random(2, 3);
  kernel_buffer values = random(3);
  kernel_buffer lse = random(4, 3, heads);
  const attention_mask mask{.keys = rows};
  const std::size_t bytes = device->decode_attention_workspace_bytes(rows, heads, columns / heads);
  EXPECT_EQ(bytes, cpu::decode_attention_workspace_bytes(rows, heads, columns / heads));
  std::vector<std::byte> workspace(bytes);
  expect_same(
      random(5, 3),
      [&](auto& out) {
        device->attend_few(*s, q.heads(heads), x.heads(heads), values.heads(heads), mask, 0.5F, out.heads(heads),
                           lse.view(), workspace.data());
      },
      [&](auto& out) {
        cpu::attend_few(pool, q.heads(heads), x.heads(heads), values.heads(heads), mask, 0.5F, out.heads(heads),
                        lse.view(), workspace.data());
      });
  kernel_buffer other = random(6, 3);
  kernel_buffer other_lse = random(7, 3, heads);
  const std::array parts{q.heads(heads), other.heads(heads)};
  const std::array lses{lse.view(), other_lse.view()};
  expect_same(
      random(5, 3), [&](auto& out) { device->merge_attention(*s, parts, lses, out.heads(heads)); },
      [&](auto& out) { cpu::merge_attention(pool, parts, lses, out.heads(heads)); });
}

TEST_F(delegation, of_the_compressor) {
  kernel_buffer mean = random(2, heads, columns / heads);
  kernel_buffer scores = random(3, rows, heads);
  expect_same(
      random(4, heads, columns / heads), [&](auto& out) { device->mean_query(*s, x.heads(heads), out.view()); },
      [&](auto& out) { cpu::mean_query(pool, x.heads(heads), out.view()); });
  expect_same(
      random(4, rows, heads), [&](auto& out) { device->score_keys(*s, x.heads(heads), mean.view(), out.view()); },
      [&](auto& out) { cpu::score_keys(pool, x.heads(heads), mean.view(), out.view()); });
  expect_same(
      random(4, rows, heads), [&](auto& out) { device->score_recent(*s, out.view()); },
      [&](auto& out) { cpu::score_recent(pool, out.view()); });
  expect_same(
      random(4, rows, heads), [&](auto& out) { device->score_random(*s, 7, 2, 100, out.view()); },
      [&](auto& out) { cpu::score_random(pool, 7, 2, 100, out.view()); });
  expect_same(
      random(4, rows, heads), [&](auto& out) { device->max_pool(*s, scores.view(), out.view()); },
      [&](auto& out) { cpu::max_pool(pool, scores.view(), out.view()); });

  const std::size_t bytes = device->select_workspace_bytes(rows, heads);
  EXPECT_EQ(bytes, cpu::select_workspace_bytes(rows, heads));
  std::vector<std::byte> workspace(bytes);
  std::vector<std::int32_t> chosen(std::size_t{3} * heads, -1);
  std::vector<std::int32_t> expected(chosen);
  device->select_top(*s, scores.view(), 2, 3, chosen.data(), workspace.data());
  cpu::select_top(pool, scores.view(), 2, 3, expected.data(), workspace.data());
  EXPECT_EQ(chosen, expected);
  expect_same(
      random(4, 3), [&](auto& out) { device->gather(*s, x.heads(heads), chosen.data(), out.heads(heads)); },
      [&](auto& out) { cpu::gather(pool, x.heads(heads), chosen.data(), out.heads(heads)); });
}

TEST_F(delegation, of_sampling) {
  kernel_buffer logits = random(2, 1, 50);
  std::int32_t token = -1;
  std::int32_t expected = -1;
  device->sample_greedy(*s, logits.view(), &token);
  cpu::sample_greedy(pool, logits.view(), &expected);
  EXPECT_EQ(token, expected);
  const std::size_t bytes = device->sample_workspace_bytes(50);
  EXPECT_EQ(bytes, cpu::sample_workspace_bytes(50));
  std::vector<std::byte> workspace(bytes);
  device->sample_top_p(*s, logits.view(), 1.5F, 0.9F, 0.7F, &token, workspace.data());
  cpu::sample_top_p(pool, logits.view(), 1.5F, 0.9F, 0.7F, &expected, workspace.data());
  EXPECT_EQ(token, expected);
}

TEST_F(delegation, of_linear_layers_and_block_attention) {
  const matrix weights = x.view();
  const auto packed =
      device->pack(std::array{host_matrix{weights.data, host_type::f32, weights.rows, weights.columns}}, {});
  EXPECT_EQ(packed->bytes(), device->packed_bytes(rows, columns));
  kernel_buffer in = random(2, 5);
  kernel_buffer out = random(3, 5, rows);
  device->linear(*s, in.view(), *packed, nullptr, out.view(), false);
  EXPECT_NEAR(out.at(4, 7), reference::dot(in.row(4), x.row(7)), 1e-4);

  const int dim = columns / heads;
  const auto memory = device->allocate(device->panel_bytes(rows, heads, dim));
  kv_panel panel{memory->data(), rows, heads, dim, {}, {}};
  device->pack_panel(*s, x.heads(heads), x.heads(heads), panel, 0);
  EXPECT_EQ(device->panel_tile_tokens(), 512);
  kernel_buffer attended = random(4, 5);
  kernel_buffer lse = random(5, 5, heads);
  device->attend(*s, in.heads(heads), panel, {.keys = 1}, 0.5F, attended.heads(heads), lse.view(),
                 attention_result::replace);
  for (std::int64_t row = 0; row < 5; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      ASSERT_NEAR(attended.at(row, column), x.at(0, column), 1e-5);  // of one key, its value
    }
  }
}

}  // namespace
}  // namespace baton
