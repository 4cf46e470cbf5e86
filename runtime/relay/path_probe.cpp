#include "runtime/relay/path_probe.hpp"

namespace baton {

void path_probe::begin(const probe_paths& asked, time now) {
  if (const auto known = asked_.find(asked.job); known != asked_.end() && known->second.round >= asked.round) return;
  question q{.round = asked.round,
             .until = now + std::chrono::milliseconds(asked.within_ms),
             .next = now,
             .open = {},
             .reached = {}};
  for (const auto& to : asked.to) {
    q.open.insert({to, {}});
    for (const auto& via : asked.via) {
      if (via != to) q.open.insert({to, via});
    }
  }
  asked_[asked.job] = std::move(q);
}

void path_probe::answered(job_id job, std::uint32_t round, const paths_probed::path& way) {
  const auto known = asked_.find(job);
  if (known == asked_.end() || known->second.round != round) return;
  if (known->second.open.erase(way) > 0) known->second.reached.insert(way);
}

std::vector<path_probe::attempt> path_probe::due(time now) {
  std::vector<attempt> all;
  for (auto& [job, q] : asked_) {
    if (q.next > now) continue;
    q.next = now + again;
    for (const auto& way : q.open) all.push_back({job, q.round, way});
  }
  return all;
}

std::vector<paths_probed> path_probe::take_results(time now) {
  std::vector<paths_probed> all;
  for (auto at = asked_.begin(); at != asked_.end();) {
    const auto& q = at->second;
    if (!q.open.empty() && q.until > now) {
      ++at;
      continue;
    }
    all.push_back({at->first, q.round, {q.reached.begin(), q.reached.end()}});
    at = asked_.erase(at);
  }
  return all;
}

}  // namespace baton
