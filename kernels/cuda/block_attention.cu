#include <algorithm>
#include <type_traits>

#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/block_attention.hpp"

namespace baton::cuda {
namespace {

constexpr int query_tile = 64;
constexpr int key_tile = 64;
constexpr int threads = 128;

struct block_arguments {
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
  float scale_log2;
  bf16* out;
  std::int64_t out_stride;
  float* log_sum_exp;
  std::int64_t lse_stride;
  bool merge;
  int group;
  int width;
  bool vectors;
};

/// A block computes 64 queries of one head, a warp 16 of them, over tiles of 64 keys.
template <int dim>
__global__ void __launch_bounds__(threads) block_attention_kernel(const block_arguments a) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto* const queries = reinterpret_cast<bf16*>(shared);
  bf16* const keys = queries + query_tile * tile_stride<dim>;
  bf16* const values = keys + key_tile * tile_stride<dim>;
  // The last tiles see the most keys: they go first.
  const std::int64_t first = std::int64_t{gridDim.x - 1 - blockIdx.x} * query_tile;
  const int head = static_cast<int>(blockIdx.y);
  const int kv_head = head / a.group;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int lane = thread % 32;
  const head_rows key_rows{a.keys + std::int64_t{kv_head} * a.width, a.key_stride};
  const head_rows value_rows{a.values + std::int64_t{kv_head} * a.width, a.value_stride};
  load_tile<dim>(queries, {a.q + std::int64_t{head} * a.width, a.q_stride}, first, query_tile, a.queries, a.width,
                 a.vectors, thread, threads);

  float sums[dim / 8][4] = {};
  softmax_pair state;
  const std::int64_t own_key = a.first_query + first;  // of the tile's first query, if causal
  const std::int64_t last_seen = min(own_key + query_tile, a.first_query + a.queries);
  const std::int64_t keys_end = a.causal ? min(a.keys_in_use, last_seen) : a.keys_in_use;
  for (std::int64_t from = 0; from < keys_end; from += key_tile) {
    load_tile<dim>(keys, key_rows, from, key_tile, keys_end, a.width, a.vectors, thread, threads);
    copies_begin();
    load_tile<dim>(values, value_rows, from, key_tile, keys_end, a.width, a.vectors, thread, threads);
    copies_begin();
    copies_wait<1>();
    __syncthreads();
    float scores[key_tile / 8][4];
    score_tile<dim>(scores, queries + warp * 16 * tile_stride<dim>, keys);
    if (from + key_tile > keys_end || (a.causal && from + key_tile > own_key + warp * 16)) {
#pragma unroll
      for (int n = 0; n < key_tile / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const std::int64_t key = from + n * 8 + lane % 4 * 2 + i % 2;
          const std::int64_t seen = a.causal ? own_key + warp * 16 + lane / 4 + i / 2 * 8 + 1 : keys_end;
          if (key >= seen || key >= keys_end) scores[n][i] = -INFINITY;
        }
      }
    }
    soften<dim>(scores, a.scale_log2, state, sums);
    copies_wait<0>();
    __syncthreads();
    add_values<dim, key_tile / 8, false>(sums, scores, values);
    __syncthreads();
  }
  copies_begin();
  copies_wait<0>();  // the queries', where there were no keys

#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const std::int64_t query = first + warp * 16 + lane / 4 + row * 8;
    const float sum = row_sum(state.sum[row]);
    if (query >= a.queries) continue;
    float lse = sum > 0 ? (state.largest[row] + log2f(sum)) * ln_2 : -INFINITY;
    float factor = sum > 0 ? 1.0f / sum : 0.0f;
    float old_factor = 0;
    float* const lse_at = a.log_sum_exp + query * a.lse_stride + head;
    const float old_lse = a.merge ? *lse_at : -INFINITY;
    if (old_lse != -INFINITY) {
      const float largest = fmaxf(lse, old_lse);
      const float own = lse == -INFINITY ? 0.0f : expf(lse - largest);
      const float old = expf(old_lse - largest);
      factor *= own / (own + old);
      old_factor = old / (own + old);
      lse = own == 0 ? old_lse : largest + logf(own + old);
    }
    __syncwarp(0xfu << (lane & ~3));  // all four lanes of the row have read before one writes
    if (lane % 4 == 0) *lse_at = lse;
    bf16* const to = a.out + query * a.out_stride + std::int64_t{head} * a.width;
#pragma unroll
    for (int n = 0; n < dim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int column = n * 8 + lane % 4 * 2 + i;
        if (column >= a.width) continue;
        float x = sums[n][2 * row + i] * factor;
        if (old_factor != 0) x += __bfloat162float(to[column]) * old_factor;
        to[column] = __float2bfloat16_rn(x);
      }
    }
  }
}

/// A warp per query and head.
__global__ void settle_attention_kernel(const bf16* part, std::int64_t part_stride, const float* part_lse, bf16* out,
                                        std::int64_t out_stride, float* log_sum_exp, std::int64_t lse_stride,
                                        std::int64_t queries, int heads, int width, bool merge, bool in_place,
                                        bool vectors) {
  const std::int64_t index = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (index >= queries * heads) return;
  const std::int64_t query = index / heads;
  const int head = static_cast<int>(index % heads);
  float* const lse_at = log_sum_exp + query * lse_stride + head;
  float lse = part_lse[head * queries + query];
  float factor = lse == -INFINITY ? 0.0f : 1.0f;
  float old_factor = 0;
  const float old_lse = merge ? *lse_at : -INFINITY;
  if (old_lse != -INFINITY) {
    const float largest = fmaxf(lse, old_lse);
    const float own = lse == -INFINITY ? 0.0f : expf(lse - largest);
    const float old = expf(old_lse - largest);
    factor = own / (own + old);
    old_factor = old / (own + old);
    lse = own == 0 ? old_lse : largest + logf(own + old);
  }
  __syncwarp();
  if (lane == 0) *lse_at = lse;
  if (in_place || (merge && factor == 0)) return;
  const bf16* const from = part + query * part_stride + std::int64_t{head} * width;
  bf16* const to = out + query * out_stride + std::int64_t{head} * width;
  if (vectors) {
    for (int i = lane * 8; i < width; i += 32 * 8) {
      float x[8];
      load(from + i, x);
#pragma unroll
      for (float& number : x) number *= factor;
      if (old_factor != 0) {
        float old[8];
        load(to + i, old);
#pragma unroll
        for (int n = 0; n < 8; ++n) x[n] += old[n] * old_factor;
      }
      store(to + i, x);
    }
    return;
  }
  for (int i = lane; i < width; i += 32) {
    float x = __bfloat162float(from[i]) * factor;
    if (old_factor != 0) x += __bfloat162float(to[i]) * old_factor;
    to[i] = __float2bfloat16_rn(x);
  }
}

}  // namespace

void require_attention(const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                       const attention_mask& mask, const head_matrix& out, const matrix& log_sum_exp) {
  constexpr auto kernel = "attend";
  require(q.type == element_type::bf16 && keys.type == q.type && values.type == q.type, kernel, "bf16 numbers");
  require(keys.heads > 0 && keys.heads == values.heads && q.heads % keys.heads == 0, kernel,
          "a whole number of query heads per KV head");
  require(q.dim == keys.dim && q.dim == values.dim && q.dim <= head_size_max, kernel,
          "heads of one size of at most 256");
  require(out.tokens == q.tokens && out.heads == q.heads && out.dim == q.dim, kernel, "an output like the queries");
  require(log_sum_exp.type == element_type::f32 && log_sum_exp.rows == q.tokens && log_sum_exp.columns == q.heads,
          kernel, "an fp32 log-sum-exp for each query and head");
  require(mask.keys >= 0 && mask.keys <= keys.tokens && mask.keys <= values.tokens, kernel,
          "no more keys than there are");
}

void launch_block_attention(stream_handle s, const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                            const attention_mask& mask, float scale, const head_matrix& out, const matrix& log_sum_exp,
                            attention_result result) {
  require(out.type == element_type::bf16, "attend", "a bf16 output");
  if (q.tokens == 0) return;
  const block_arguments arguments{static_cast<const bf16*>(q.data),
                                  q.stride,
                                  q.tokens,
                                  static_cast<const bf16*>(keys.data),
                                  keys.stride,
                                  static_cast<const bf16*>(values.data),
                                  values.stride,
                                  mask.keys,
                                  mask.causal,
                                  mask.first_query,
                                  scale * log2_e,
                                  static_cast<bf16*>(out.data),
                                  out.stride,
                                  static_cast<float*>(log_sum_exp.data),
                                  log_sum_exp.stride,
                                  result == attention_result::merge,
                                  q.heads / std::max(keys.heads, 1),
                                  q.dim,
                                  rows_by_vectors(q) && rows_by_vectors(keys) && rows_by_vectors(values)};
  const dim3 grid(blocks_for(q.tokens, query_tile), static_cast<unsigned>(q.heads));
  for_head_size(q.dim, [&](auto padded) {
    constexpr int dim = padded;
    constexpr int bytes = (query_tile + 2 * key_tile) * tile_stride<dim> * 2;
    check_cuda(cudaFuncSetAttribute(block_attention_kernel<dim>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "attend");
    block_attention_kernel<dim><<<grid, threads, bytes, s>>>(arguments);
  });
  check_launch("attend");
}

void launch_settle_attention(stream_handle s, const head_matrix& part, const float* part_log_sum_exp,
                             const head_matrix& out, const matrix& log_sum_exp, attention_result result) {
  constexpr int block = 256;
  if (out.tokens == 0) return;
  settle_attention_kernel<<<blocks_for(out.tokens * out.heads, block / 32), block, 0, s>>>(
      static_cast<const bf16*>(part.data), part.stride, part_log_sum_exp, static_cast<bf16*>(out.data), out.stride,
      static_cast<float*>(log_sum_exp.data), log_sum_exp.stride, out.tokens, out.heads, out.dim,
      result == attention_result::merge, part.data == out.data, rows_by_vectors(part) && rows_by_vectors(out));
  check_launch("settle_attention");
}

}  // namespace baton::cuda
