#include "kernels/cuda/linear.hpp"

#include <algorithm>
#include <array>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/libraries.hpp"
#include "kernels/cuda/matvec.hpp"
#include "kernels/cuda/token_wise.hpp"

namespace baton::cuda {
namespace {

constexpr std::size_t workspace_bytes = std::size_t{64} << 20;
/// Of the workspace, where a product waits for what cuBLASLt does not add.
constexpr std::size_t product_bytes = workspace_bytes / 2;

void check_lt(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw fault(fault_code::device, std::string(what) + ": " + cublas_lt().status_string(status));
  }
}

/// The largest power of two up to 256 that divides an address.
int alignment_of(const void* at) {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  return static_cast<int>(std::min<std::uintptr_t>(address == 0 ? 256 : address & (~address + 1), 256));
}

}  // namespace

/// Plain bf16 rows.
class linear_layers::packed final : public packed_weights {
 public:
  packed(backend& device, std::int64_t outputs, std::int64_t inputs)
      : outputs_(outputs), inputs_(inputs), memory_(device.allocate(static_cast<std::size_t>(outputs * inputs * 2))) {}

  [[nodiscard]] std::int64_t outputs() const override { return outputs_; }
  [[nodiscard]] std::int64_t inputs() const override { return inputs_; }
  [[nodiscard]] std::size_t bytes() const override { return memory_->bytes(); }
  [[nodiscard]] matrix rows() const { return {memory_->data(), element_type::bf16, outputs_, inputs_, inputs_}; }

 private:
  std::int64_t outputs_;
  std::int64_t inputs_;
  std::unique_ptr<device_memory> memory_;
};

/// What cuBLASLt wants to know of one shape, and the algorithm that it chose. It counts columns first: its D (outputs x rows) is
/// our `out`, its A the weights transposed, its B our x.
class linear_layers::product {
 public:
  product(cublasLtHandle_t handle, const shape& key) {
    const auto& lt = cublas_lt();
    const auto [rows, outputs, inputs, x_stride, out_stride, in_fp32, with_bias, accumulate, x_alignment,
                out_alignment] = key;
    const cudaDataType_t out_type = in_fp32 ? CUDA_R_32F : CUDA_R_16BF;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check_lt(lt.matmul_create(&matmul_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    check_lt(lt.matmul_set(matmul_, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed), "TRANSA");
    if (with_bias) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      const cudaDataType_t bias_type = CUDA_R_32F;
      check_lt(lt.matmul_set(matmul_, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue), "EPILOGUE");
      check_lt(lt.matmul_set(matmul_, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type), "BIAS_TYPE");
    }
    const auto u = [](std::int64_t count) { return static_cast<std::uint64_t>(count); };
    check_lt(lt.layout_create(&a_, CUDA_R_16BF, u(inputs), u(outputs), inputs), "cublasLtMatrixLayoutCreate");
    check_lt(lt.layout_create(&b_, CUDA_R_16BF, u(inputs), u(rows), x_stride), "cublasLtMatrixLayoutCreate");
    check_lt(lt.layout_create(&d_, out_type, u(outputs), u(rows), out_stride), "cublasLtMatrixLayoutCreate");

    cublasLtMatmulPreference_t preference = nullptr;
    check_lt(lt.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check_lt(lt.preference_set(preference, attribute, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, product_bytes);
    // Sums of a split are added in fp32, and in a fixed order.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, std::uint32_t{256});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<std::uint32_t>(x_alignment));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<std::uint32_t>(out_alignment));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<std::uint32_t>(out_alignment));
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    const auto status = lt.heuristic(handle, matmul_, a_, b_, d_, d_, preference, 1, &best, &found);
    lt.preference_destroy(preference);
    exists_ = status == CUBLAS_STATUS_SUCCESS && found > 0 && best.state == CUBLAS_STATUS_SUCCESS;
    algorithm_ = best.algo;
    beta_ = accumulate ? 1.0f : 0.0f;
  }
  ~product() {
    const auto& lt = cublas_lt();
    if (d_ != nullptr) lt.layout_destroy(d_);
    if (b_ != nullptr) lt.layout_destroy(b_);
    if (a_ != nullptr) lt.layout_destroy(a_);
    if (matmul_ != nullptr) lt.matmul_destroy(matmul_);
  }
  product(const product&) = delete;
  product& operator=(const product&) = delete;

  /// Whether cuBLASLt has it at all.
  [[nodiscard]] bool exists() const { return exists_; }

  void run(cublasLtHandle_t handle, stream_handle s, const void* weights, const void* x, const float* bias, void* out,
           std::byte* workspace) const {
    const auto& lt = cublas_lt();
    if (bias != nullptr) {
      const void* const at = bias;
      check_lt(lt.matmul_set(matmul_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &at, sizeof at), "BIAS_POINTER");
    }
    const float alpha = 1;
    check_lt(lt.matmul(handle, matmul_, &alpha, weights, a_, x, b_, &beta_, out, d_, out, d_, &algorithm_, workspace,
                       product_bytes, s),
             "cublasLtMatmul");
  }

 private:
  cublasLtMatmulDesc_t matmul_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr;
  cublasLtMatrixLayout_t b_ = nullptr;
  cublasLtMatrixLayout_t d_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
  bool exists_ = false;
  float beta_ = 0;
};

linear_layers::linear_layers(backend& device) : device_(device), workspace_(device.allocate(workspace_bytes)) {
  cublasLtHandle_t handle = nullptr;
  check_lt(cublas_lt().create(&handle), "cublasLtCreate");
  handle_ = handle;
}

linear_layers::~linear_layers() {
  products_.clear();
  if (handle_ != nullptr) cublas_lt().destroy(static_cast<cublasLtHandle_t>(handle_));
}

std::string linear_layers::version() const {
  const std::size_t number = cublas_lt().version();
  return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." + std::to_string(number % 100);
}

std::unique_ptr<packed_weights> linear_layers::reserve(std::int64_t outputs, std::int64_t inputs) const {
  if (outputs <= 0 || inputs <= 0) throw fault(fault_code::bad_input, "weights must have rows and columns", "pack");
  return std::make_unique<packed>(device_, outputs, inputs);
}

matrix linear_layers::rows_of(const packed_weights& w) {
  const auto* weights = dynamic_cast<const packed*>(&w);
  require(weights != nullptr, "linear", "weights that a CUDA backend packed");
  return weights->rows();
}

std::unique_ptr<packed_weights> linear_layers::pack(stream_handle s, std::span<const host_matrix> parts,
                                                    const host_memory_read& read) {
  std::int64_t outputs = 0;
  for (const host_matrix& part : parts) {
    if (part.columns != parts.front().columns || part.columns <= 0 || part.rows <= 0) {
      throw fault(fault_code::bad_input, "fused weights must have the same number of columns, and rows", "pack");
    }
    outputs += part.rows;
  }
  if (parts.empty()) throw fault(fault_code::bad_input, "there are no weights to pack", "pack");
  const std::int64_t inputs = parts.front().columns;
  auto weights = std::make_unique<packed>(device_, outputs, inputs);

  // Numbers come in pieces by way of the workspace, where they still have the checkpoint's type.
  std::int64_t done = 0;  // numbers of the matrix
  for (const host_matrix& part : parts) {
    const std::int64_t number_bytes = bytes_of(part.type);
    const std::int64_t numbers = part.rows * part.columns;
    const auto piece_numbers = static_cast<std::int64_t>(workspace_bytes / 2) / number_bytes;
    for (std::int64_t first = 0; first < numbers; first += piece_numbers) {
      const std::int64_t count = std::min(piece_numbers, numbers - first);
      const auto bytes = static_cast<std::size_t>(count * number_bytes);
      const auto* from = static_cast<const std::byte*>(part.data) + first * number_bytes;
      check_cuda(cudaMemcpyAsync(workspace_->data(), from, bytes, cudaMemcpyHostToDevice, s), "pack");
      launch_round(s, workspace_->data(), part.type, static_cast<std::byte*>(weights->rows().data) + 2 * (done + first),
                   count);
      check_cuda(cudaStreamSynchronize(s), "pack");
      if (read) read({from, bytes});
    }
    done += numbers;
  }
  return weights;
}

const linear_layers::product& linear_layers::product_for(const shape& key) {
  auto& made = products_[key];
  if (!made) made = std::make_unique<product>(static_cast<cublasLtHandle_t>(handle_), key);
  return *made;
}

linear_layers::shape linear_layers::shape_of(const matrix& x, const matrix& weights, const float* bias,
                                             const matrix& out, bool accumulate) {
  return {x.rows,
          weights.rows,
          weights.columns,
          x.stride,
          out.stride,
          out.type == element_type::f32,
          bias != nullptr,
          accumulate,
          alignment_of(x.data),
          alignment_of(out.data)};
}

bool linear_layers::multiply(stream_handle s, const matrix& x, const matrix& weights, const float* bias,
                             const matrix& out, bool accumulate) {
  const product& found = product_for(shape_of(x, weights, bias, out, accumulate));
  if (!found.exists()) return false;
  found.run(static_cast<cublasLtHandle_t>(handle_), s, weights.data, x.data, bias, out.data, workspace_->data());
  return true;
}

void linear_layers::prepare(const matrix& x, const packed_weights& w, const float* bias, const matrix& out,
                            bool accumulate) {
  const matrix weights = rows_of(w);
  if (x.rows > 0 && !takes_matvec(x, weights, out))
    static_cast<void>(product_for(shape_of(x, weights, bias, out, accumulate)));
}

void linear_layers::run(stream_handle s, const matrix& x, const packed_weights& w, const float* bias, const matrix& out,
                        bool accumulate) {
  const matrix weights = rows_of(w);
  require(x.type == element_type::bf16 && x.columns == w.inputs(), "linear",
          "inputs of the weights' width in activation type");
  require(out.rows == x.rows && out.columns == w.outputs(), "linear",
          "outputs for each row of inputs, of the weights' height");
  if (x.rows == 0) return;
  if (takes_matvec(x, weights, out)) return launch_matvec(s, x, weights, bias, out, accumulate);
  if (multiply(s, x, weights, bias, out, accumulate)) return;

  // No such kernel, as perhaps with fp32 biases of bf16 results: the product waits in fp32, some rows at a time.
  auto* const waiting = workspace_->data() + product_bytes;
  const std::int64_t step = static_cast<std::int64_t>(product_bytes / 4) / out.columns;
  require(step > 0, "linear", "fewer outputs");
  for (std::int64_t first = 0; first < x.rows; first += step) {
    const std::int64_t count = std::min(step, x.rows - first);
    const matrix sums{waiting, element_type::f32, count, out.columns, out.columns};
    const matrix some = x.slice_rows(first, count);
    if (multiply(s, some, weights, nullptr, sums, false)) {
      launch_add(s, sums, bias, out.slice_rows(first, count), accumulate);
    } else {
      launch_plain_product(s, some, weights, bias, out.slice_rows(first, count), accumulate);
    }
  }
}

}  // namespace baton::cuda
