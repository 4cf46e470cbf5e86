#include "runtime/bench/projection.hpp"

#include <algorithm>
#include <numeric>

namespace baton {

double projected_prefill::busy_max_over_mean() const {
  if (rank_busy_s.empty()) return 0;
  const double sum = std::accumulate(rank_busy_s.begin(), rank_busy_s.end(), 0.0);
  return *std::ranges::max_element(rank_busy_s) * static_cast<double>(rank_busy_s.size()) / sum;
}

projected_prefill project_cluster(std::span<const std::vector<layer_times>> ranks,
                                  std::span<const std::int64_t> compressed_bytes, const projected_link& link) {
  const std::size_t count = ranks.size();
  projected_prefill projected;
  projected.rank_busy_s.assign(count, 0);
  projected.rank_exposed_s.assign(count, 0);
  std::vector<double> now(count, 0);
  std::vector<double> port_out(count, 0);
  std::vector<double> port_in(count, 0);
  const std::size_t layers = ranks.empty() ? 0 : ranks.front().size();
  for (std::size_t layer = 0; layer < layers; ++layer) {
    std::vector<double> all_there(count, 0);
    // Senders in rank order: the last receiver's port takes earlier ranks' blocks first.
    for (std::size_t from = 0; from < count; ++from) {
      if (compressed_bytes[from] == 0) continue;
      const double block_s = static_cast<double>(compressed_bytes[from]) / link.bytes_per_s;
      port_out[from] = std::max(port_out[from], now[from] + ranks[from][layer].until_sent_s);
      for (std::size_t to = from + 1; to < count; ++to) {
        port_out[from] += block_s;
        port_in[to] = std::max(port_in[to] + block_s, port_out[from]);
        all_there[to] = std::max(all_there[to], port_in[to] + link.latency_s);
      }
    }
    for (std::size_t rank = 0; rank < count; ++rank) {
      const auto& times = ranks[rank][layer];
      const double attended = now[rank] + times.until_sent_s + times.local_s;
      const double go_on = std::max(attended, all_there[rank]);
      projected.rank_busy_s[rank] += times.total_s();
      projected.rank_exposed_s[rank] += go_on - attended;
      now[rank] = go_on + times.rest_s;
    }
  }
  if (count > 0) projected.prefill_s = *std::ranges::max_element(now);
  return projected;
}

}  // namespace baton
