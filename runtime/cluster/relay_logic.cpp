#include "runtime/cluster/relay_logic.hpp"

#include <algorithm>

namespace baton {

std::optional<std::vector<job_id>> relay_logic::heeds(std::uint64_t generation) {
  if (generation < generation_) return {};
  std::vector<job_id> untold;
  if (std::exchange(generation_, generation) < generation) {
    for (const auto& [run, job] : jobs_) {
      if (!told_.contains(run)) untold.push_back(run);
    }
    for (const job_id run : untold) jobs_.erase(run);
  }
  return untold;
}

std::vector<job_id> relay_logic::joins() {
  told_.clear();
  for (const auto& [run, job] : jobs_) told_.insert(run);
  return {told_.begin(), told_.end()};
}

void relay_logic::tells_damages_again() {
  for (const auto& [run, job] : jobs_) {
    for (const auto& key : job.damaged) {
      if (!job.held.contains(key)) actions_.emplace_back(relay_report(block_damaged{run, key.source, key.layer}));
    }
  }
}

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

bool relay_logic::block_was_damaged(const send_block& sending) {
  const auto found = jobs_.find(sending.key.job);
  if (found == jobs_.end()) return true;  // released meanwhile
  auto& job = found->second;
  if (!job.damaged.insert(sending.key).second && job.held.contains(sending.key)) return false;
  job.held.erase(sending.key);
  // Whoever wants it waits; other relays get it from whomever the coordinator names.
  if (sending.kind == message_kind::answer && job.waiting[sending.key].insert(sending.to).second) ++job.wants;
  actions_.emplace_back(relay_report(block_damaged{sending.key.job, sending.key.source, sending.key.layer}));
  return true;
}

block_verdict relay_logic::judge(const block_key& key) const {
  const auto found = jobs_.find(key.job);
  if (found == jobs_.end()) return block_verdict::drop;
  const auto& job = found->second;
  if (job.held.contains(key)) return block_verdict::drop;
  if (job.unsettled.contains(key.source)) return block_verdict::later;
  const std::uint32_t attempt = key.source < job.attempts.size() ? job.attempts[key.source] : 0;
  if (attempt == 0) return block_verdict::take;
  // What has a holder comes from there as it was made. The newest attempt sends it only where the holders are gone, which this relay
  // is about to hear.
  if (const auto of_rank = job.holders.find(key.source); of_rank != job.holders.end()) {
    if (const auto holder = of_rank->second.find(key.layer); holder != of_rank->second.end()) {
      if (key.attempt == holder->second) return block_verdict::take;
      return key.attempt < attempt ? block_verdict::drop : block_verdict::later;
    }
  }
  return key.attempt < attempt ? block_verdict::drop : block_verdict::take;
}

void relay_logic::job_fenced_by(const fence_job& command) {
  job_fenced answer{command.job, command.round};
  if (const auto found = jobs_.find(command.job); found != jobs_.end() && command.round > found->second.round) {
    auto& job = found->second;
    job.round = command.round;
    job.given_since_fence.clear();
    job.attempts.resize(command.attempts.size());
    for (std::size_t rank = 0; rank < command.attempts.size(); ++rank) {
      job.attempts[rank] = std::max(job.attempts[rank], command.attempts[rank]);
      // Also of a rank that was not lost this time: what its holders still send may count no more, if they are gone.
      if (job.attempts[rank] > 0) job.unsettled.insert(static_cast<int>(rank));
    }
    std::map<std::pair<int, std::uint32_t>, std::set<std::int32_t>> held;  // by rank and attempt
    for (const auto& [key, targets] : job.held) held[{key.source, key.attempt}].insert(key.layer);
    for (const auto& [made_by, layers] : held)
      answer.held.push_back({made_by.first, {layers.begin(), layers.end()}, made_by.second});
  }
  actions_.emplace_back(relay_report(std::move(answer)));
}

void relay_logic::blocks_placed_by(const place_blocks& command) {
  const auto found = jobs_.find(command.job);
  if (found == jobs_.end() || found->second.round != command.round) return;
  auto& job = found->second;
  // Where a rank has come to a new node, that node lacks what was given here since the fence; the coordinator sees to the rest.
  std::vector<std::vector<std::string>> had_it;
  for (const auto& [key, targets] : job.given_since_fence) had_it.push_back(others_of(job, targets));
  job.relays = command.relays;
  for (std::size_t i = 0; i < had_it.size(); ++i) {
    const auto& [key, targets] = job.given_since_fence[i];
    for (const auto& to : others_of(job, targets)) {
      if (std::ranges::find(had_it[i], to) == had_it[i].end())
        actions_.emplace_back(send_block{to, message_kind::forward, key, targets});
    }
  }
  job.given_since_fence.clear();
  job.unsettled.clear();
  job.holders.clear();
  for (const auto& held : command.holders) {
    for (const std::int32_t layer : held.layers) job.holders[held.rank][layer] = held.attempt;
  }
  for (const auto& forwarding : command.forwardings) {
    for (const std::int32_t layer : forwarding.blocks.layers) {
      const block_key key{.job = command.job,
                          .layer = static_cast<std::uint16_t>(layer),
                          .source = static_cast<std::uint16_t>(forwarding.blocks.rank)};
      if (const auto held = job.held.find(key); held != job.held.end())
        actions_.emplace_back(send_block{forwarding.to, message_kind::forward, held->first, held->second});
    }
  }
}

bool relay_logic::holds(const block_key& key) const {
  const auto job = jobs_.find(key.job);
  return job != jobs_.end() && job->second.held.contains(key);
}

void relay_logic::block_given(const std::string& from, const block_key& key, rank_range targets) {
  if (judge(key) != block_verdict::take) return;
  auto& job = jobs_.at(key.job);
  for (const auto& to : others_of(job, targets)) {
    if (to != from) actions_.emplace_back(send_block{to, message_kind::forward, key, targets});
  }
  if (job.round > 0) job.given_since_fence.emplace_back(key, targets);
  keep(job, key, targets);
}

std::vector<std::string> relay_logic::others_of(const job_entry& job, rank_range targets) const {
  std::vector<std::string> others;
  const int ranks = static_cast<int>(job.relays.size());
  for (int rank = std::max(targets.first, 0); rank < std::min(targets.last, ranks); ++rank) {
    const auto& to = job.relays[static_cast<std::size_t>(rank)];
    if (!to.empty() && to != address_ && std::ranges::find(others, to) == others.end()) others.push_back(to);
  }
  return others;
}

void relay_logic::block_forwarded(const block_key& key, rank_range targets) {
  if (judge(key) != block_verdict::take) return;
  auto& job = jobs_.at(key.job);
  // Of this node's rank: its copy here was damaged, and others may wait for this relay to send it, even the one that has sent it, whose copy
  // may have been damaged since. When the rank gives it as well, that one falls.
  if (key.source < job.relays.size() && job.relays[key.source] == address_) return block_given({}, key, targets);
  keep(job, key, targets);
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
