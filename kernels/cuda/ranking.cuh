#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace baton::cuda {

/// An integer that is the greater, the greater the score. A NaN is below -infinity; 0 and -0 are equal.
__device__ inline std::uint32_t order_of(float score) {
  if (isnan(score)) return 0;
  const std::uint32_t bits = __float_as_uint(score + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/// What one block of 1024 threads needs to count over a long row in the row's order.
struct ordered_counter {
  int of_warp[32];
  int before;  ///< those found so far
};

/// How many of this block's items before this thread's are chosen, on top of counter.before, which grows by all of them. Called by
/// all 1024 threads; `before` was set, and a barrier passed.
__device__ inline int place_among_chosen(bool chosen, ordered_counter& counter) {
  const unsigned lane = threadIdx.x % 32;
  const unsigned warp = threadIdx.x / 32;
  const unsigned votes = __ballot_sync(0xffffffffu, chosen);
  if (lane == 0) counter.of_warp[warp] = __popc(votes);
  __syncthreads();
  const int own = counter.of_warp[lane];
  int up_to = own;
#pragma unroll
  for (unsigned lanes = 1; lanes < 32; lanes *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, up_to, lanes);
    if (lane >= lanes) up_to += other;
  }
  const int before_warp = __shfl_sync(0xffffffffu, up_to - own, static_cast<int>(warp));
  const int all = __shfl_sync(0xffffffffu, up_to, 31);
  const int place = counter.before + before_warp + __popc(votes & ((1u << lane) - 1));
  __syncthreads();
  if (threadIdx.x == 0) counter.before += all;
  __syncthreads();
  return place;
}

}  // namespace baton::cuda
