#include <limits>

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/ranking.cuh"
#include "kernels/cuda/sampling.hpp"

namespace baton::cuda {
namespace {

using weight_type = unsigned long long;

constexpr int threads = 1024;
constexpr double whole_weight = 17592186044416.0;  // 2^44: a million of them fit 64 bits

/// The greatest over the block, known to all threads. `shared` has 32 numbers.
__device__ std::uint64_t block_max(std::uint64_t x, std::uint64_t* shared) {
  const auto warp_max = [](std::uint64_t value) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      const std::uint64_t other = __shfl_xor_sync(all_lanes, static_cast<unsigned long long>(value), lanes);
      value = other > value ? other : value;
    }
    return value;
  };
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = warp_max(shared[threadIdx.x % 32]);
  __syncthreads();
  return x;
}

/// The best id: the greatest logit, of equal ones the lower id.
__device__ std::uint32_t best_id(const float* logits, std::int64_t vocabulary, std::uint64_t* shared) {
  std::uint64_t best = 0;
  for (std::int64_t i = threadIdx.x; i < vocabulary; i += threads) {
    const std::uint64_t ranking =
        std::uint64_t{order_of(logits[i])} << 32 | static_cast<std::uint32_t>(~static_cast<std::uint32_t>(i));
    best = ranking > best ? ranking : best;
  }
  return ~static_cast<std::uint32_t>(block_max(best, shared));
}

__global__ void __launch_bounds__(threads)
    sample_greedy_kernel(const float* logits, std::int64_t vocabulary, std::int32_t* token) {
  __shared__ std::uint64_t shared[32];
  const std::uint32_t best = best_id(logits, vocabulary, shared);
  if (threadIdx.x == 0) *token = static_cast<std::int32_t>(best);
}

struct found_place {
  std::uint32_t order;  ///< of the ids at this place
  weight_type before;   ///< the weight of all better ids
};

/// The first place, best first, at which the weight up to and with it reaches `goal` (> 0, and at most the whole weight): byte by
/// byte, from the weights of those that share the bytes so far. `sums` has 256 numbers; all threads get the result.
__device__ found_place place_of_weight(const weight_type* weights, const std::uint32_t* orders, std::int64_t vocabulary,
                                       weight_type goal, weight_type* sums, found_place& shared) {
  if (threadIdx.x == 0) shared = {0, 0};
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) sums[threadIdx.x] = 0;
    __syncthreads();
    const std::uint32_t known = shift == 24 ? 0 : ~std::uint32_t{0} << (shift + 8);
    const std::uint32_t prefix = shared.order;
    for (std::int64_t i = threadIdx.x; i < vocabulary; i += threads) {
      const std::uint32_t order = orders[i];
      if ((order & known) == prefix && weights[i] > 0) atomicAdd(&sums[order >> shift & 255], weights[i]);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      // The last place with any weight, should none reach the goal.
      int digit = 255;
      int last = 255;
      weight_type before = shared.before;
      weight_type last_before = before;
      for (; digit >= 0; --digit) {
        if (sums[digit] == 0) continue;
        last = digit;
        last_before = before;
        if (before + sums[digit] >= goal) break;
        before += sums[digit];
      }
      shared = {prefix | static_cast<std::uint32_t>(last) << shift, last_before};
    }
    __syncthreads();
  }
  const found_place found = shared;
  __syncthreads();
  return found;
}

__global__ void __launch_bounds__(threads)
    sample_top_p_kernel(const float* logits, std::int64_t vocabulary, float temperature, float top_p, float uniform,
                        std::int32_t* token, weight_type* weights, std::uint32_t* orders) {
  __shared__ std::uint64_t maxima[32];
  __shared__ weight_type sums[256];
  __shared__ weight_type total;
  __shared__ weight_type weight_here;
  __shared__ found_place place;
  __shared__ ordered_counter ties_so_far;
  const std::uint32_t best = best_id(logits, vocabulary, maxima);
  const double largest = static_cast<double>(logits[best]);
  if (threadIdx.x == 0) {
    total = 0;
    *token = static_cast<std::int32_t>(best);
  }
  __syncthreads();
  weight_type own = 0;
  for (std::int64_t i = threadIdx.x; i < vocabulary; i += threads) {
    const double below = static_cast<double>(logits[i]) - largest;
    weights[i] =
        isnan(below) ? 0 : static_cast<weight_type>(exp(below / static_cast<double>(temperature)) * whole_weight + 0.5);
    orders[i] = order_of(logits[i]);
    own += weights[i];
  }
  if (own > 0) atomicAdd(&total, own);
  __syncthreads();
  if (total == 0) return;

  // The nucleus: the smallest set of best ids that is probable enough.
  const double share = ceil(static_cast<double>(top_p) * static_cast<double>(total));
  weight_type goal = share >= static_cast<double>(total) ? total : static_cast<weight_type>(share);
  if (goal == 0) goal = 1;
  const auto weight_at = [&](std::uint32_t order) {
    // Ids of one order have one weight: any of them says it.
    for (std::int64_t i = threadIdx.x; i < vocabulary; i += threads) {
      if (orders[i] == order) weight_here = weights[i];
    }
    __syncthreads();
    const weight_type weight = weight_here;
    __syncthreads();
    return weight;
  };
  const found_place end = place_of_weight(weights, orders, vocabulary, goal, sums, place);
  const weight_type end_weight = weight_at(end.order);
  const weight_type nucleus = end.before + (goal - end.before + end_weight - 1) / end_weight * end_weight;

  // The first id of the nucleus with which more than `uniform` of its weight has passed.
  const weight_type passed = static_cast<weight_type>(static_cast<double>(uniform) * static_cast<double>(nucleus));
  goal = passed >= nucleus ? nucleus : passed + 1;
  const found_place drawn = place_of_weight(weights, orders, vocabulary, goal, sums, place);
  const weight_type drawn_weight = weight_at(drawn.order);
  const auto tie = static_cast<int>((goal - drawn.before - 1) / drawn_weight);
  if (threadIdx.x == 0) ties_so_far.before = 0;
  __syncthreads();
  for (std::int64_t first = 0; first < vocabulary; first += threads) {
    const std::int64_t id = first + threadIdx.x;
    const bool here = id < vocabulary && orders[id] == drawn.order;
    if (place_among_chosen(here, ties_so_far) == tie && here) *token = static_cast<std::int32_t>(id);
  }
}

void require_logits(const matrix& logits, const char* kernel) {
  require(logits.type == element_type::f32 && logits.rows == 1 && logits.columns > 0 &&
              logits.columns <= std::numeric_limits<std::int32_t>::max(),
          kernel, "one row of fp32 logits");
}

}  // namespace

void launch_sample_greedy(stream_handle s, const matrix& logits, std::int32_t* token) {
  require_logits(logits, "sample_greedy");
  sample_greedy_kernel<<<1, threads, 0, s>>>(static_cast<const float*>(logits.data), logits.columns, token);
  check_launch("sample_greedy");
}

void launch_sample_top_p(stream_handle s, const matrix& logits, float temperature, float top_p, float uniform,
                         std::int32_t* token, std::byte* workspace) {
  require_logits(logits, "sample_top_p");
  require(temperature > 0, "sample_top_p", "a temperature above 0");
  require(top_p > 0 && top_p <= 1, "sample_top_p", "a top_p in (0, 1]");
  require(uniform >= 0 && uniform < 1, "sample_top_p", "a uniform number in [0, 1)");
  require(logits.columns <= 1 << 20, "sample_top_p", "a vocabulary of at most a million");
  auto* const weights = reinterpret_cast<weight_type*>(workspace);
  auto* const orders = reinterpret_cast<std::uint32_t*>(weights + logits.columns);
  sample_top_p_kernel<<<1, threads, 0, s>>>(static_cast<const float*>(logits.data), logits.columns, temperature, top_p,
                                            uniform, token, weights, orders);
  check_launch("sample_top_p");
}

}  // namespace baton::cuda
