#include "tests/support/kernel_reference.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace baton::reference {

row rotated(const row& head, int position, std::span<const float> inverse_frequencies) {
  const std::size_t half = head.size() / 2;
  row turned(head.size());
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(static_cast<float>(position) * inverse_frequencies[i]);
    turned[i] = head[i] * std::cos(angle) - head[i + half] * std::sin(angle);
    turned[i + half] = head[i + half] * std::cos(angle) + head[i] * std::sin(angle);
  }
  return turned;
}

attention_result_of_one attention_of(const row& query, std::span<const row> keys, std::span<const row> values,
                                     double scale) {
  if (keys.empty()) return {row(query.size()), -std::numeric_limits<double>::infinity()};
  std::vector<double> scores;
  for (const row& key : keys) scores.push_back(scale * dot(query, key));
  const double largest = *std::max_element(scores.begin(), scores.end());
  attention_result_of_one result{row(query.size())};
  double total = 0;
  for (std::size_t key = 0; key < keys.size(); ++key) {
    const double weight = std::exp(scores[key] - largest);
    total += weight;
    for (std::size_t i = 0; i < query.size(); ++i) result.out[i] += weight * values[key][i];
  }
  for (double& number : result.out) number /= total;
  result.log_sum_exp = largest + std::log(total);
  return result;
}

int nucleus_sample(std::span<const float> logits, double temperature, double top_p, double uniform) {
  std::vector<int> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto logit_of = [&](int id) { return static_cast<double>(logits[static_cast<std::size_t>(id)]); };
  std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) { return logit_of(a) > logit_of(b); });

  std::vector<double> probabilities;
  for (const int id : ids) probabilities.push_back(std::exp((logit_of(id) - logit_of(ids.front())) / temperature));
  const double total = std::accumulate(probabilities.begin(), probabilities.end(), 0.0);
  double nucleus = 0;
  std::size_t size = 0;
  while (size < ids.size() && nucleus < top_p * total) nucleus += probabilities[size++];

  double passed = 0;
  for (std::size_t i = 0; i < size; ++i) {
    passed += probabilities[i];
    if (passed > uniform * nucleus) return ids[i];
  }
  return ids[size - 1];
}

}  // namespace baton::reference
