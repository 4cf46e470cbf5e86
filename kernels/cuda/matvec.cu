#include <type_traits>

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/matvec.hpp"

namespace baton::cuda {
namespace {

constexpr int threads = 128;
constexpr int unroll = 4;

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

/// A warp per output; its lanes read 16 bytes of the weights' row each, four times before the first is used.
template <class T, int rows>
__global__ void __launch_bounds__(threads)
    matvec_kernel(const bf16* x, std::int64_t x_stride, const bf16* weights, std::int64_t outputs, std::int64_t inputs,
                  const float* bias, T* out, std::int64_t out_stride, bool accumulate) {
  const std::int64_t output = (std::int64_t{blockIdx.x} * threads + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (output >= outputs) return;
  const auto* const from = reinterpret_cast<const uint4*>(weights + output * inputs);
  const auto vectors = static_cast<int>(inputs / 8);
  float sums[rows] = {};
  for (int first = lane; first < vectors; first += 32 * unroll) {
    uint4 w[unroll];
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      if (first + u * 32 < vectors) w[u] = __ldcs(from + first + u * 32);
    }
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      if (first + u * 32 >= vectors) continue;
#pragma unroll
      for (int row = 0; row < rows; ++row) {
        const uint4 numbers = *(reinterpret_cast<const uint4*>(x + row * x_stride) + first + u * 32);
        sums[row] = dot_of(w[u], numbers, sums[row]);
      }
    }
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
  const auto run = [&](auto number, auto count) {
    using T = decltype(number);
    constexpr int rows = count;
    matvec_kernel<T, rows><<<blocks_for(weights.rows, threads / 32), threads, 0, s>>>(
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
