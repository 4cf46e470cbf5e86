#include <algorithm>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "runtime/cluster/coordinator_logic.hpp"

// What the coordinator does about nodes that it reaches and that do not reach each other: the rest of the class is in coordinator_logic.cpp.
//
// A block that its rank has made and that does not come, or a job that stands still, is a reason to ask a relay whom it reaches: straight, and
// through which others. Where two nodes have a third one in between, what the job's processes on them say to each other goes through its
// relay from then on. Where there is none, or it does not help, the ranks of one of them move.
namespace baton {
namespace {

/// A relay tries no more ways than these to each of the others.
constexpr std::size_t vias_max = 8;

std::pair<std::string, std::string> ordered(const std::string& one, const std::string& other) {
  return std::minmax(one, other);
}

}  // namespace

void coordinator_logic::look_after_the_cut_off(double now_s) {
  if (limits_.cut_off_s <= 0) return;
  std::vector<job_id> runs;
  for (const auto& [run, job] : jobs_) runs.push_back(run);
  for (const job_id run : runs) {
    if (auto* job = find(run)) look_after_the_cut_off(*job, now_s);
  }
}

void coordinator_logic::look_after_the_cut_off(job_entry& job, double now_s) {
  if (job.probe) {
    if (now_s < job.probe->until_s) return;
    paths_are_known(job, {}, now_s);
  }
  const bool still = stands_still(job, limits_.cut_off_s, now_s);
  auto missed = missed_block(job, still, now_s);
  if (!missed) return;
  const auto node_of = [&](int rank) { return job.plan.shards[static_cast<std::size_t>(rank)].node; };
  const std::string reader = node_of(missed->first);
  const double since_s = still ? job.moved_s : job.ranks[static_cast<std::size_t>(missed->first)].moved_s;
  if (const auto& known = job.probed; known && known->at_s > since_s) {
    if (const auto useless = useless_holders(job); !useless.empty()) {
      for (const peer_id relay : useless) do_without(job, relay);
      return fence(job, now_s);
    }
    // On one node: what has not come is held by another one's relay.
    for (const auto& shard : job.plan.shards) {
      if (node_of(missed->second) == reader && known->node == reader && known->unreached.contains(shard.node))
        missed->second = shard.rank;
    }
    const bool has_no_way = known->node == reader && known->unreached.contains(node_of(missed->second));
    // A way that has been found, or was there, has its time too.
    const bool is_no_help = still && now_s - known->at_s > limits_.cut_off_s;
    const bool are_apart = node_of(missed->second) != reader;
    if (are_apart && (has_no_way || is_no_help)) return move_the_cut_off(job, *missed, now_s);
    if (still && are_apart) return;
  }
  if (job.probed && now_s - job.probed->at_s <= limits_.cut_off_s) return;
  const bool third_wanted = still && node_of(missed->second) != reader;
  if (!begin_to_probe(job, reader, third_wanted, now_s) && third_wanted) move_the_cut_off(job, *missed, now_s);
}

bool coordinator_logic::stands_still(const job_entry& job, double for_s, double now_s) const {
  if (job.now < stage::prefilling || now_s - job.moved_s <= for_s) return false;
  // A rank that computes is slow, however long its chunk takes, and whoever waits for it is right to.
  return std::ranges::all_of(job.ranks,
                             [&](const rank_entry& r) { return is_done(job, r) || r.progress.waiting_for >= 0; });
}

std::optional<std::pair<int, int>> coordinator_logic::missed_block(const job_entry& job, bool stands_still,
                                                                   double now_s) const {
  if (job.now < stage::prefilling) return {};
  // Two that wait for each other cannot reach each other; else the lowest rank is the one that holds up the rest.
  std::optional<std::pair<int, int>> found, on_one_node;
  for (std::size_t rank = 0; rank < job.ranks.size(); ++rank) {
    const auto& r = job.ranks[rank];
    if (is_done(job, r) || r.progress.waiting_for < 0 || r.progress.waiting_for >= static_cast<int>(job.ranks.size()))
      continue;
    const auto source = static_cast<std::size_t>(r.progress.waiting_for);
    const auto& other = job.ranks[source];
    if (!workers_.contains(r.worker) || !workers_.contains(other.worker)) continue;
    if (!stands_still && waits_in_vain_for(job, r, limits_.cut_off_s, now_s) < 0) continue;
    // On one node it may be a relay elsewhere that holds the block and does not reach this one.
    const std::pair<int, int> missed(rank, source);
    if (job.plan.shards[rank].node == job.plan.shards[source].node) {
      if (!on_one_node) on_one_node = missed;
      continue;
    }
    const bool mutual = other.progress.waiting_for == static_cast<int>(rank);
    if (!found || mutual) found = missed;
    if (mutual) break;
  }
  return found ? found : on_one_node;
}

bool coordinator_logic::begin_to_probe(job_entry& job, const std::string& node, bool third_wanted, double now_s) {
  const peer_id relay = relay_of(node);
  if (relay == 0 || relays_.at(relay).who.address.empty()) return false;
  probe_paths ask{.job = job.run, .round = ++job.probe_round, .to = {}, .via = {}};
  std::vector<std::pair<bool, std::string>> between;  // nodes that take part know each other already: first
  for (const auto& [id, other] : relays_) {
    const auto& address = other.who.address;
    if (id == relay || address.empty()) continue;
    const bool takes_part = job.relays.contains(id) || std::ranges::any_of(job.plan.shards, [&](const shard_plan& s) {
                              return s.node == other.who.node;
                            });
    if (takes_part) ask.to.push_back(address);
    between.emplace_back(!takes_part, address);
  }
  std::ranges::stable_sort(between, {}, [](const auto& b) { return b.first; });
  for (const auto& [last, address] : between) {
    if (ask.via.size() < vias_max) ask.via.push_back(address);
  }
  if (ask.to.empty() || (third_wanted && ask.via.size() < 2)) return false;
  const double within_s = limits_.cut_off_s / 3;
  ask.within_ms = static_cast<int>(within_s * 1000);
  job.probe = {node, ask.round, now_s + 2 * within_s};
  actions_.push_back(to_relay{relay, std::move(ask)});
  return true;
}

void coordinator_logic::paths_are_known(job_entry& job, const std::vector<paths_probed::path>& reached, double now_s) {
  const std::string node = job.probe->node;
  job.probe.reset();
  job.probed = {now_s, node};
  std::set<std::string> others;
  for (const auto& shard : job.plan.shards) {
    if (shard.node != node && relay_of(shard.node) != 0) others.insert(shard.node);
  }
  for (const peer_id relay : job.relays) {
    if (relays_.at(relay).who.node != node) others.insert(relays_.at(relay).who.node);
  }
  const auto carried_by = [&](const std::string& via) {
    std::size_t count = 0;
    for (const auto& [run, any] : jobs_)
      count +=
          static_cast<std::size_t>(std::ranges::count_if(any.detours, [&](const auto& d) { return d.second == via; }));
    return count;
  };
  for (const auto& other : others) {
    const auto address = relay_address(other);
    const auto between = ordered(node, other);
    const auto known = job.detours.find(between);
    const std::string before = known == job.detours.end() ? std::string() : known->second;
    // Straight if that is possible, else as before, else through whoever has the least to carry.
    std::vector<std::tuple<bool, bool, std::size_t, std::string>> ways;
    for (const auto& path : reached) {
      if (path.to != address) continue;
      const auto via = std::ranges::find_if(relays_, [&](const auto& r) { return r.second.who.address == path.via; });
      if (path.via.empty()) {
        ways.emplace_back(false, false, 0, std::string());
      } else if (via != relays_.end()) {
        const auto& name = via->second.who.node;
        ways.emplace_back(true, name != before, carried_by(name), name);
      }
    }
    if (ways.empty()) job.probed->unreached.insert(other);
    const auto now = ways.empty() ? std::string() : std::get<3>(*std::ranges::min_element(ways));
    if (now != before) take_detour(between, now);
  }
}

void coordinator_logic::take_detour(const node_pair& between, const std::string& via) {
  const auto& [one, other] = between;
  for (auto& [run, job] : jobs_) {
    const auto is_on = [&](const std::string& node) {
      return job.relays.contains(relay_of(node)) ||
             std::ranges::any_of(job.plan.shards, [&](const shard_plan& s) { return s.node == node; });
    };
    if (!is_on(one) || !is_on(other)) continue;
    if (via.empty()) {
      job.detours.erase(between);
    } else {
      job.detours[between] = via;
    }
    actions_.push_back(remark{
        log_level::info,
        via.empty() ? fmt::format("nodes {} and {} exchange blocks of job {} straight", one, other, job.id)
                    : fmt::format("nodes {} and {} do not reach each other: their blocks of job {} go through {}", one,
                                  other, job.id, via),
        {{"job", static_cast<std::int64_t>(job.id)}, {"node", one}, {"other", other}, {"via", via}}});
    tell_relays_of_detours(job);
    if (job.now == stage::reserving) continue;  // workers have not heard of it
    for (const peer_id worker : workers_of(job)) {
      const auto& node = workers_.at(worker).who.node;
      if (node != one && node != other) continue;
      const auto& there = node == one ? other : one;
      const auto routes = routes_of(job, node);
      for (const auto& shard : job.plan.shards) {
        const auto& place = routes.ranks[static_cast<std::size_t>(shard.rank)];
        if (shard.node == there && !place.address.empty())
          actions_.push_back(to_worker{worker, rewire_rank{run, shard.rank, place}});
      }
    }
  }
}

void coordinator_logic::lose_detours_through(const std::string& node, double now_s) {
  std::set<node_pair> lost;
  for (const auto& [run, job] : jobs_) {
    for (const auto& [between, via] : job.detours) {
      if (via == node) lost.insert(between);
    }
  }
  for (const auto& between : lost) {
    take_detour(between, {});
    for (auto& [run, job] : jobs_) {
      const bool takes_part =
          std::ranges::any_of(job.plan.shards, [&](const shard_plan& s) { return s.node == between.first; });
      if (takes_part && !job.probe) static_cast<void>(begin_to_probe(job, between.first, true, now_s));
    }
  }
}

void coordinator_logic::tell_relays_of_detours(const job_entry& job) {
  detour_job command{job.run, {}};
  for (const auto& [between, via] : job.detours) {
    detour d{relay_address(between.first), relay_address(between.second), relay_address(via)};
    if (!d.one.empty() && !d.other.empty() && !d.via.empty()) command.detours.push_back(std::move(d));
  }
  for (const auto& [id, relay] : relays_) actions_.push_back(to_relay{id, command});
}

std::string coordinator_logic::detour_between(const job_entry& job, const std::string& one,
                                              const std::string& other) const {
  const auto known = job.detours.find(ordered(one, other));
  return known == job.detours.end() ? std::string() : relay_address(known->second);
}

void coordinator_logic::move_the_cut_off(job_entry& job, std::pair<int, int> ranks, double now_s) {
  const auto& [low, high] = std::minmax(ranks.first, ranks.second);
  const std::string moved = job.plan.shards[static_cast<std::size_t>(high)].node;
  const std::string other = job.plan.shards[static_cast<std::size_t>(low)].node;
  std::set<peer_id> workers;
  for (const auto& [id, worker] : workers_) {
    if (worker.who.node == moved) workers.insert(id);
  }
  const job_id run = job.run;
  const auto why = fmt::format("nodes {} and {} do not seem to reach each other", moved, other);
  if (!move_ranks_from(job, workers, false, why, now_s)) return;
  auto* const goes_on = find(run);
  if (!goes_on) return;
  do_without(*goes_on, relay_of(moved));
  recover(*goes_on, now_s);  // the others may have been heard, or there may be none
}

std::vector<peer_id> coordinator_logic::useless_holders(const job_entry& job) const {
  std::vector<peer_id> all;
  for (const peer_id relay : job.relays) {
    const auto& node = relays_.at(relay).who.node;
    const bool has_ranks = std::ranges::any_of(job.plan.shards, [&](const shard_plan& s) { return s.node == node; });
    if (!has_ranks && job.probed->unreached.contains(node)) all.push_back(relay);
  }
  return all;
}

void coordinator_logic::do_without(job_entry& job, peer_id relay) {
  if (job.relays.erase(relay) + job.relays_awaited.erase(relay) == 0) return;
  job.fences_awaited.erase(relay);
  job.held.erase(relay);
  // Should it be needed again it begins with nothing, as one that has died.
  actions_.push_back(to_relay{relay, release_log{job.run}});
  if (!job.detours.empty()) tell_relays_of_detours(job);  // it may be in between others
}

}  // namespace baton
