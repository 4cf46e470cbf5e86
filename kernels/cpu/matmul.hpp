#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

#include "kernels/tensor.hpp"

namespace baton::cpu {

/// Products of a tile of rows with packed weights, through oneDNN. Each runs on the thread that calls it and no other.

/// How weights (inputs, columns) lie in memory for oneDNN's matmul. Faults: device. Any thread.
class weight_format {
 public:
  weight_format(std::int64_t inputs, std::int64_t columns, element_type type);

  [[nodiscard]] std::size_t bytes() const { return layout_.get_size(); }
  [[nodiscard]] const dnnl::memory::desc& layout() const { return layout_; }
  /// The format of the leading columns alone, inside the same memory. `columns`: all, or a multiple of 64.
  [[nodiscard]] dnnl::memory::desc leading_columns(std::int64_t columns) const;

 private:
  dnnl::memory::desc layout_;
};

/// Brings plain weights without gaps, of the format's own type, into a format. Immutable: any thread, several at once.
class weight_packer {
 public:
  /// transposed: the source is (columns, inputs) and not (inputs, columns).
  weight_packer(const weight_format& to, bool transposed);
  void operator()(const void* from, void* to) const;

 private:
  dnnl::memory::desc from_;
  dnnl::memory::desc to_;
  dnnl::reorder reorder_;
};

/// Rows stand without gaps: oneDNN 2.6 has no fast matmul for others.
struct matmul_shape {
  std::int64_t rows = 0;
  std::int64_t inputs = 0;
  std::int64_t columns = 0;
  std::int64_t packed_columns = 0;  ///< the weight format's: `columns`, or more where only leading ones are wanted
  element_type type = element_type::f32;      ///< of x and of the weights
  element_type out_type = element_type::f32;  ///< bf16 only where `type` is
  bool accumulate = false;                    ///< out += x W
  bool bias = false;                          ///< out = x W + bias, rounded once

  friend auto operator<=>(const matmul_shape&, const matmul_shape&) = default;
};

/// out = x W for one shape; x (rows, inputs), out (rows, columns), bias (columns) fp32 where the shape has one. `run` may
/// be called by all threads of a pool at once, each with its own number.
class matmul {
 public:
  matmul(const matmul_shape& shape, int threads);
  void run(int thread, const void* x, const void* weights, void* out, const float* bias = nullptr) const;
  /// oneDNN's name for the code that runs: "ref:…" is its slow fallback.
  [[nodiscard]] const std::string& implementation() const { return implementation_; }

 private:
  struct arguments {
    dnnl::memory x;
    dnnl::memory weights;
    dnnl::memory bias;
    dnnl::memory out;
    dnnl::memory scratch;
  };

  dnnl::matmul primitive_;
  std::vector<arguments> arguments_;  // one per thread
  std::string implementation_;
};

/// The matmuls of one device, each made when its shape is first asked for. Called by the compute thread, outside
/// parallel_for.
class matmul_cache {
 public:
  explicit matmul_cache(int threads) : threads_(threads) {}
  const matmul& get(const matmul_shape& shape);

 private:
  int threads_;
  std::map<matmul_shape, std::unique_ptr<matmul>> made_;
};

}  // namespace baton::cpu
