#include "runtime/cluster/relay_logic.hpp"

#include <algorithm>

namespace baton {

void relay_logic::log_reserved_for(const reserve_log& command) {
  jobs_[command.job].relays = command.relays;
  actions_.emplace_back(relay_report(log_reserved{command.job}));
}

void relay_logic::log_refused_for(const reserve_log& command, std::int64_t bytes_free) {
  actions_.emplace_back(relay_report(log_refused{command.job, command.bytes, bytes_free}));
}

void relay_logic::log_refused_for(const reserve_log& command, const fault& why) {
  actions_.emplace_back(relay_report(log_failed{command.job, failure_of(why)}));
}

void relay_logic::log_broke(job_id job, const fault& why) {
  if (jobs_.erase(job) > 0) actions_.emplace_back(relay_report(log_failed{job, failure_of(why)}));
}

bool relay_logic::lacks(const block_key& key) const {
  const auto job = jobs_.find(key.job);
  return job != jobs_.end() && !job->second.held.contains(key);
}

bool relay_logic::holds(const block_key& key) const {
  const auto job = jobs_.find(key.job);
  return job != jobs_.end() && job->second.held.contains(key);
}

void relay_logic::block_given(const std::string& from, const block_key& key, rank_range targets) {
  if (!lacks(key)) return;
  auto& job = jobs_.at(key.job);
  std::set<std::string> others;
  const int ranks = static_cast<int>(job.relays.size());
  for (int rank = std::max(targets.first, 0); rank < std::min(targets.last, ranks); ++rank) {
    const auto& to = job.relays[static_cast<std::size_t>(rank)];
    if (!to.empty() && to != address_ && to != from && others.insert(to).second)
      actions_.emplace_back(send_block{to, message_kind::forward, key, targets});
  }
  keep(job, key, targets);
}

void relay_logic::block_forwarded(const block_key& key, rank_range targets) {
  if (lacks(key)) keep(jobs_.at(key.job), key, targets);
}

void relay_logic::block_wanted(const std::string& from, const block_key& key) {
  const auto found = jobs_.find(key.job);
  if (found == jobs_.end()) return;
  auto& job = found->second;
  if (const auto held = job.held.find(key); held != job.held.end()) {
    actions_.emplace_back(send_block{from, message_kind::answer, key, held->second});
  } else if (job.wants < wants_max && job.waiting[key].insert(from).second) {
    ++job.wants;
  }
}

void relay_logic::keep(job_entry& job, const block_key& key, rank_range targets) {
  job.held.emplace(key, targets);
  const auto found = job.waiting.find(key);
  if (found == job.waiting.end()) return;
  for (const auto& to : found->second) actions_.emplace_back(send_block{to, message_kind::answer, key, targets});
  job.wants -= found->second.size();
  job.waiting.erase(found);
}

}  // namespace baton
