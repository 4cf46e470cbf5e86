#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>

#include "kernels/backend.hpp"
#include "kernels/cuda/stream_handle.hpp"

namespace baton::cuda {

/// Linear layers: cuBLASLt on bf16 numbers with fp32 sums, and a kernel of our own for the few rows of decoding. The algorithm for a
/// shape is chosen once, by cuBLASLt's heuristics, which look at shapes alone: one GPU and library version, one order of sums.
class linear_layers {
 public:
  /// Takes its workspace and staging from `device`, which outlives it. Throws fault(device) where cuBLASLt is not found.
  explicit linear_layers(backend& device);
  ~linear_layers();
  linear_layers(const linear_layers&) = delete;
  linear_layers& operator=(const linear_layers&) = delete;

  [[nodiscard]] std::string version() const;
  [[nodiscard]] std::unique_ptr<packed_weights> pack(stream_handle s, std::span<const host_matrix> parts,
                                                     const host_memory_read& read);
  /// Room for weights that are made on the device: (outputs, inputs) bf16 numbers, as yet anything.
  [[nodiscard]] std::unique_ptr<packed_weights> reserve(std::int64_t outputs, std::int64_t inputs) const;
  /// The weights as they stand in device memory: (outputs, inputs) bf16.
  [[nodiscard]] static matrix rows_of(const packed_weights& w);
  /// Has cuBLASLt choose for what `run` will be asked for.
  void prepare(const matrix& x, const packed_weights& w, const float* bias, const matrix& out, bool accumulate);
  void run(stream_handle s, const matrix& x, const packed_weights& w, const float* bias, const matrix& out,
           bool accumulate);

 private:
  class packed;
  class product;
  /// (rows, outputs, inputs, x's stride, out's stride, out in fp32, with bias, accumulate, alignments)
  using shape =
      std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, bool, bool, bool, int, int>;

  [[nodiscard]] static shape shape_of(const matrix& x, const matrix& weights, const float* bias, const matrix& out,
                                      bool accumulate);
  const product& product_for(const shape& key);
  bool multiply(stream_handle s, const matrix& x, const matrix& weights, const float* bias, const matrix& out,
                bool accumulate);

  backend& device_;
  void* handle_ = nullptr;  // cublasLtHandle_t
  std::unique_ptr<device_memory> workspace_;
  std::map<shape, std::unique_ptr<product>> products_;
};

}  // namespace baton::cuda
