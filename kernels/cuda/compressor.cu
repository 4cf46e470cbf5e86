#include <limits>
#include <type_traits>

#include "kernels/cuda/compressor.hpp"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/ranking.cuh"
#include "kernels/random_score.hpp"

namespace baton::cuda {
namespace {

constexpr int threads = 256;

template <class T>
struct matrix_of {
  T* data;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t stride;
};
matrix_of<float> fp32(const matrix& m) { return {static_cast<float*>(m.data), m.rows, m.columns, m.stride}; }

/// A block per KV head and 32 columns: 8 warps take every eighth row (token and head of the group), and are added in order.
template <class T>
__global__ void mean_query_kernel(const T* q, std::int64_t stride, std::int64_t tokens, int group, int dim,
                                  matrix_of<float> out) {
  __shared__ float sums[8][32];
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const std::int64_t kv_head = blockIdx.x;
  const int column = static_cast<int>(blockIdx.y) * 32 + lane;
  const std::int64_t rows = tokens * group;
  float sum = 0;
  if (column < dim) {
    for (std::int64_t row = warp; row < rows; row += 8) {
      sum += to_float(q[row / group * stride + (kv_head * group + row % group) * dim + column]);
    }
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= dim) return;
  float total = 0;
#pragma unroll
  for (int w = 0; w < 8; ++w) total += sums[w][lane];
  out.data[kv_head * out.stride + column] = total / static_cast<float>(rows > 0 ? rows : 1);
}

/// A warp per token and KV head.
template <class T, int N>
__global__ void score_keys_kernel(const T* keys, std::int64_t stride, int heads, int dim, matrix_of<float> mean,
                                  matrix_of<float> scores) {
  const std::int64_t index = (std::int64_t{blockIdx.x} * threads + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (index >= scores.rows * heads) return;
  const std::int64_t token = index / heads;
  const std::int64_t head = index % heads;
  const T* from = keys + token * stride + head * dim;
  const float* mean_row = mean.data + head * mean.stride;
  float sum = 0;
  for (int i = lane * N; i < dim; i += 32 * N) {
    float numbers[N];
    load(from + i, numbers);
#pragma unroll
    for (int n = 0; n < N; ++n) sum += numbers[n] * mean_row[i + n];
  }
  sum = warp_sum(sum);
  if (lane == 0) scores.data[token * scores.stride + head] = sum;
}

/// Scores[t, g] = function(t, g).
template <class Function>
__global__ void fill_scores_kernel(matrix_of<float> scores, Function function) {
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (index >= scores.rows * scores.columns) return;
  const std::int64_t token = index / scores.columns;
  const std::int64_t head = index % scores.columns;
  scores.data[token * scores.stride + head] = function(token, head);
}

struct recent_score {
  __device__ float operator()(std::int64_t token, std::int64_t) const { return static_cast<float>(token); }
};
struct random_score_of {
  std::uint64_t seed;  // mixed
  int layer;
  std::int64_t first_token;
  __device__ float operator()(std::int64_t token, std::int64_t head) const {
    return random_score(seed, layer, static_cast<int>(head), first_token + token);
  }
};
struct pooled_score {
  matrix_of<float> scores;
  __device__ float operator()(std::int64_t token, std::int64_t head) const {
    float best = -INFINITY;
    for (std::int64_t near = token < 2 ? 0 : token - 2; near <= token + 2 && near < scores.rows; ++near) {
      const float x = scores.data[near * scores.stride + head];
      best = x > best ? x : best;
    }
    return best;
  }
};

template <class Function>
void fill_scores(stream_handle s, const matrix& scores, Function function, const char* kernel) {
  if (scores.rows == 0 || scores.columns == 0) return;
  fill_scores_kernel<<<blocks_for(scores.rows * scores.columns, threads), threads, 0, s>>>(fp32(scores), function);
  check_launch(kernel);
}

__global__ void order_scores_kernel(matrix_of<float> scores, std::int64_t eligible_from, std::uint32_t* orders) {
  const std::int64_t eligible = scores.rows - eligible_from;
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (index >= eligible * scores.columns) return;
  // Reading goes by rows, as the scores stand; writing by heads.
  const std::int64_t token = index / scores.columns;
  const std::int64_t head = index % scores.columns;
  orders[head * eligible + token] = order_of(scores.data[(eligible_from + token) * scores.stride + head]);
}

/// A block per KV head: the order of the last that is chosen is found byte by byte, from counts of those that share the bytes so
/// far. Counting in shared memory is exact in whatever order it happens.
__global__ void __launch_bounds__(1024)
    select_top_kernel(const std::uint32_t* all_orders, std::int64_t eligible, std::int64_t eligible_from,
                      std::int64_t count, std::int32_t* all_indices) {
  __shared__ unsigned counts[256];
  __shared__ std::uint32_t threshold;
  __shared__ unsigned wanted;
  __shared__ ordered_counter chosen_so_far;
  __shared__ ordered_counter ties_so_far;
  const std::uint32_t* orders = all_orders + std::int64_t{blockIdx.x} * eligible;
  std::int32_t* indices = all_indices + std::int64_t{blockIdx.x} * count;
  const unsigned thread = threadIdx.x;
  if (thread == 0) {
    threshold = 0;
    wanted = static_cast<unsigned>(count);  // of those that share the threshold's bytes so far
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (thread < 256) counts[thread] = 0;
    __syncthreads();
    const std::uint32_t known = shift == 24 ? 0 : ~std::uint32_t{0} << (shift + 8);
    const std::uint32_t prefix = threshold;
    for (std::int64_t i = thread; i < eligible; i += 1024) {
      const std::uint32_t order = orders[i];
      if ((order & known) == prefix) atomicAdd(&counts[order >> shift & 255], 1u);
    }
    __syncthreads();
    if (thread == 0) {
      int digit = 255;
      while (digit > 0 && counts[digit] < wanted) wanted -= counts[digit--];
      threshold = prefix | static_cast<std::uint32_t>(digit) << shift;
    }
    __syncthreads();
  }
  // All above the threshold, and of those that equal it the first `wanted`, in the order of tokens.
  if (thread == 0) chosen_so_far.before = ties_so_far.before = 0;
  __syncthreads();
  const std::uint32_t last = threshold;
  const int ties = static_cast<int>(wanted);
  for (std::int64_t first = 0; first < eligible; first += 1024) {
    const std::int64_t token = first + thread;
    const std::uint32_t order = token < eligible ? orders[token] : 0;
    const bool ties_here = token < eligible && order == last;
    const int tie = place_among_chosen(ties_here, ties_so_far);
    const bool chosen = token < eligible && (order > last || (ties_here && tie < ties));
    const int place = place_among_chosen(chosen, chosen_so_far);
    if (chosen) indices[place] = static_cast<std::int32_t>(eligible_from + token);
  }
}

template <class T, int N>
__global__ void gather_kernel(const T* x, std::int64_t x_tokens, std::int64_t x_stride, const std::int32_t* indices,
                              T* out, std::int64_t out_stride, std::int64_t units, int heads, int dim) {
  const int vectors = dim / N;
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (index >= units * heads * vectors) return;
  const int i = static_cast<int>(index % vectors) * N;
  const std::int64_t head = index / vectors % heads;
  const std::int64_t unit = index / vectors / heads;
  const std::int32_t token = indices[head * units + unit];
  vector_of<T, N> numbers;
  if (token >= 0 && token < x_tokens) {
    numbers = *reinterpret_cast<const vector_of<T, N>*>(x + token * x_stride + head * dim + i);
  } else {
#pragma unroll
    for (int n = 0; n < N; ++n) numbers.numbers[n] = from_float<T>(NAN);
  }
  *reinterpret_cast<vector_of<T, N>*>(out + unit * out_stride + head * dim + i) = numbers;
}

/// A head's numbers, as what by_vectors looks at.
matrix one_head(const head_matrix& x) { return {x.data, x.type, x.tokens, x.dim, x.stride}; }

}  // namespace

void launch_mean_query(stream_handle s, const head_matrix& q, const matrix& out) {
  require(out.type == element_type::f32 && out.columns == q.dim, "mean_query", "an fp32 output as wide as a head");
  require(out.rows > 0 && q.heads % out.rows == 0, "mean_query", "a whole number of query heads per KV head");
  const dim3 grid(static_cast<unsigned>(out.rows), blocks_for(q.dim, 32));
  const int group = q.heads / static_cast<int>(out.rows);
  if (q.type == element_type::bf16) {
    mean_query_kernel<<<grid, threads, 0, s>>>(static_cast<const bf16*>(q.data), q.stride, q.tokens, group, q.dim,
                                               fp32(out));
  } else {
    mean_query_kernel<<<grid, threads, 0, s>>>(static_cast<const float*>(q.data), q.stride, q.tokens, group, q.dim,
                                               fp32(out));
  }
  check_launch("mean_query");
}

void launch_score_keys(stream_handle s, const head_matrix& keys, const matrix& mean_query, const matrix& scores) {
  require(scores.type == element_type::f32 && scores.rows == keys.tokens && scores.columns == keys.heads, "score_keys",
          "an fp32 score per key and KV head");
  require(mean_query.type == element_type::f32 && mean_query.rows == keys.heads && mean_query.columns == keys.dim,
          "score_keys", "an fp32 mean query per KV head");
  if (keys.tokens == 0) return;
  const unsigned blocks = blocks_for(keys.tokens * keys.heads, threads / 32);
  const auto run = [&](auto number, auto vector) {
    using T = decltype(number);
    constexpr int N = vector;
    score_keys_kernel<T, N><<<blocks, threads, 0, s>>>(static_cast<const T*>(keys.data), keys.stride, keys.heads,
                                                       keys.dim, fp32(mean_query), fp32(scores));
  };
  const bool fits = by_vectors(one_head(keys), 4);
  if (keys.type == element_type::f32) {
    run(float{}, std::integral_constant<int, 1>{});
  } else if (fits) {
    run(bf16{}, std::integral_constant<int, 4>{});
  } else {
    run(bf16{}, std::integral_constant<int, 1>{});
  }
  check_launch("score_keys");
}

void launch_score_recent(stream_handle s, const matrix& scores) {
  require(scores.type == element_type::f32, "score_recent", "fp32 scores");
  fill_scores(s, scores, recent_score{}, "score_recent");
}

void launch_score_random(stream_handle s, std::uint64_t seed, int layer, std::int64_t first_token,
                         const matrix& scores) {
  require(scores.type == element_type::f32, "score_random", "fp32 scores");
  fill_scores(s, scores, random_score_of{seed, layer, first_token}, "score_random");
}

void launch_max_pool(stream_handle s, const matrix& scores, const matrix& out) {
  require(scores.type == element_type::f32 && out.type == element_type::f32, "max_pool", "fp32 scores");
  require(scores.rows == out.rows && scores.columns == out.columns, "max_pool", "an output like its input");
  fill_scores(s, out, pooled_score{fp32(scores)}, "max_pool");
}

void launch_select_top(stream_handle s, const matrix& scores, std::int64_t eligible_from, std::int64_t count,
                       std::int32_t* indices, std::byte* workspace) {
  const std::int64_t eligible = scores.rows - eligible_from;
  require(scores.type == element_type::f32, "select_top", "fp32 scores");
  require(scores.rows <= std::numeric_limits<std::int32_t>::max(), "select_top", "indices of 31 bits");
  require(eligible_from >= 0 && count >= 0 && (count == 0 || count <= eligible), "select_top",
          "a count of at most the eligible tokens");
  if (count == 0) return;
  auto* const orders = reinterpret_cast<std::uint32_t*>(workspace);
  order_scores_kernel<<<blocks_for(eligible * scores.columns, threads), threads, 0, s>>>(fp32(scores), eligible_from,
                                                                                         orders);
  select_top_kernel<<<static_cast<unsigned>(scores.columns), 1024, 0, s>>>(orders, eligible, eligible_from, count,
                                                                           indices);
  check_launch("select_top");
}

void launch_gather(stream_handle s, const head_matrix& x, const std::int32_t* indices, const head_matrix& out) {
  require(x.type == out.type && x.heads == out.heads && x.dim == out.dim, "gather", "an output of x's type and heads");
  if (out.tokens == 0) return;
  const auto run = [&](auto number, auto vector) {
    using T = decltype(number);
    constexpr int N = vector;
    gather_kernel<T, N><<<blocks_for(out.tokens * out.heads * (out.dim / N), threads), threads, 0, s>>>(
        static_cast<const T*>(x.data), x.tokens, x.stride, indices, static_cast<T*>(out.data), out.stride, out.tokens,
        out.heads, out.dim);
  };
  const bool fits = by_vectors(one_head(x), 8) && by_vectors(one_head(out), 8);
  if (x.type == element_type::f32) {
    run(float{}, std::integral_constant<int, 1>{});
  } else if (fits) {
    run(bf16{}, std::integral_constant<int, 8>{});
  } else {
    run(bf16{}, std::integral_constant<int, 1>{});
  }
  check_launch("gather");
}

}  // namespace baton::cuda
