#include "kernels/cpu/ceiling.hpp"

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <vector>

#include "kernels/cpu/isa.hpp"
#include "kernels/cpu/matmul.hpp"
#include "kernels/cpu/memory.hpp"
#include "kernels/cpu/random_fill.hpp"
#include "kernels/cpu/thread_pool.hpp"

namespace baton::cpu {
namespace {

constexpr std::int64_t rows = 2048;
constexpr std::int64_t inputs = 512;
constexpr std::int64_t columns = 2048;
constexpr int products_per_thread = 2;
constexpr int rounds = 5;

/// What one thread multiplies.
struct operands {
  operands(thread_pool& pool, const weight_format& format, element_type type)
      : x(static_cast<std::size_t>(rows * inputs * bytes_of(type))),
        weights(format.bytes()),
        out(static_cast<std::size_t>(rows * columns * 4)) {
    fill_random(pool, {x.data(), type, rows, inputs, inputs}, 1, 1);
    // Any order of random numbers is as good as another.
    const auto numbers = static_cast<std::int64_t>(format.bytes()) / bytes_of(type);
    fill_random(pool, {weights.data(), type, 1, numbers, numbers}, 2, 1);
  }
  host_memory x;
  host_memory weights;
  host_memory out;
};

}  // namespace

double measure_matmul_ceiling(const cpu_options& options) {
  using clock = std::chrono::steady_clock;
  if (!options.cores.empty()) keep_to(options.cores);
  const element_type type = effective_isa().bf16_matmul ? options.activation : element_type::f32;
  thread_pool pool(options.threads);
  const weight_format format(inputs, columns, type);
  const matmul product({rows, inputs, columns, columns, type, element_type::f32}, options.threads);
  std::vector<std::unique_ptr<operands>> own;
  for (int thread = 0; thread < options.threads; ++thread)
    own.push_back(std::make_unique<operands>(pool, format, type));
  double best_s = std::numeric_limits<double>::infinity();
  for (int round = 0; round < rounds; ++round) {
    const auto begun = clock::now();
    pool.parallel_for(options.threads * products_per_thread, [&](std::int64_t, int thread) {
      const auto& mine = *own[static_cast<std::size_t>(thread)];
      product.run(thread, mine.x.data(), mine.weights.data(), mine.out.data());
    });
    best_s = std::min(best_s, std::chrono::duration<double>(clock::now() - begun).count());
  }
  return 2.0 * rows * inputs * columns * products_per_thread * options.threads / best_s;
}

}  // namespace baton::cpu
