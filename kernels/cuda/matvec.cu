#include <type_traits>

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/matvec.hpp"

namespace baton::cuda {
namespace {

constexpr int threads = 128;

__device__ inline float dot_of(const uint4& a, const uint4& b, float sum) {
  const auto* x = reinterpret_cast<const __nv_bfloat162*>(&a);
  const auto* y = reinterpret_cast<const __nv_bfloat162*>(&b);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 u = __bfloat1622float2(x[i]);
    const float2 v = __bfloat1622float2(y[i]);
    sum = fmaf(u.x, v.x, sum);
    sum = fmaf(u.y, v.y, sum);
  }
  return sum;
}

/// A warp per output; its lanes read 16 bytes of the weights' row each, four times before the first is used, and for the first time
/// before what the launch depends on is done.
template <class T, int rows>
__global__ void __launch_bounds__(threads)
    matvec_kernel(const bf16* x, std::int64_t x_stride, const bf16* weights, std::int64_t outputs, std::int64_t inputs,
                  const float* bias, T* out, std::int64_t out_stride, bool accumulate) {
  constexpr int unroll = 4;
  const std::int64_t output = (std::int64_t{blockIdx.x} * threads + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  launch_dependents();
  const auto* const from = reinterpret_cast<const uint4*>(weights + output * inputs);
  const int vectors = output < outputs ? static_cast<int>(inputs / 8) : 0;
  uint4 w[unroll];
  const auto read = [&](int first) {
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      if (first + u * 32 < vectors) w[u] = __ldcs(from + first + u * 32);
    }
  };
  read(lane);
  wait_for_dependencies();
  if (output >= outputs) return;
  float sums[rows] = {};
  for (int first = lane; first < vectors;) {
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      if (first + u * 32 >= vectors) continue;
#pragma unroll
      for (int row = 0; row < rows; ++row) {
        const uint4 numbers = *(reinterpret_cast<const uint4*>(x + row * x_stride) + first + u * 32);
        sums[row] = dot_of(w[u], numbers, sums[row]);
      }
    }
    first += 32 * unroll;
    read(first);
  }
#pragma unroll
  for (int row = 0; row < rows; ++row) {
    float sum = warp_sum(sums[row]);
    if (lane != 0) continue;
    T* const to = out + row * out_stride + output;
    if (bias != nullptr) sum += bias[output];
    if (accumulate) sum += to_float(*to);
    *to = from_float<T>(sum);
  }
}

// One row of at least a block's vectors: a block for one or two outputs reads their weights at once.
constexpr int row_threads = 256;
constexpr int row_vectors_max = 8;  // of a thread

/// All of a thread's weights are on their way before what the launch depends on is done. Thread t takes vectors t, t + 256, … of each
/// output's row; its warp's sums are added in order.
template <class T, int outputs_at_once, int vectors_each>
__global__ void __launch_bounds__(row_threads)
    row_matvec_kernel(const bf16* x, const bf16* weights, std::int64_t outputs, int vectors, const float* bias, T* out,
                      bool accumulate) {
  constexpr int row_warps = row_threads / 32;
  __shared__ float parts[outputs_at_once][row_warps];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t first = std::int64_t{blockIdx.x} * outputs_at_once;
  launch_dependents();
  uint4 w[outputs_at_once][vectors_each];
#pragma unroll
  for (int k = 0; k < outputs_at_once; ++k) {
    const auto* const from = reinterpret_cast<const uint4*>(weights) + (first + k) * vectors;
#pragma unroll
    for (int v = 0; v < vectors_each; ++v) {
      const int i = v * row_threads + thread;
      if (i < vectors && first + k < outputs) w[k][v] = __ldcs(from + i);
    }
  }
  wait_for_dependencies();
  float sums[outputs_at_once] = {};
#pragma unroll
  for (int v = 0; v < vectors_each; ++v) {
    const int i = v * row_threads + thread;
    if (i >= vectors) continue;
    const uint4 numbers = reinterpret_cast<const uint4*>(x)[i];
#pragma unroll
    for (int k = 0; k < outputs_at_once; ++k) {
      if (first + k < outputs) sums[k] = dot_of(w[k][v], numbers, sums[k]);
    }
  }
#pragma unroll
  for (int k = 0; k < outputs_at_once; ++k) {
    const float sum = warp_sum(sums[k]);
    if (thread % 32 == 0) parts[k][thread / 32] = sum;
  }
  __syncthreads();
  const std::int64_t output = first + thread;
  if (thread >= outputs_at_once || output >= outputs) return;
  float sum = 0;
  for (int warp = 0; warp < row_warps; ++warp) sum += parts[thread][warp];
  if (bias != nullptr) sum += bias[output];
  if (accumulate) sum += to_float(out[output]);
  out[output] = from_float<T>(sum);
}

bool takes_row_matvec(const matrix& x) {
  const std::int64_t vectors = x.columns / 8;
  return x.rows == 1 && vectors >= row_threads && vectors <= row_vectors_max * row_threads;
}

template <class T>
void launch_row_matvec(stream_handle s, const matrix& x, const matrix& weights, const float* bias, const matrix& out,
                       bool accumulate) {
  const auto vectors = static_cast<int>(x.columns / 8);
  const auto run = [&](auto at_once, auto each) {
    launch_overlapping(row_matvec_kernel<T, at_once, each>, dim3(blocks_for(weights.rows, at_once)), row_threads, 0, s,
                       static_cast<const bf16*>(x.data), static_cast<const bf16*>(weights.data), weights.rows, vectors,
                       bias, static_cast<T*>(out.data), accumulate);
  };
  // 16 KiB on their way in a block, and more where a row is longer.
  constexpr std::integral_constant<int, 2> two;
  constexpr std::integral_constant<int, 1> one;
  switch ((vectors + row_threads - 1) / row_threads) {
    case 1: return run(two, one);
    case 2: return run(two, two);
    case 3: return run(one, std::integral_constant<int, 3>{});
    case 4: return run(one, std::integral_constant<int, 4>{});
    case 5: return run(one, std::integral_constant<int, 5>{});
    case 6: return run(one, std::integral_constant<int, 6>{});
    case 7: return run(one, std::integral_constant<int, 7>{});
    default: return run(one, std::integral_constant<int, row_vectors_max>{});
  }
}

/// A warp per row and output.
template <class T>
__global__ void __launch_bounds__(threads)
    plain_product_kernel(const bf16* x, std::int64_t x_stride, std::int64_t rows, const bf16* weights,
                         std::int64_t outputs, std::int64_t inputs, const float* bias, T* out, std::int64_t out_stride,
                         bool accumulate) {
  const std::int64_t index = (std::int64_t{blockIdx.x} * threads + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (index >= rows * outputs) return;
  const std::int64_t row = index / outputs;
  const std::int64_t output = index % outputs;
  float sum = 0;
  for (std::int64_t i = lane; i < inputs; i += 32) {
    sum = fmaf(to_float(x[row * x_stride + i]), to_float(weights[output * inputs + i]), sum);
  }
  sum = warp_sum(sum);
  if (lane != 0) return;
  T* const to = out + row * out_stride + output;
  if (bias != nullptr) sum += bias[output];
  if (accumulate) sum += to_float(*to);
  *to = from_float<T>(sum);
}

}  // namespace

bool takes_matvec(const matrix& x, const matrix& weights, const matrix& out) {
  return x.rows > 0 && x.rows <= matvec_rows_max && by_vectors(x, 8) && by_vectors(weights, 8) &&
         weights.stride == weights.columns && out.rows == x.rows;
}

void launch_matvec(stream_handle s, const matrix& x, const matrix& weights, const float* bias, const matrix& out,
                   bool accumulate) {
  require(takes_matvec(x, weights, out), "matvec", "few rows that vectors can read");
  if (takes_row_matvec(x)) {
    if (out.type == element_type::f32) {
      launch_row_matvec<float>(s, x, weights, bias, out, accumulate);
    } else {
      launch_row_matvec<bf16>(s, x, weights, bias, out, accumulate);
    }
    return check_launch("matvec");
  }
  const auto run = [&](auto number, auto count) {
    using T = decltype(number);
    constexpr int rows = count;
    launch_overlapping(matvec_kernel<T, rows>, dim3(blocks_for(weights.rows, threads / 32)), threads, 0, s,
                       static_cast<const bf16*>(x.data), x.stride, static_cast<const bf16*>(weights.data), weights.rows,
                       weights.columns, bias, static_cast<T*>(out.data), out.stride, accumulate);
  };
  const auto with_rows = [&](auto number) {
    switch (x.rows) {
      case 1: return run(number, std::integral_constant<int, 1>{});
      case 2: return run(number, std::integral_constant<int, 2>{});
      case 3: return run(number, std::integral_constant<int, 3>{});
      default: return run(number, std::integral_constant<int, 4>{});
    }
  };
  if (out.type == element_type::f32) {
    with_rows(float{});
  } else {
    with_rows(bf16{});
  }
  check_launch("matvec");
}

void launch_plain_product(stream_handle s, const matrix& x, const matrix& weights, const float* bias, const matrix& out,
                          bool accumulate) {
  const unsigned blocks = blocks_for(x.rows * weights.rows, threads / 32);
  const auto run = [&](auto number) {
    using T = decltype(number);
    plain_product_kernel<T><<<blocks, threads, 0, s>>>(
        static_cast<const bf16*>(x.data), x.stride, x.rows, static_cast<const bf16*>(weights.data), weights.rows,
        weights.columns, bias, static_cast<T*>(out.data), out.stride, accumulate);
  };
  if (out.type == element_type::f32) {
    run(float{});
  } else {
    run(bf16{});
  }
  check_launch("plain_product");
}

}  // namespace baton::cuda
