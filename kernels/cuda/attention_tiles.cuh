#pragma once

#include <cstdint>

#include "kernels/cuda/device_code.cuh"

/// Tiles of queries, keys and values in shared memory, and their products on the tensor cores: mma.sync m16n8k16, bf16 with fp32
/// sums. In a warp's 16 x 8 result, lane l holds columns 2 (l % 4) and the next one of rows l / 4 and l / 4 + 8.
namespace baton::cuda {

/// (heads dim) rows of one head: the row of token t begins at data + t * stride.
struct head_rows {
  const bf16* data;
  std::int64_t stride;
};

/// A row of a tile has `dim` numbers (a multiple of 16) and 8 more, so that ldmatrix meets every bank once.
template <int dim>
constexpr int tile_stride = dim + 8;

__device__ inline unsigned shared_address(const void* at) {
  return static_cast<unsigned>(__cvta_generic_to_shared(at));
}

__device__ inline void load_matrices(unsigned (&to)[4], const bf16* from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(from)));
}

__device__ inline void load_matrices_transposed(unsigned (&to)[4], const bf16* from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(from)));
}

/// sum (16 x 8) += a (16 x 16) b (16 x 8).
__device__ inline void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline unsigned pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&both);
}

__device__ inline void copies_begin() { asm volatile("cp.async.commit_group;"); }
template <int left>
__device__ inline void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left));
}

/// Rows [first, first + rows) of a head to a tile, by `workers` threads of which this is number `worker`. Rows from `end` on and
/// columns from `width` on become zero: what is multiplied, though with 0, must be a number. `vectors`: rows may be read 16
/// bytes at a time, which goes on behind the caller's back until copies_wait.
template <int dim>
__device__ inline void load_tile(bf16* tile, const head_rows& from, std::int64_t first, int rows, std::int64_t end,
                                 int width, bool vectors, int worker, int workers) {
  constexpr int row_vectors = dim / 8;
  if (vectors) {
    for (int i = worker; i < rows * row_vectors; i += workers) {
      const int row = i / row_vectors;
      const int column = i % row_vectors * 8;
      const bool inside = first + row < end && column < width;
      const bf16* const at = inside ? from.data + (first + row) * from.stride + column : from.data;
      asm volatile(
          "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(tile + row * tile_stride<dim> + column)),
          "l"(at), "r"(inside ? 16 : 0));
    }
    return;
  }
  for (int i = worker; i < rows * dim; i += workers) {
    const int row = i / dim;
    const int column = i % dim;
    tile[row * tile_stride<dim> + column] = first + row < end && column < width
                                                ? from.data[(first + row) * from.stride + column]
                                                : __float2bfloat16_rn(0.0f);
  }
}

/// scores[n] (16 x 8 each) = 16 query rows times `8 * tiles` key rows.
template <int dim, int tiles>
__device__ inline void score_tile(float (&scores)[tiles][4], const bf16* queries, const bf16* keys) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int n = 0; n < tiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = 0;
  }
#pragma unroll
  for (int k = 0; k < dim; k += 16) {
    unsigned a[4];
    load_matrices(a, queries + lane % 16 * tile_stride<dim> + k + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < tiles; n += 2) {
      unsigned b[4];
      load_matrices(b, keys + (n * 8 + lane % 8 + lane / 16 * 8) * tile_stride<dim> + k + lane / 8 % 2 * 8);
      multiply_add(scores[n], a, b[0], b[1]);
      multiply_add(scores[n + 1], a, b[2], b[3]);
    }
  }
}

/// sums (16 x dim) += weights (16 x 8 tiles) values (8 tiles x dim), the weights rounded to bf16; `exactly`: what rounding cut
/// off is multiplied too, which leaves errors of 2^-17.
template <int dim, int tiles, bool exactly>
__device__ inline void add_values(float (&sums)[dim / 8][4], const float (&weights)[tiles][4], const bf16* values) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int k = 0; k < tiles; k += 2) {
    unsigned a[4];
    unsigned rest[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const float low = weights[k + half][2 * row];
        const float high = weights[k + half][2 * row + 1];
        a[2 * half + row] = pack(low, high);
        if constexpr (exactly) {
          rest[2 * half + row] = pack(low - __bfloat162float(__float2bfloat16_rn(low)),
                                      high - __bfloat162float(__float2bfloat16_rn(high)));
        }
      }
    }
#pragma unroll
    for (int n = 0; n < dim; n += 16) {
      unsigned b[4];
      load_matrices_transposed(b, values + (k * 8 + lane % 16) * tile_stride<dim> + n + lane / 16 * 8);
      multiply_add(sums[n / 8], a, b[0], b[1]);
      multiply_add(sums[n / 8 + 1], a, b[2], b[3]);
      if constexpr (exactly) {
        multiply_add(sums[n / 8], rest, b[0], b[1]);
        multiply_add(sums[n / 8 + 1], rest, b[2], b[3]);
      }
    }
  }
}

/// A softmax under way: of the two rows that a lane has a part of, the largest score times scale so far (to base 2) and the sum of
/// the weights, of this lane's columns alone.
struct softmax_pair {
  float largest[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};
};

/// Turns scores into weights, 2^(score * scale_log2 - largest), and scales what was summed before. Masked scores are -infinity.
template <int dim, int tiles>
__device__ inline void soften(float (&scores)[tiles][4], float scale_log2, softmax_pair& state,
                              float (&sums)[dim / 8][4]) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float largest = -INFINITY;
#pragma unroll
    for (int n = 0; n < tiles; ++n) largest = fmaxf(largest, fmaxf(scores[n][2 * row], scores[n][2 * row + 1]));
    largest = fmaxf(largest, __shfl_xor_sync(all_lanes, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(all_lanes, largest, 2));
    // A scale below 0 would need the smallest score; there is none.
    const float now = fmaxf(state.largest[row], largest * scale_log2);
    const float base = now == -INFINITY ? 0.0f : now;
    const float shrink = exp2f(state.largest[row] - base);
    state.largest[row] = now;
    state.sum[row] *= shrink;
#pragma unroll
    for (int n = 0; n < dim / 8; ++n) {
      sums[n][2 * row] *= shrink;
      sums[n][2 * row + 1] *= shrink;
    }
#pragma unroll
    for (int n = 0; n < tiles; ++n) {
#pragma unroll
      for (int i = 2 * row; i < 2 * row + 2; ++i) {
        scores[n][i] = exp2f(fmaf(scores[n][i], scale_log2, -base));
        state.sum[row] += scores[n][i];
      }
    }
  }
}

/// The sum over the four lanes that share a row.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(all_lanes, x, 1);
  return x + __shfl_xor_sync(all_lanes, x, 2);
}

/// Calls body(integral constant: `dim` rounded up to a size that kernels are compiled for). False if it is too large.
template <class Body>
bool for_head_size(int dim, Body&& body) {
  const auto with = [&](auto padded) {
    if (dim > padded) return false;
    body(padded);
    return true;
  };
  return with(std::integral_constant<int, 16>{}) || with(std::integral_constant<int, 32>{}) ||
         with(std::integral_constant<int, 64>{}) || with(std::integral_constant<int, 96>{}) ||
         with(std::integral_constant<int, 128>{}) || with(std::integral_constant<int, 256>{});
}
constexpr int head_size_max = 256;

/// Whether rows of a head may be read 16 bytes at a time.
inline bool rows_by_vectors(const head_matrix& x) {
  return x.dim % 8 == 0 && x.stride % 8 == 0 && reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0;
}

constexpr float log2_e = 1.44269504088896340736f;
constexpr float ln_2 = 0.693147180559945309417f;

}  // namespace baton::cuda
