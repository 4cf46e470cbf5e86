#include <algorithm>
#include <type_traits>

#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/block_attention.hpp"
#include "kernels/cuda/decode_attention.hpp"

namespace baton::cuda {
namespace {

constexpr int warps = 4;
constexpr int threads = 32 * warps;
constexpr int row_tile = 16;
constexpr int key_tile = 32;  // of a warp

struct few_arguments {
  const bf16* q;
  std::int64_t q_stride;
  std::int64_t queries;
  const bf16* keys;
  std::int64_t key_stride;
  const bf16* values;
  std::int64_t value_stride;
  std::int64_t keys_in_use;
  bool causal;
  std::int64_t first_query;
  const std::int32_t* first_query_at;
  float scale_log2;
  std::int64_t split_keys;
  int group;
  int heads;
  int width;
  bool vectors;
  bool settled;
  // Of split i: out + i * out_split, and so on.
  float* out;
  std::int64_t out_split;
  std::int64_t out_stride;
  float* log_sum_exp;
  std::int64_t lse_split;
  std::int64_t lse_stride;
};

template <int dim>
constexpr int shared_bytes = (row_tile * tile_stride<dim> + warps * 2 * key_tile * tile_stride<dim>)*2;

/// A block computes 16 rows (queries times the heads of a KV head's group) over one split of the keys. Its warps take tiles of 32
/// keys in turn, each for itself, and are merged in order at the end. Their first tiles are on their way before the queries are there,
/// and, where keys and values are settled, before what the launch depends on is done.
template <int dim>
__global__ void __launch_bounds__(threads) attend_few_kernel(const few_arguments a) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto* const queries = reinterpret_cast<bf16*>(shared);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int lane = thread % 32;
  bf16* const keys = queries + row_tile * tile_stride<dim> + warp * 2 * key_tile * tile_stride<dim>;
  bf16* const values = keys + key_tile * tile_stride<dim>;
  launch_dependents();
  if (!a.settled) wait_for_dependencies();
  const std::int64_t split = blockIdx.x;
  const int kv_head = static_cast<int>(blockIdx.y);
  const std::int64_t first_row = std::int64_t{blockIdx.z} * row_tile;
  const std::int64_t rows = a.queries * a.group;

  const std::int64_t first_query = a.first_query + (a.first_query_at == nullptr ? 0 : *a.first_query_at);
  const std::int64_t last_query = (min(first_row + row_tile, rows) - 1) / a.group;
  const std::int64_t seen_end = a.causal ? min(a.keys_in_use, first_query + last_query + 1) : a.keys_in_use;
  const std::int64_t end = min((split + 1) * a.split_keys, seen_end);
  const head_rows key_rows{a.keys + std::int64_t{kv_head} * a.width, a.key_stride};
  const head_rows value_rows{a.values + std::int64_t{kv_head} * a.width, a.value_stride};
  const auto load_keys = [&](std::int64_t from) {
    if (from < end) load_tile<dim>(keys, key_rows, from, key_tile, end, a.width, a.vectors, lane, 32);
    copies_begin();
  };
  const auto load_values = [&](std::int64_t from) {
    if (from < end) load_tile<dim>(values, value_rows, from, key_tile, end, a.width, a.vectors, lane, 32);
    copies_begin();
  };
  const std::int64_t first_key = split * a.split_keys + warp * key_tile;
  load_keys(first_key);
  load_values(first_key);
  if (a.settled) wait_for_dependencies();

  // Row r is query r / group, head r % group of the group.
  for (int i = thread; i < row_tile * dim; i += threads) {
    const std::int64_t row = first_row + i / dim;
    const int column = i % dim;
    const std::int64_t head = std::int64_t{kv_head} * a.group + row % a.group;
    queries[i / dim * tile_stride<dim> + column] = row < rows && column < a.width
                                                       ? a.q[row / a.group * a.q_stride + head * a.width + column]
                                                       : __float2bfloat16_rn(0.0f);
  }
  __syncthreads();
  std::int64_t seen[2];
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const std::int64_t query = (first_row + lane / 4 + row * 8) / a.group;
    seen[row] = a.causal ? min(end, first_query + query + 1) : end;
  }

  float sums[dim / 8][4] = {};
  softmax_pair state;
  // A tile of keys or of values is always on its way while the other is multiplied.
  for (std::int64_t from = first_key; from < end; from += warps * key_tile) {
    copies_wait<1>();
    __syncwarp();
    float scores[key_tile / 8][4];
    score_tile<dim>(scores, queries, keys);
    __syncwarp();
    load_keys(from + warps * key_tile);
#pragma unroll
    for (int n = 0; n < key_tile / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (from + n * 8 + lane % 4 * 2 + i % 2 >= seen[i / 2]) scores[n][i] = -INFINITY;
      }
    }
    soften<dim>(scores, a.scale_log2, state, sums);
    copies_wait<1>();
    __syncwarp();
    add_values<dim, key_tile / 8, true>(sums, scores, values);
    __syncwarp();
    load_values(from + warps * key_tile);
  }
  copies_wait<0>();
  __syncwarp();

  // Each warp leaves its sums where its tiles were: (16, dim), then the largest and the sum of each row.
  auto* const left = reinterpret_cast<float*>(queries + row_tile * tile_stride<dim>);
  constexpr int left_stride = key_tile * tile_stride<dim>;  // in floats: as much as two tiles of bf16
  static_assert(row_tile * dim + 2 * row_tile <= left_stride);
  float* const own = left + warp * left_stride;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const int r = lane / 4 + row * 8;
    const float sum = row_sum(state.sum[row]);
    if (lane % 4 == 0) {
      own[row_tile * dim + r] = state.largest[row];
      own[row_tile * dim + row_tile + r] = sum;
    }
#pragma unroll
    for (int n = 0; n < dim / 8; ++n) {
      own[r * dim + n * 8 + lane % 4 * 2] = sums[n][2 * row];
      own[r * dim + n * 8 + lane % 4 * 2 + 1] = sums[n][2 * row + 1];
    }
  }
  __syncthreads();
  for (int i = thread; i < row_tile * dim; i += threads) {
    const int r = i / dim;
    const int column = i % dim;
    const std::int64_t row = first_row + r;
    if (row >= rows || column >= a.width) continue;
    float largest = -INFINITY;
#pragma unroll
    for (int w = 0; w < warps; ++w) largest = fmaxf(largest, left[w * left_stride + row_tile * dim + r]);
    float sum = 0;
    float x = 0;
    if (largest != -INFINITY) {
#pragma unroll
      for (int w = 0; w < warps; ++w) {
        const float* const from = left + w * left_stride;
        const float weight = exp2f(from[row_tile * dim + r] - largest);
        sum += from[row_tile * dim + row_tile + r] * weight;
        x += from[i] * weight;
      }
    }
    const std::int64_t query = row / a.group;
    const std::int64_t head = std::int64_t{kv_head} * a.group + row % a.group;
    a.out[split * a.out_split + query * a.out_stride + head * a.width + column] = sum > 0 ? x / sum : 0.0f;
    if (column == 0) {
      a.log_sum_exp[split * a.lse_split + query * a.lse_stride + head] =
          sum > 0 ? (largest + log2f(sum)) * ln_2 : -INFINITY;
    }
  }
}

struct partial {
  const float* out;
  const float* log_sum_exp;
  std::int64_t out_stride;
  std::int64_t lse_stride;
};
template <int capacity>
struct partials {
  partial parts[capacity];
  int count;
};

/// A warp per query and head merges the parts in order; T is the type of the output. Parts without keys are not read.
template <class T, int capacity, int N>
__global__ void merge_kernel(const __grid_constant__ partials<capacity> from, T* out, std::int64_t out_stride,
                             std::int64_t queries, int heads, int width) {
  launch_dependents();
  wait_for_dependencies();
  const std::int64_t index = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (index >= queries * heads) return;
  const std::int64_t query = index / heads;
  const int head = static_cast<int>(index % heads);
  float largest = -INFINITY;
  for (int i = 0; i < from.count; ++i) {
    largest = fmaxf(largest, from.parts[i].log_sum_exp[query * from.parts[i].lse_stride + head]);
  }
  float total = 0;
  for (int i = 0; i < from.count && largest != -INFINITY; ++i) {
    total += expf(from.parts[i].log_sum_exp[query * from.parts[i].lse_stride + head] - largest);
  }
  for (int column = lane * N; column < width; column += 32 * N) {
    float sum[N] = {};
    for (int i = 0; i < from.count && largest != -INFINITY; ++i) {
      const partial& part = from.parts[i];
      const float lse = part.log_sum_exp[query * part.lse_stride + head];
      if (lse == -INFINITY) continue;
      const float weight = expf(lse - largest);
      float numbers[N];
      load(part.out + query * part.out_stride + std::int64_t{head} * width + column, numbers);
#pragma unroll
      for (int n = 0; n < N; ++n) sum[n] += weight * numbers[n];
    }
#pragma unroll
    for (int n = 0; n < N; ++n) sum[n] = total > 0 ? sum[n] / total : 0.0f;
    store(out + query * out_stride + std::int64_t{head} * width + column, sum);
  }
}

/// Merges the splits of one launch, which stand at equal distances, in order. A block per query and head, a thread per column.
__global__ void __launch_bounds__(threads)
    combine_splits_kernel(const float* parts, const float* part_lse, int splits, std::int64_t queries, int heads,
                          int width, float* out, std::int64_t out_stride, float* log_sum_exp, std::int64_t lse_stride) {
  __shared__ float weights[splits_max];
  launch_dependents();
  wait_for_dependencies();
  const std::int64_t index = blockIdx.x;
  const std::int64_t rows = queries * heads;
  const std::int64_t query = index / heads;
  const int head = static_cast<int>(index % heads);
  for (int i = static_cast<int>(threadIdx.x); i < splits; i += threads) weights[i] = part_lse[i * rows + index];
  __syncthreads();
  float largest = -INFINITY;
  for (int i = 0; i < splits; ++i) largest = fmaxf(largest, weights[i]);
  const bool any = largest != -INFINITY;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < splits && any; i += threads) weights[i] = expf(weights[i] - largest);
  __syncthreads();
  float total = 0;
  for (int i = 0; i < splits && any; ++i) total += weights[i];
  const float* const from = parts + index * width;
  for (int column = static_cast<int>(threadIdx.x); column < width; column += threads) {
    float sum = 0;
#pragma unroll 8
    for (int i = 0; i < splits; ++i) sum = fmaf(any ? weights[i] : 0.0f, from[i * rows * width + column], sum);
    out[query * out_stride + std::int64_t{head} * width + column] = any ? sum / total : 0.0f;
  }
  if (threadIdx.x == 0) log_sum_exp[query * lse_stride + head] = any ? largest + logf(total) : -INFINITY;
}

void attend_piece(stream_handle s, const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                  const attention_mask& mask, float scale, const head_matrix& out, const matrix& log_sum_exp,
                  std::byte* workspace) {
  const int kv_heads = keys.heads;
  const key_splits splits = splits_for(q.tokens, q.heads, kv_heads, mask.keys);
  few_arguments a{.q = static_cast<const bf16*>(q.data),
                  .q_stride = q.stride,
                  .queries = q.tokens,
                  .keys = static_cast<const bf16*>(keys.data),
                  .key_stride = keys.stride,
                  .values = static_cast<const bf16*>(values.data),
                  .value_stride = values.stride,
                  .keys_in_use = mask.keys,
                  .causal = mask.causal,
                  .first_query = mask.first_query,
                  .first_query_at = mask.first_query_at,
                  .scale_log2 = scale * log2_e,
                  .split_keys = splits.keys,
                  .group = q.heads / kv_heads,
                  .heads = q.heads,
                  .width = q.dim,
                  .vectors = rows_by_vectors(keys) && rows_by_vectors(values),
                  .settled = mask.settled,
                  .out = static_cast<float*>(out.data),
                  .out_split = 0,
                  .out_stride = out.stride,
                  .log_sum_exp = static_cast<float*>(log_sum_exp.data),
                  .lse_split = 0,
                  .lse_stride = log_sum_exp.stride};
  const std::int64_t rows = q.tokens * q.heads;
  if (splits.count > 1) {
    a.out = reinterpret_cast<float*>(workspace);
    a.out_split = rows * q.dim;
    a.out_stride = std::int64_t{q.heads} * q.dim;
    a.log_sum_exp = a.out + splits.count * rows * q.dim;
    a.lse_split = rows;
    a.lse_stride = q.heads;
  }
  const dim3 grid(static_cast<unsigned>(splits.count), static_cast<unsigned>(kv_heads),
                  blocks_for(q.tokens * a.group, row_tile));
  for_head_size(q.dim, [&](auto padded) {
    constexpr int dim = padded;
    check_cuda(
        cudaFuncSetAttribute(attend_few_kernel<dim>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes<dim>),
        "attend_few");
    launch_overlapping(attend_few_kernel<dim>, grid, threads, shared_bytes<dim>, s, a);
  });
  check_launch("attend_few");
  if (splits.count == 1) return;
  launch_overlapping(combine_splits_kernel, dim3(static_cast<unsigned>(rows)), threads, 0, s, a.out, a.log_sum_exp,
                     static_cast<int>(splits.count), q.tokens, q.heads, q.dim, static_cast<float*>(out.data),
                     out.stride, static_cast<float*>(log_sum_exp.data), log_sum_exp.stride);
  check_launch("attend_few");
}

template <int capacity>
void merge(stream_handle s, std::span<const head_matrix> parts, std::span<const matrix> lse, const head_matrix& out) {
  partials<capacity> from;
  from.count = static_cast<int>(parts.size());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    from.parts[i] = {static_cast<const float*>(parts[i].data), static_cast<const float*>(lse[i].data), parts[i].stride,
                     lse[i].stride};
  }
  constexpr int block = 128;
  const unsigned blocks = blocks_for(out.tokens * out.heads, block / 32);
  const auto run = [&](auto number, auto vector) {
    using T = decltype(number);
    constexpr int N = vector;
    launch_overlapping(merge_kernel<T, capacity, N>, dim3(blocks), block, 0, s, from, static_cast<T*>(out.data),
                       out.stride, out.tokens, out.heads, out.dim);
  };
  const auto by_fours = [](const head_matrix& x) {
    return x.dim % 4 == 0 && x.stride % 4 == 0 &&
           reinterpret_cast<std::uintptr_t>(x.data) % static_cast<std::uintptr_t>(4 * bytes_of(x.type)) == 0;
  };
  const bool vectors = by_fours(out) && std::ranges::all_of(parts, by_fours);
  const auto with = [&](auto number) {
    if (vectors) {
      run(number, std::integral_constant<int, 4>{});
    } else {
      run(number, std::integral_constant<int, 1>{});
    }
  };
  if (out.type == element_type::f32) {
    with(float{});
  } else {
    with(bf16{});
  }
  check_launch("merge_attention");
}

}  // namespace

void launch_attend_few(stream_handle s, const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                       const attention_mask& mask, float scale, const head_matrix& out, const matrix& log_sum_exp,
                       std::byte* workspace) {
  require_attention(q, keys, values, mask, out, log_sum_exp);
  require(out.type == element_type::f32, "attend_few", "an fp32 output");
  require(!mask.settled || mask.first_query_at == nullptr, "attend_few", "settled keys whose count is known");
  for (std::int64_t first = 0; first < q.tokens; first += few_queries_max) {
    const std::int64_t count = std::min(few_queries_max, q.tokens - first);
    attention_mask piece = mask;
    piece.first_query = first + (mask.first_query_at == nullptr ? mask.first_query : 0);
    attend_piece(s, q.slice(first, count), keys, values, piece, scale, out.slice(first, count),
                 log_sum_exp.slice_rows(first, count), workspace);
  }
}

void launch_merge_attention(stream_handle s, std::span<const head_matrix> parts, std::span<const matrix> lse,
                            const head_matrix& out) {
  constexpr auto kernel = "merge_attention";
  require(parts.size() == lse.size(), kernel, "a log-sum-exp for each part");
  require(parts.size() <= 1000, kernel, "at most 1000 parts");
  for (std::size_t i = 0; i < parts.size(); ++i) {
    require(parts[i].type == element_type::f32 && parts[i].tokens == out.tokens && parts[i].heads == out.heads &&
                parts[i].dim == out.dim,
            kernel, "fp32 parts like the output");
    require(lse[i].type == element_type::f32 && lse[i].rows == out.tokens && lse[i].columns == out.heads, kernel,
            "an fp32 log-sum-exp for each query and head");
  }
  if (out.tokens == 0) return;
  if (parts.size() <= 16) {
    merge<16>(s, parts, lse, out);
  } else if (parts.size() <= 128) {
    merge<128>(s, parts, lse, out);
  } else {
    merge<1000>(s, parts, lse, out);
  }
}

}  // namespace baton::cuda
