// How fast the heavy CPU kernels are, beside the fastest matmul that oneDNN gives on this machine in the same run.
// Times are of CPU, the best of the iterations, so that other processes disturb little: rates are per core. The
// device has BATON_BENCH_THREADS threads, 1 unless set.

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>

#include <benchmark/benchmark.h>
#include <time.h>

#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/cpu/isa.hpp"
#include "kernels/cpu/matmul.hpp"
#include "kernels/cpu/memory.hpp"

namespace baton {
namespace {

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

element_type matmul_type() { return cpu::effective_isa().bf16_matmul ? element_type::bf16 : element_type::f32; }

/// Fills with small numbers of either type: bytes that would be denormal or NaN could cost time.
void fill(cpu::host_memory& memory, element_type type) {
  std::mt19937 generator(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (std::size_t i = 0; i < memory.bytes() / static_cast<std::size_t>(bytes_of(type)); ++i) {
    const float number = uniform(generator);
    if (type == element_type::f32) {
      reinterpret_cast<float*>(memory.data())[i] = number;
    } else {
      const auto bits = std::bit_cast<std::uint32_t>(number);
      reinterpret_cast<std::uint16_t*>(memory.data())[i] = static_cast<std::uint16_t>(bits >> 16);
    }
  }
}

struct buffer {
  buffer(element_type type, std::int64_t rows, std::int64_t columns)
      : memory(static_cast<std::size_t>(rows * columns * bytes_of(type))),
        view{memory.data(), type, rows, columns, columns} {
    fill(memory, type);
  }
  cpu::host_memory memory;
  matrix view;
};

template <class Body>
double best_of(int times, Body&& body) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < times; ++i) {
    const double start = cpu_seconds();
    body();
    best = std::min(best, cpu_seconds() - start);
  }
  return best;
}

/// Operations per second of a core in 2048 x 512 x 2048 with packed weights.
double ceiling() {
  static const double found = [] {
    const cpu::weight_format format(512, 2048, matmul_type());
    buffer x(matmul_type(), 2048, 512);
    buffer out(element_type::f32, 2048, 2048);
    cpu::host_memory weights(format.bytes());
    fill(weights, matmul_type());
    const cpu::matmul product({2048, 512, 2048, 2048, matmul_type(), element_type::f32, false}, 1);
    const double best = best_of(30, [&] { product.run(0, x.view.data, weights.data(), out.view.data); });
    return 2.0 * 2048 * 512 * 2048 / best;
  }();
  return found;
}

template <class Body>
void measure(benchmark::State& state, double operations, Body&& body) {
  const double limit = ceiling();
  body();
  double best = std::numeric_limits<double>::infinity();
  for ([[maybe_unused]] auto iteration : state) best = std::min(best, best_of(1, body));
  state.counters["GFLOP/s/core"] = operations / best * 1e-9;
  state.counters["share"] = operations / best / limit;
}

std::unique_ptr<backend> make_device() {
  const char* threads = std::getenv("BATON_BENCH_THREADS");
  return cpu::make_cpu_backend({.threads = threads != nullptr ? std::atoi(threads) : 1});
}

void matmul_ceiling(benchmark::State& state) {
  for ([[maybe_unused]] auto iteration : state) benchmark::DoNotOptimize(ceiling());
  state.counters["GFLOP/s/core"] = ceiling() * 1e-9;
}

void linear(benchmark::State& state) {
  const std::int64_t rows = state.range(0);
  const std::int64_t inputs = state.range(1);
  const std::int64_t outputs = state.range(2);
  const auto device = make_device();
  const auto s = device->make_stream();
  buffer weights(element_type::bf16, outputs, inputs);
  buffer x(device->activation_type(), rows, inputs);
  buffer out(device->activation_type(), rows, outputs);
  const auto packed = device->pack(std::array{host_matrix{weights.view.data, host_type::bf16, outputs, inputs}}, {});
  measure(state, 2.0 * static_cast<double>(rows * inputs * outputs),
          [&] { device->linear(*s, x.view, *packed, nullptr, out.view, false); });
}

void attention(benchmark::State& state) {
  const std::int64_t tokens = state.range(0);
  const int dim = static_cast<int>(state.range(1));
  const bool causal = state.range(2) != 0;
  constexpr int heads = 4;
  constexpr int kv_heads = 2;
  const auto device = make_device();
  const auto s = device->make_stream();
  const element_type type = device->activation_type();
  buffer fused(type, tokens, std::int64_t{heads + 2 * kv_heads} * dim);
  buffer out(type, tokens, std::int64_t{heads} * dim);
  buffer lse(element_type::f32, tokens, heads);
  const auto memory = device->allocate(device->panel_bytes(tokens, kv_heads, dim));
  kv_panel panel{memory->data(), tokens, kv_heads, dim, {}, {}};
  const attention_mask mask{.causal = causal, .keys = tokens, .first_query = 0};
  const double pairs = static_cast<double>(tokens) * static_cast<double>(causal ? tokens + 1 : 2 * tokens) / 2;
  measure(state, 4.0 * pairs * dim * heads, [&] {
    device->pack_panel(*s, as_heads(fused.view, std::int64_t{heads} * dim, kv_heads, dim),
                       as_heads(fused.view, std::int64_t{heads + kv_heads} * dim, kv_heads, dim), panel, 0);
    device->attend(*s, as_heads(fused.view, 0, heads, dim), panel, mask, 0.5F, as_heads(out.view, 0, heads, dim),
                   lse.view, attention_result::replace);
  });
}

BENCHMARK(matmul_ceiling)->Iterations(1);
BENCHMARK(linear)
    ->ArgNames({"rows", "inputs", "outputs"})
    ->Args({4096, 1024, 1536})
    ->Args({4096, 1024, 5632})
    ->Args({4096, 2816, 1024})
    ->Args({4096, 256, 256})
    ->Args({4096, 256, 1408})
    ->Args({1, 1024, 5632})
    ->Iterations(10)
    ->Unit(benchmark::kMillisecond);
BENCHMARK(attention)
    ->ArgNames({"tokens", "dim", "causal"})
    ->ArgsProduct({{4096}, {64, 128}, {0, 1}})
    ->Args({4096, 32, 1})
    ->Iterations(10)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace baton
