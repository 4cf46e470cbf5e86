#include "kernels/cpu/sampling.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/launch.hpp"
#include "kernels/cpu/ranking.hpp"

namespace baton::cpu {
namespace {

void require_logits(const matrix& logits, const char* kernel) {
  require(logits.type == element_type::f32 && logits.rows == 1 && logits.columns > 0 &&
              logits.columns <= std::numeric_limits<std::int32_t>::max(),
          kernel, "one row of fp32 logits");
}

}  // namespace

void sample_greedy(thread_pool&, const matrix& logits, std::int32_t* token) {
  require_logits(logits, "sample_greedy");
  const float* values = row_of<float>(logits, 0);
  const float* end = values + logits.columns;
  float largest = -std::numeric_limits<float>::infinity();
  for (const float* at = values; at != end; ++at) largest = *at > largest ? *at : largest;
  const float* best = std::find(values, end, largest);
  *token = best == end ? 0 : static_cast<std::int32_t>(best - values);  // 0 where all are NaN
}

std::size_t sample_workspace_bytes(std::int64_t vocabulary) {
  return static_cast<std::size_t>(vocabulary) * sizeof(std::uint64_t);
}

void sample_top_p(thread_pool& pool, const matrix& logits, float temperature, float top_p, float uniform,
                  std::int32_t* token, std::byte* workspace) {
  require_logits(logits, "sample_top_p");
  require(temperature > 0, "sample_top_p", "a temperature above 0");
  require(top_p > 0 && top_p <= 1, "sample_top_p", "a top_p in (0, 1]");
  require(uniform >= 0 && uniform < 1, "sample_top_p", "a uniform number in [0, 1)");
  const float* values = row_of<float>(logits, 0);
  sample_greedy(pool, logits, token);
  const double largest = static_cast<double>(values[*token]);
  const auto weight_of = [&](std::uint32_t id) {
    const double below = static_cast<double>(values[id]) - largest;
    return std::isnan(below) ? 0.0 : std::exp(below / static_cast<double>(temperature));
  };

  auto* const rankings = reinterpret_cast<std::uint64_t*>(workspace);
  auto* const end = rankings + logits.columns;
  double total = 0;
  for (std::int64_t i = 0; i < logits.columns; ++i) {
    const auto id = static_cast<std::uint32_t>(i);
    rankings[i] = ranking_of(values[i], id);
    total += weight_of(id);
  }

  // The best leave the heap one by one and stand, best last, behind it: no more is sorted than the nucleus.
  std::make_heap(rankings, end);
  auto* rest = end;
  double nucleus = 0;
  do {
    std::pop_heap(rankings, rest--);
    nucleus += weight_of(index_in(*rest));
  } while (rest != rankings && nucleus < static_cast<double>(top_p) * total);

  const double target = static_cast<double>(uniform) * nucleus;
  double passed = 0;
  for (auto* at = end; at != rest && passed <= target;) {
    --at;
    *token = static_cast<std::int32_t>(index_in(*at));
    passed += weight_of(index_in(*at));
  }
}

}  // namespace baton::cpu
