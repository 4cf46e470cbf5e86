#include "kernels/cpu/random_fill.hpp"

#include <vector>

#include "kernels/cpu/convert.hpp"
#include "kernels/cpu/launch.hpp"
#include "kernels/random_weight.hpp"

namespace baton::cpu {

void fill_random(thread_pool& pool, const matrix& to, std::uint64_t seed, float scale) {
  const random_weights draw(seed, scale);
  for_rows(pool, to.rows, to.columns, [&](std::int64_t first, std::int64_t count) {
    std::vector<float> row(static_cast<std::size_t>(to.columns));
    for (std::int64_t r = first; r < first + count; ++r) {
      for (std::int64_t c = 0; c < to.columns; ++c) {
        row[static_cast<std::size_t>(c)] = draw(static_cast<std::uint64_t>(r * to.columns + c));
      }
      convert({row.data(), element_type::f32, 1, to.columns, to.columns}, to.slice_rows(r, 1));
    }
  });
}

}  // namespace baton::cpu
