#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.hpp"
#include "kernels/cpu/matmul.hpp"
#include "kernels/cpu/memory.hpp"
#include "kernels/cpu/thread_pool.hpp"

namespace baton::cpu {

/// Linear layers on packed weights. The product is cut into fixed tiles, rows by column panels, and each tile is one
/// matmul of one thread, so that results do not depend on the number of threads. With AVX-512 a row's result does not
/// depend on the other rows of the call either; oneDNN's matmuls for AMX and AVX2 do not promise that, and there up to four rows are
/// multiplied by an own kernel (few_rows.hpp), which gives a row the same bits beside any others of its kind.
///
/// `run` is called by the device's compute thread, `pack` by it or before it runs, `packed_bytes` by any thread.
class linear_layers {
 public:
  /// `activations` is the type of inputs; weights are rounded to it. The pool outlives this.
  linear_layers(thread_pool& pool, element_type activations);

  /// Contract in backend::pack. Faults: bad_input for parts that do not fit each other, out_of_memory.
  [[nodiscard]] std::unique_ptr<packed_weights> pack(std::span<const host_matrix> parts,
                                                     const host_memory_read& read = {});
  /// Contract in backend::pack_random. Faults: bad_input, out_of_memory.
  [[nodiscard]] std::unique_ptr<packed_weights> pack_random(std::int64_t outputs, std::int64_t inputs,
                                                            std::uint64_t seed, float scale);
  [[nodiscard]] std::size_t packed_bytes(std::int64_t outputs, std::int64_t inputs) const;

  /// Contract in backend::linear.
  void run(const matrix& x, const packed_weights& w, const float* bias, const matrix& out, bool accumulate);

 private:
  class packed;
  class panel_packer;
  struct tile;
  struct scratch {
    std::unique_ptr<host_memory> x;        // (128, inputs) in arithmetic type, where x cannot be read in place
    std::unique_ptr<host_memory> product;  // (128, 256) fp32 or bf16
  };

  void reserve_scratch(std::int64_t inputs);
  void run_few(const matrix& x, const packed& weights, const float* bias, const matrix& out, bool accumulate);
  tile tile_from(std::int64_t first, std::int64_t rows_left, const packed& weights, element_type product_type,
                 bool with_bias);

  thread_pool& pool_;
  element_type activations_;
  element_type arithmetic_;  // fp32 where the CPU cannot multiply bf16
  matmul_cache matmuls_;
  std::vector<scratch> scratch_;  // one per thread
  std::vector<float> few_x_;      // (4, padded inputs)
};

}  // namespace baton::cpu
