#include "runtime/plan/block_lengths.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace baton {

std::vector<std::int64_t> even_lengths(std::int64_t sum, int count) {
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(count), sum / count);
  for (std::int64_t h = 0; h < sum % count; ++h) ++lengths[static_cast<std::size_t>(h)];
  return lengths;
}

std::vector<std::int64_t> rounded_lengths(std::span<const double> lengths, std::int64_t multiple, std::int64_t sum) {
  std::vector<std::int64_t> whole;
  double left_over = 0;
  for (const double length : lengths) {
    const auto steps = std::max<std::int64_t>(std::llround((length + left_over) / static_cast<double>(multiple)), 1);
    left_over += length - static_cast<double>(steps * multiple);
    whole.push_back(steps * multiple);
  }
  const std::int64_t before = std::accumulate(whole.begin(), whole.end() - 1, std::int64_t{0});
  if (before >= sum) return {};
  whole.back() = sum - before;
  return whole;
}

std::int64_t rounded_tokens(std::int64_t tokens, std::int64_t multiple) {
  return tokens < 4 * multiple ? tokens : (tokens + multiple / 2) / multiple * multiple;
}

std::vector<std::int64_t> even_lengths_in(std::int64_t multiple, std::int64_t sum, int count) {
  // What is left over moves a length by a half of a multiple more.
  if (multiple <= 1 || sum / count < 8 * multiple) return even_lengths(sum, count);
  const std::vector<double> even(static_cast<std::size_t>(count),
                                 static_cast<double>(sum) / static_cast<double>(count));
  return rounded_lengths(even, multiple, sum);
}

}  // namespace baton
