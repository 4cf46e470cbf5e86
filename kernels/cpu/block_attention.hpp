#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "kernels/backend.hpp"
#include "kernels/cpu/matmul.hpp"
#include "kernels/cpu/memory.hpp"
#include "kernels/cpu/thread_pool.hpp"

namespace baton::cpu {

/// Attention of many queries in tiles, without ever holding all scores (FlashAttention-2, arXiv 2307.08691). K^T and
/// V stand in a panel in oneDNN's own order, so that both products are matmuls on packed weights; one task is 256
/// queries of one head over all keys that they see.
///
/// A query's result depends on itself, its keys and their places in the panel, not on threads. Cutting the queries
/// into calls at multiples of 256 changes nothing; with AVX-512 (AMX and AVX2 do not promise it) no cut does.
/// `panel_bytes` may be called by any thread, all else by the device's compute thread.
class block_attention {
 public:
  static constexpr std::int64_t key_tile = 512;

  block_attention(thread_pool& pool, element_type activations);
  ~block_attention();

  /// Contracts in kernels/backend.hpp.
  [[nodiscard]] std::size_t panel_bytes(std::int64_t tokens_max, int kv_heads, int dim) const;
  void pack(const head_matrix& keys, const head_matrix& values, const kv_panel& panel, std::int64_t first);
  void attend(const head_matrix& q, const kv_panel& panel, const attention_mask& mask, float scale,
              const head_matrix& out, const matrix& log_sum_exp, attention_result result);

 private:
  /// A thread's working memory for one task.
  struct scratch {
    std::unique_ptr<host_memory> memory;
    std::byte* queries;  // (256, dim) in arithmetic type
    std::byte* scores;   // (256, 512) fp32; when packing: (512, dim) in arithmetic type
    std::byte* weights;  // two of (256, 256) in arithmetic type
    float* sums;         // (256, dim)
    float* reference;    // (256)
    float* sum;          // (256)
  };
  struct packers;
  struct products;
  struct launch;

  void reserve_scratch(int dim);
  const packers& packers_for(int dim);
  products products_for(std::int64_t rows, int dim);
  void attend_tile(const scratch& own, int thread, const launch& all, const products& product, std::int64_t first,
                   std::int64_t rows, std::int64_t head) const;

  thread_pool& pool_;
  element_type activations_;
  element_type arithmetic_;  // fp32 where the CPU cannot multiply bf16
  matmul_cache matmuls_;
  std::map<int, packers> packers_;
  int scratch_dim_ = 0;
  std::vector<scratch> scratch_;  // one per thread
};

}  // namespace baton::cpu
