#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/check.hpp"
#include "kernels/tensor.hpp"

/// What all kernels share: numbers by the vector, sums over a warp or a block in a fixed order, and how a launch is cut.
namespace baton::cuda {

using bf16 = __nv_bfloat16;

constexpr unsigned all_lanes = 0xffffffffu;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

/// `N` numbers that are read and written at once. The address is a multiple of their size.
template <class T, int N>
struct alignas(sizeof(T) * N) vector_of {
  T numbers[N];
};

/// Reads `N` numbers as fp32.
template <int N, class T>
__device__ inline void load(const T* from, float (&to)[N]) {
  const auto packed = *reinterpret_cast<const vector_of<T, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = to_float(packed.numbers[i]);
}

template <int N, class T>
__device__ inline void store(T* to, const float (&from)[N]) {
  vector_of<T, N> packed;
#pragma unroll
  for (int i = 0; i < N; ++i) packed.numbers[i] = from_float<T>(from[i]);
  *reinterpret_cast<vector_of<T, N>*>(to) = packed;
}

/// The sum over a warp, known to every lane.
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(all_lanes, x, lanes);
  return x;
}

/// The sum over a block of at most 1024 threads, a multiple of 32, known to all. `shared` has 32 numbers; a second call needs a
/// barrier before it.
__device__ inline float block_sum(float x, float* shared) {
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : 0.0f);
}

/// Where the numbers of a matrix may be read by vectors of `count`: base, stride and width are multiples.
inline bool by_vectors(const matrix& m, std::int64_t count) {
  return m.columns % count == 0 && m.stride % count == 0 &&
         reinterpret_cast<std::uintptr_t>(m.data) % static_cast<std::uintptr_t>(count * bytes_of(m.type)) == 0;
}

/// The launch behind this one may begin: what it does before it waits overlaps with what this one does from now on.
__device__ inline void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

/// What was launched before is done, and what it wrote is there. Before this, a kernel that launch_overlapping launched reads nothing
/// but what never changes, such as weights, and writes nothing.
__device__ inline void wait_for_dependencies() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}

/// Whether the current device can begin a launch while the one before it ends.
inline bool overlaps_launches() {
  int device = 0;
  int major = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  return major >= 9;
}

/// Launches a kernel that calls wait_for_dependencies in every thread. Errors are left to check_launch.
template <class... Parameters, class... Arguments>
void launch_overlapping(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared_bytes,
                        cudaStream_t s, Arguments&&... arguments) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t how{};
  how.gridDim = grid;
  how.blockDim = dim3(threads);
  how.dynamicSmemBytes = shared_bytes;
  how.stream = s;
  how.attrs = &overlap;
  how.numAttrs = overlaps_launches() ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&how, kernel, static_cast<Parameters>(arguments)...), "cudaLaunchKernelEx");
}

inline unsigned blocks_for(std::int64_t items, std::int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

}  // namespace baton::cuda
