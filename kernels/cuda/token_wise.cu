#include <algorithm>
#include <cmath>
#include <type_traits>

#include <cuda_fp16.h>

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/token_wise.hpp"

namespace baton::cuda {
namespace {

constexpr int threads = 256;

/// Calls body(type tag of the numbers, how many make a vector) for what `m` and the others allow.
template <class Body, class... Matrices>
void for_numbers_of(const matrix& m, Body&& body, const Matrices&... others) {
  const auto fits = [&](std::int64_t count) { return by_vectors(m, count) && (by_vectors(others, count) && ...); };
  if (m.type == element_type::bf16) {
    if (fits(8)) return body(bf16{}, std::integral_constant<int, 8>{});
    return body(bf16{}, std::integral_constant<int, 1>{});
  }
  if (fits(4)) return body(float{}, std::integral_constant<int, 4>{});
  return body(float{}, std::integral_constant<int, 1>{});
}

template <class T>
T* numbers(const matrix& m) {
  return static_cast<T*>(m.data);
}

template <class T, int N>
__global__ void embed_kernel(const T* table, std::int64_t table_rows, std::int64_t table_stride,
                             const std::int32_t* ids, T* out, std::int64_t out_stride, std::int64_t columns) {
  launch_dependents();
  wait_for_dependencies();
  const std::int64_t row = blockIdx.x;
  const std::int32_t id = ids[row];
  const bool known = id >= 0 && id < table_rows;
  for (std::int64_t i = (std::int64_t{blockIdx.y} * threads + threadIdx.x) * N; i < columns;
       i += std::int64_t{gridDim.y} * threads * N) {
    vector_of<T, N> numbers;
    if (known) {
      numbers = *reinterpret_cast<const vector_of<T, N>*>(table + id * table_stride + i);
    } else {
#pragma unroll
      for (int n = 0; n < N; ++n) numbers.numbers[n] = from_float<T>(NAN);
    }
    *reinterpret_cast<vector_of<T, N>*>(out + row * out_stride + i) = numbers;
  }
}

/// A block per row. What fits the registers is read once, the rest again, from L1.
template <class T, int N>
__global__ void __launch_bounds__(threads)
    rms_norm_kernel(const T* x, std::int64_t x_stride, const float* weight, float eps, T* out, std::int64_t out_stride,
                    std::int64_t columns) {
  launch_dependents();
  wait_for_dependencies();
  constexpr int kept = 4;
  __shared__ float shared[32];
  const T* from = x + std::int64_t{blockIdx.x} * x_stride;
  T* to = out + std::int64_t{blockIdx.x} * out_stride;
  float numbers[kept][N];
  float sum = 0;
#pragma unroll
  for (int k = 0; k < kept; ++k) {
    const std::int64_t i = (std::int64_t{k} * threads + threadIdx.x) * N;
    if (i >= columns) continue;
    load(from + i, numbers[k]);
#pragma unroll
    for (int n = 0; n < N; ++n) sum += numbers[k][n] * numbers[k][n];
  }
  for (std::int64_t i = (std::int64_t{kept} * threads + threadIdx.x) * N; i < columns; i += threads * N) {
    float more[N];
    load(from + i, more);
#pragma unroll
    for (int n = 0; n < N; ++n) sum += more[n] * more[n];
  }
  const float mean = block_sum(sum, shared) / static_cast<float>(columns);
  const float scale = 1.0f / sqrtf(mean + eps);
  const auto finish = [&](std::int64_t i, float(&row)[N]) {
    float factors[N];
    load(weight + i, factors);
#pragma unroll
    for (int n = 0; n < N; ++n) row[n] = row[n] * scale * factors[n];
    store(to + i, row);
  };
#pragma unroll
  for (int k = 0; k < kept; ++k) {
    const std::int64_t i = (std::int64_t{k} * threads + threadIdx.x) * N;
    if (i < columns) finish(i, numbers[k]);
  }
  for (std::int64_t i = (std::int64_t{kept} * threads + threadIdx.x) * N; i < columns; i += threads * N) {
    float more[N];
    load(from + i, more);
    finish(i, more);
  }
}

__device__ inline float silu_of(float x) { return x / (1.0f + expf(fminf(-x, 88.0f))); }

/// One thread for each vector of the output.
template <class T, int N>
__global__ void swiglu_kernel(const T* gate_up, std::int64_t stride, T* out, std::int64_t out_stride, std::int64_t rows,
                              std::int64_t columns) {
  launch_dependents();
  wait_for_dependencies();
  const std::int64_t vectors = columns / N;
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (index >= rows * vectors) return;
  const std::int64_t row = index / vectors;
  const std::int64_t i = index % vectors * N;
  float gate[N];
  float up[N];
  load(gate_up + row * stride + i, gate);
  load(gate_up + row * stride + columns + i, up);
#pragma unroll
  for (int n = 0; n < N; ++n) gate[n] = silu_of(gate[n]) * up[n];
  store(out + row * out_stride + i, gate);
}

template <class T, int N>
__global__ void silu_kernel(T* x, std::int64_t stride, std::int64_t rows, std::int64_t columns) {
  const std::int64_t vectors = columns / N;
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (index >= rows * vectors) return;
  T* at = x + index / vectors * stride + index % vectors * N;
  float row[N];
  load(at, row);
#pragma unroll
  for (int n = 0; n < N; ++n) row[n] = silu_of(row[n]);
  store(at, row);
}

template <class From, class To, int N>
__global__ void copy_kernel(const From* from, std::int64_t from_stride, To* to, std::int64_t to_stride,
                            std::int64_t rows, std::int64_t columns) {
  const std::int64_t vectors = columns / N;
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (index >= rows * vectors) return;
  const std::int64_t row = index / vectors;
  const std::int64_t i = index % vectors * N;
  if constexpr (std::is_same_v<From, To>) {
    *reinterpret_cast<vector_of<To, N>*>(to + row * to_stride + i) =
        *reinterpret_cast<const vector_of<From, N>*>(from + row * from_stride + i);
  } else {
    float row_numbers[N];
    load(from + row * from_stride + i, row_numbers);
    store(to + row * to_stride + i, row_numbers);
  }
}

template <class From>
__global__ void round_kernel(const From* from, bf16* to, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < count) to[i] = __float2bfloat16_rn(static_cast<float>(from[i]));
}

template <class T, int N>
__global__ void add_kernel(const float* x, std::int64_t x_stride, const float* bias, T* out, std::int64_t out_stride,
                           std::int64_t rows, std::int64_t columns, bool accumulate) {
  const std::int64_t vectors = columns / N;
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (index >= rows * vectors) return;
  const std::int64_t row = index / vectors;
  const std::int64_t i = index % vectors * N;
  float sum[N];
  float more[N];
  load(x + row * x_stride + i, sum);
  if (bias != nullptr) {
#pragma unroll
    for (int n = 0; n < N; ++n) sum[n] += bias[i + n];
  }
  if (accumulate) {
    load(out + row * out_stride + i, more);
#pragma unroll
    for (int n = 0; n < N; ++n) sum[n] += more[n];
  }
  store(out + row * out_stride + i, sum);
}

/// Frequencies by value: nothing is uploaded.
constexpr int frequencies_max = 512;
struct frequencies {
  float values[frequencies_max];
};

__global__ void fill_rope_table_kernel(frequencies inverse, float amplitude, float* cosines, std::int64_t cosine_stride,
                                       float* sines, std::int64_t sine_stride, std::int64_t rows, int columns) {
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (index >= rows * columns) return;
  const std::int64_t position = index / columns;
  const int i = static_cast<int>(index % columns);
  // The angle is rounded to fp32, as transformers does; cosine and sine of it are exact.
  const double angle = static_cast<double>(static_cast<float>(position) * inverse.values[i]);
  cosines[position * cosine_stride + i] = static_cast<float>(cos(angle)) * amplitude;
  sines[position * sine_stride + i] = static_cast<float>(sin(angle)) * amplitude;
}

struct turns {
  const std::int32_t* positions;
  std::int64_t positions_max;
  const float* cosines;
  std::int64_t cosine_stride;
  const float* sines;
  std::int64_t sine_stride;
};

/// Turns `N` pairs of a head, (low[n], low[half + n]), which are number i and on; leaves them in a and b as well. A position
/// outside the table turns nothing.
template <class T, int N>
__device__ inline void turn(T* low, int half, int i, std::int32_t position, const turns& by, float (&a)[N],
                            float (&b)[N]) {
  load(low, a);
  load(low + half, b);
  if (position < 0 || position >= by.positions_max) return;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const float cosine = by.cosines[position * by.cosine_stride + i + n];
    const float sine = by.sines[position * by.sine_stride + i + n];
    const float turned_a = fmaf(-b[n], sine, a[n] * cosine);
    b[n] = fmaf(a[n], sine, b[n] * cosine);
    a[n] = turned_a;
  }
  store(low, a);
  store(low + half, b);
}

/// A thread turns `N` pairs of one head.
template <class T, int N>
__global__ void rotate_kernel(T* x, std::int64_t stride, std::int64_t tokens, int heads, int dim, const turns by) {
  const int half = dim / 2;
  const int vectors = half / N;
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (index >= tokens * heads * vectors) return;
  const int i = static_cast<int>(index % vectors) * N;
  const std::int64_t head = index / vectors % heads;
  const std::int64_t token = index / vectors / heads;
  float a[N];
  float b[N];
  turn(x + token * stride + head * dim + i, half, i, by.positions[token], by, a, b);
}

template <class T>
struct cache_rows {
  T* keys;
  std::int64_t key_stride;
  T* values;
  std::int64_t value_stride;
  std::int64_t first;
  const std::int32_t* first_at;
  std::int64_t rows_max;
  std::int64_t skip;
};

/// As rotate_kernel, over the queries' and keys' heads and then the values', which are not turned; keys and values are stored too.
template <class T, int N>
__global__ void rotate_and_store_kernel(T* queries_keys, std::int64_t stride, const T* values,
                                        std::int64_t value_stride, std::int64_t tokens, int heads, int kv_heads,
                                        int dim, const turns by, const cache_rows<T> to) {
  launch_dependents();
  wait_for_dependencies();
  const int half = dim / 2;
  const int vectors = half / N;
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  const int all_heads = heads + 2 * kv_heads;
  if (index >= tokens * all_heads * vectors) return;
  const int i = static_cast<int>(index % vectors) * N;
  const int head = static_cast<int>(index / vectors % all_heads);
  const std::int64_t token = index / vectors / all_heads;
  const bool is_value = head >= heads + kv_heads;
  float a[N];
  float b[N];
  if (is_value) {
    const T* const low = values + token * value_stride + std::int64_t{head - heads - kv_heads} * dim + i;
    load(low, a);
    load(low + half, b);
  } else {
    turn(queries_keys + token * stride + std::int64_t{head} * dim + i, half, i, by.positions[token], by, a, b);
  }
  if (head < heads || token < to.skip) return;
  const std::int64_t row = (to.first_at == nullptr ? to.first : *to.first_at) + token - to.skip;
  if (row < 0 || row >= to.rows_max) return;
  T* const kept = is_value ? to.values + row * to.value_stride + std::int64_t{head - heads - kv_heads} * dim + i
                           : to.keys + row * to.key_stride + std::int64_t{head - heads} * dim + i;
  store(kept, a);
  store(kept + half, b);
}

turns turns_of(const std::int32_t* positions, const rope_table& table) {
  return {positions,
          table.cosines.rows,
          static_cast<const float*>(table.cosines.data),
          table.cosines.stride,
          static_cast<const float*>(table.sines.data),
          table.sines.stride};
}

void require_table(const head_matrix& x, const rope_table& table, const char* kernel) {
  require(x.dim % 2 == 0 && table.cosines.columns == x.dim / 2 && table.sines.columns == x.dim / 2 &&
              table.cosines.rows == table.sines.rows,
          kernel, "a table of half the head's columns");
}

}  // namespace

void launch_embed(stream_handle s, const matrix& table, const std::int32_t* ids, const matrix& out) {
  require(table.type == out.type && table.columns == out.columns, "embed", "rows like those of the table");
  if (out.rows == 0) return;
  for_numbers_of(
      out,
      [&](auto number, auto count) {
        using T = decltype(number);
        constexpr int N = count;
        const dim3 grid(static_cast<unsigned>(out.rows), blocks_for(out.columns, threads * N));
        launch_overlapping(embed_kernel<T, N>, grid, threads, 0, s, numbers<T>(table), table.rows, table.stride, ids,
                           numbers<T>(out), out.stride, out.columns);
      },
      table);
  check_launch("embed");
}

void launch_rms_norm(stream_handle s, const matrix& x, const float* weight, float eps, const matrix& out) {
  require(x.type == out.type && x.rows == out.rows && x.columns == out.columns, "rms_norm", "an output like its input");
  if (x.rows == 0) return;
  const matrix factors{const_cast<float*>(weight), element_type::f32, 1, x.columns, x.columns};
  for_numbers_of(
      x,
      [&](auto number, auto count) {
        using T = decltype(number);
        constexpr int N = count;
        launch_overlapping(rms_norm_kernel<T, N>, dim3(static_cast<unsigned>(x.rows)), threads, 0, s, numbers<T>(x),
                           x.stride, weight, eps, numbers<T>(out), out.stride, x.columns);
      },
      out, factors);
  check_launch("rms_norm");
}

void launch_swiglu(stream_handle s, const matrix& gate_up, const matrix& out) {
  require(gate_up.type == out.type && gate_up.rows == out.rows && gate_up.columns == 2 * out.columns, "swiglu",
          "gate and up side by side, each as wide as the output");
  if (out.rows == 0) return;
  for_numbers_of(
      out,
      [&](auto number, auto count) {
        using T = decltype(number);
        constexpr int N = count;
        launch_overlapping(swiglu_kernel<T, N>, dim3(blocks_for(out.rows * (out.columns / N), threads)), threads, 0, s,
                           numbers<T>(gate_up), gate_up.stride, numbers<T>(out), out.stride, out.rows, out.columns);
      },
      gate_up);
  check_launch("swiglu");
}

void launch_silu(stream_handle s, const matrix& x) {
  if (x.rows == 0) return;
  for_numbers_of(x, [&](auto number, auto count) {
    using T = decltype(number);
    constexpr int N = count;
    silu_kernel<T, N>
        <<<blocks_for(x.rows * (x.columns / N), threads), threads, 0, s>>>(numbers<T>(x), x.stride, x.rows, x.columns);
  });
  check_launch("silu");
}

void launch_copy(stream_handle s, const matrix& from, const matrix& to) {
  require(from.rows == to.rows && from.columns == to.columns, "copy", "two views of one shape");
  if (from.rows == 0 || from.columns == 0) return;
  const auto run = [&](auto from_number, auto to_number, auto count) {
    using From = decltype(from_number);
    using To = decltype(to_number);
    constexpr int N = count;
    copy_kernel<From, To, N><<<blocks_for(from.rows * (from.columns / N), threads), threads, 0, s>>>(
        numbers<From>(from), from.stride, numbers<To>(to), to.stride, from.rows, from.columns);
  };
  if (from.type == to.type) {
    for_numbers_of(
        from, [&](auto number, auto count) { run(number, number, count); }, to);
  } else {
    const bool fits = by_vectors(from, 4) && by_vectors(to, 4);
    const auto both = [&](auto count) {
      if (from.type == element_type::f32) {
        run(float{}, bf16{}, count);
      } else {
        run(bf16{}, float{}, count);
      }
    };
    if (fits) {
      both(std::integral_constant<int, 4>{});
    } else {
      both(std::integral_constant<int, 1>{});
    }
  }
  check_launch("copy");
}

void launch_round(stream_handle s, const void* from, host_type type, void* to, std::int64_t count) {
  if (count == 0) return;
  const unsigned blocks = blocks_for(count, threads);
  auto* const rounded = static_cast<bf16*>(to);
  switch (type) {
    case host_type::f32:
      round_kernel<<<blocks, threads, 0, s>>>(static_cast<const float*>(from), rounded, count);
      break;
    case host_type::f16:
      round_kernel<<<blocks, threads, 0, s>>>(static_cast<const __half*>(from), rounded, count);
      break;
    case host_type::bf16:
      check_cuda(cudaMemcpyAsync(to, from, static_cast<std::size_t>(count) * 2, cudaMemcpyDeviceToDevice, s), "round");
      break;
  }
  check_launch("round");
}

void launch_add(stream_handle s, const matrix& x, const float* bias, const matrix& out, bool accumulate) {
  if (out.rows == 0) return;
  const auto run = [&](auto number, auto count) {
    using T = decltype(number);
    constexpr int N = count;
    add_kernel<T, N><<<blocks_for(out.rows * (out.columns / N), threads), threads, 0, s>>>(
        numbers<float>(x), x.stride, bias, numbers<T>(out), out.stride, out.rows, out.columns, accumulate);
  };
  const bool fits = by_vectors(x, 4) && by_vectors(out, 4);
  if (out.type == element_type::f32) {
    if (fits) {
      run(float{}, std::integral_constant<int, 4>{});
    } else {
      run(float{}, std::integral_constant<int, 1>{});
    }
  } else if (fits) {
    run(bf16{}, std::integral_constant<int, 4>{});
  } else {
    run(bf16{}, std::integral_constant<int, 1>{});
  }
  check_launch("add");
}

void launch_fill_rope_table(stream_handle s, std::span<const float> inverse_frequencies, float amplitude,
                            const rope_table& table) {
  const auto columns = static_cast<std::int64_t>(inverse_frequencies.size());
  require(table.cosines.type == element_type::f32 && table.sines.type == element_type::f32 &&
              table.cosines.columns == columns && table.sines.columns == columns &&
              table.cosines.rows == table.sines.rows,
          "fill_rope_table", "fp32 cosines and sines of one shape, a column per frequency");
  require(columns <= frequencies_max, "fill_rope_table", "heads of at most 1024 numbers");
  if (table.cosines.rows == 0) return;
  frequencies inverse{};
  for (std::size_t i = 0; i < inverse_frequencies.size(); ++i) inverse.values[i] = inverse_frequencies[i];
  fill_rope_table_kernel<<<blocks_for(table.cosines.rows * columns, threads), threads, 0, s>>>(
      inverse, amplitude, numbers<float>(table.cosines), table.cosines.stride, numbers<float>(table.sines),
      table.sines.stride, table.cosines.rows, static_cast<int>(columns));
  check_launch("fill_rope_table");
}

void launch_rotate(stream_handle s, const head_matrix& x, const std::int32_t* positions, const rope_table& table) {
  require_table(x, table, "rotate");
  if (x.tokens == 0) return;
  matrix halves = x.as_matrix();
  halves.columns = x.dim / 2;
  for_numbers_of(halves, [&](auto number, auto count) {
    using T = decltype(number);
    constexpr int N = count;
    rotate_kernel<T, N><<<blocks_for(x.tokens * x.heads * (x.dim / 2 / N), threads), threads, 0, s>>>(
        static_cast<T*>(x.data), x.stride, x.tokens, x.heads, x.dim, turns_of(positions, table));
  });
  check_launch("rotate");
}

void launch_rotate_and_store(stream_handle s, const head_matrix& queries_keys, const head_matrix& values,
                             const std::int32_t* positions, const rope_table& table, std::int64_t skip,
                             const kv_rows& to) {
  constexpr auto kernel = "rotate_and_store";
  require_table(queries_keys, table, kernel);
  require(values.tokens == queries_keys.tokens && values.dim == queries_keys.dim && values.heads < queries_keys.heads &&
              values.type == queries_keys.type,
          kernel, "values of the keys' shape");
  const std::int64_t stored = std::max<std::int64_t>(values.tokens - skip, 0);
  require(to.keys.heads == values.heads && to.values.heads == values.heads && to.keys.dim == values.dim &&
              to.values.dim == values.dim && to.keys.type == values.type && to.values.type == values.type &&
              to.keys.tokens == to.values.tokens &&
              (to.first_at != nullptr || (to.first >= 0 && to.first + stored <= to.keys.tokens)),
          kernel, "room for what is stored");
  if (values.tokens == 0) return;
  const auto halves = [](const head_matrix& x) {
    matrix half = x.as_matrix();
    half.columns = x.dim / 2;
    return half;
  };
  for_numbers_of(
      halves(queries_keys),
      [&](auto number, auto count) {
        using T = decltype(number);
        constexpr int N = count;
        const int heads = queries_keys.heads - values.heads;
        const cache_rows<T> rows{static_cast<T*>(to.keys.data),
                                 to.keys.stride,
                                 static_cast<T*>(to.values.data),
                                 to.values.stride,
                                 to.first,
                                 to.first_at,
                                 to.keys.tokens,
                                 skip};
        const std::int64_t pairs = values.tokens * (heads + 2 * values.heads) * (values.dim / 2);
        launch_overlapping(rotate_and_store_kernel<T, N>, dim3(blocks_for(pairs / N, threads)), threads, 0, s,
                           static_cast<T*>(queries_keys.data), queries_keys.stride, static_cast<const T*>(values.data),
                           values.stride, values.tokens, heads, values.heads, values.dim, turns_of(positions, table),
                           rows);
      },
      halves(values), halves(to.keys), halves(to.values));
  check_launch(kernel);
}

}  // namespace baton::cuda
