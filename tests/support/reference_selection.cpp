#include "tests/support/reference_selection.hpp"

#include <algorithm>

namespace baton::reference {
namespace {

std::uint64_t splitmix64(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

std::vector<float> max_pooled(std::span<const float> scores) {
  const int n = static_cast<int>(scores.size());
  std::vector<float> pooled;
  for (int i = 0; i < n; ++i) {
    const int begin = std::max(0, i - 2);
    const int end = std::min(n, i + 3);
    pooled.push_back(*std::max_element(scores.begin() + begin, scores.begin() + end));
  }
  return pooled;
}

std::vector<int> best_tokens(std::span<const float> scores, int first_eligible, int count) {
  std::vector<int> order;
  for (int i = first_eligible; i < static_cast<int>(scores.size()); ++i) order.push_back(i);
  // A stable sort keeps equal scores in the order of their indices.
  std::stable_sort(order.begin(), order.end(), [&scores](int a, int b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
  });
  order.resize(std::min(order.size(), static_cast<std::size_t>(count)));
  std::sort(order.begin(), order.end());
  return order;
}

float random_score(std::uint64_t seed, int layer, int kv_head, int document_index) {
  const std::uint64_t place = static_cast<std::uint64_t>(layer) << 48 | static_cast<std::uint64_t>(kv_head) << 40 |
                              static_cast<std::uint64_t>(document_index);
  return static_cast<float>(splitmix64(splitmix64(seed) ^ place) >> 40);
}

}  // namespace baton::reference
