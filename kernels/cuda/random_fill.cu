#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/random_fill.hpp"
#include "kernels/random_weight.hpp"

namespace baton::cuda {
namespace {

constexpr int threads = 256;

template <class T>
__global__ void fill_random_kernel(random_weights draw, T* to, std::int64_t stride, std::int64_t rows,
                                   std::int64_t columns) {
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (index >= rows * columns) return;
  to[index / columns * stride + index % columns] = from_float<T>(draw(static_cast<std::uint64_t>(index)));
}

}  // namespace

void launch_fill_random(stream_handle s, const matrix& to, std::uint64_t seed, float scale) {
  if (to.rows == 0 || to.columns == 0) return;
  const random_weights draw(seed, scale);
  const unsigned blocks = blocks_for(to.rows * to.columns, threads);
  if (to.type == element_type::f32) {
    fill_random_kernel<<<blocks, threads, 0, s>>>(draw, static_cast<float*>(to.data), to.stride, to.rows, to.columns);
  } else {
    fill_random_kernel<<<blocks, threads, 0, s>>>(draw, static_cast<bf16*>(to.data), to.stride, to.rows, to.columns);
  }
  check_launch("fill_random");
}

}  // namespace baton::cuda
