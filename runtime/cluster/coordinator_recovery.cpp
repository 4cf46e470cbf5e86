#include <algorithm>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "runtime/cluster/coordinator_logic.hpp"

// What the coordinator does with the ranks of a dead worker: the rest of the class is in coordinator_logic.cpp.
namespace baton {

void coordinator_logic::lose_ranks_of(job_entry& job, peer_id worker, const worker_entry& gone, const std::string& why,
                                      double now_s) {
  if (job.now == stage::resuming) return forget_reports_of(job, worker);
  // The last rank's answer is the answer: who is lost after it is not needed any more.
  if (job.now == stage::answering && job.ranks.back().answer) return finish(job);
  for (std::size_t rank = 0; rank < job.ranks.size(); ++rank) {
    auto& r = job.ranks[rank];
    if (r.worker != worker) continue;
    const auto place = fmt::format("{}/{}", gone.who.node, gone.who.device);
    if (r.attempt >= static_cast<std::uint32_t>(limits_.replays_max)) {
      const auto how_often = r.attempt == 0 ? std::string() : fmt::format(", after {} replays of the shard", r.attempt);
      return fail(job.run, {fault_code::lost_peer, why + how_often,
                            fmt::format("rank {}, device {}, layer {}", rank, place, r.progress.layer)});
    }
    if (r.replay) close_replay(job, static_cast<int>(rank), now_s);
    r.replay = {fmt::format("device {}: {}", place, why), r.prefill ? model_.shape.layers - 1 : r.progress.layer, now_s,
                (now_s - gone.heard_s) * 1000};
    ++r.attempt;
    r.worker = 0;
    r.ready = false;
    r.reported.reset();
    r.prefill.reset();
    r.answer.reset();
    r.progress = {job.run, static_cast<int>(rank)};
  }
  job.moved_s = now_s;
  // Those that have answered so far wait for the lost one; all are asked again once it is back.
  if (job.now == stage::answering) job.now = stage::prefilling;
  if (job.now > stage::preparing) keep_run(job);
  if (job.now > stage::reserving) fence(job, now_s);
}

bool coordinator_logic::move_ranks_from(job_entry& job, const std::set<peer_id>& workers, bool may_wait,
                                        const std::string& why, double now_s) {
  const bool there_is_another = std::ranges::any_of(workers_, [&](const auto& entry) {
    return !workers.contains(entry.first) && !job.unfit_workers.contains(entry.first) &&
           relay_of(entry.second.who.node) != 0;
  });
  // One that is down for the moment may be back in time.
  const bool there_may_be = may_wait && std::ranges::any_of(joined_, [&](const auto& place) {
                              return std::ranges::none_of(workers, [&](peer_id id) {
                                return place == std::pair(workers_.at(id).who.node, workers_.at(id).who.device);
                              });
                            });
  if (!there_is_another && !there_may_be) return false;
  job.unfit_workers.insert(workers.begin(), workers.end());
  const job_id run = job.run;
  for (const peer_id worker : workers) {
    auto* still = find(run);
    if (!still) return true;  // it has ended over this
    actions_.push_back(to_worker{worker, release_job{run}});
    const auto left = workers_.at(worker);
    if (std::ranges::any_of(still->ranks, [&](const rank_entry& r) { return r.worker == worker; }))
      lose_ranks_of(*still, worker, left, why, now_s);
  }
  return true;
}

void coordinator_logic::fence(job_entry& job, double now_s) {
  ++job.fence_round;
  job.held.clear();
  job.fences_awaited = job.relays;
  fence_job command{job.run, job.fence_round, {}};
  for (const auto& rank : job.ranks) command.attempts.push_back(rank.attempt);
  for (const peer_id relay : job.relays) actions_.push_back(to_relay{relay, command});
  recover(job, now_s);
}

void coordinator_logic::recover_all(double now_s) {
  for (auto& [id, job] : jobs_) {
    if (job.now == stage::reserving && job.relays_awaited.empty()) {
      prepare_shards_of(job, now_s);
    } else if (job.now > stage::reserving) {
      recover(job, now_s);
    }
  }
}

void coordinator_logic::recover(job_entry& job, double now_s) {
  if (!job.fences_awaited.empty() || !job.relays_awaited.empty()) return;
  const bool any_lost = std::ranges::any_of(job.ranks, [](const rank_entry& r) { return r.worker == 0; });
  if (!any_lost && job.placed_round == job.fence_round) return;
  const auto places = places_for_lost_ranks(job);
  if (any_lost && places.empty()) {
    if (!job.unplaced_since_s) job.unplaced_since_s = now_s;
    return;
  }
  // Relays that had no rank of the job so far must have room for its log before they hear of its blocks.
  for (const auto& [rank, worker] : places) {
    const peer_id relay = relay_of(workers_.at(worker).who.node);
    if (!job.relays.contains(relay) && !job.relays_awaited.contains(relay)) ask_for_room(job, relay);
  }
  if (!job.relays_awaited.empty()) return;
  job.unplaced_since_s.reset();
  job.placed_round = job.fence_round;
  job.settled_s = now_s;
  place(job, places);
}

std::map<int, peer_id> coordinator_logic::places_for_lost_ranks(const job_entry& job) const {
  std::map<peer_id, int> load;
  for (const auto& rank : job.ranks) ++load[rank.worker];
  std::map<int, peer_id> places;
  for (std::size_t rank = 0; rank < job.ranks.size(); ++rank) {
    const auto& r = job.ranks[rank];
    if (r.worker != 0) continue;
    // The same bits if possible, blocks that are at hand next, then whoever has the least to do.
    const auto worse = [&](const auto& entry) {
      const auto& who = entry.second.who;
      const peer_id relay = relay_of(who.node);
      return std::tuple(who.kernel_class != job.plan.kernel_class, !job.relays.contains(relay), load[entry.first],
                        who.node != job.plan.shards[rank].node, who.node, who.device);
    };
    const std::pair<const peer_id, worker_entry>* best = nullptr;
    for (const auto& entry : workers_) {
      const peer_id relay = relay_of(entry.second.who.node);
      if (relay == 0 || job.relays_without_room.contains(relay) || r.without_room.contains(entry.first) ||
          job.unfit_workers.contains(entry.first))
        continue;
      if (!best || worse(entry) < worse(*best)) best = &entry;
    }
    if (!best) return {};
    places[static_cast<int>(rank)] = best->first;
    ++load[best->first];
  }
  return places;
}

void coordinator_logic::place(job_entry& job, const std::map<int, peer_id>& places) {
  for (const auto& [rank, worker] : places) {
    auto& r = job.ranks[static_cast<std::size_t>(rank)];
    const auto& who = workers_.at(worker).who;
    r.worker = worker;
    r.held = held_of(job, rank);
    auto& shard = job.plan.shards[static_cast<std::size_t>(rank)];
    shard.node = who.node;
    shard.device = who.device;
    const std::string cause = r.replay ? r.replay->cause : "";
    actions_.push_back(remark{
        log_level::info,
        fmt::format("rank {} of job {} is computed again on {}/{}: {}", rank, job.id, who.node, who.device, cause),
        {{"job", static_cast<std::int64_t>(job.id)}, {"rank", rank}, {"node", who.node}, {"device", who.device}}});
    tell(job, shard_moved{job.id, rank, r.attempt, who.node, who.device, cause});
  }
  if (model_.memory_of) job.needs = model_.memory_of(job.plan);
  name_reported_holders(job);
  ask_again_for_lost_blocks(job);
  ask_again_for_damaged_blocks(job, places);
  // Relays first: they take no block of a replayed rank before they know which ones count.
  place_blocks blocks{job.run, job.fence_round, {}, {}, {}};
  for (const auto& shard : job.plan.shards) {
    blocks.relays.push_back(relay_address(shard.node));
    std::map<std::uint32_t, std::vector<std::int32_t>> by_attempt;
    for (const auto& [layer, attempt] : job.ranks[static_cast<std::size_t>(shard.rank)].held)
      by_attempt[attempt].push_back(layer);
    for (auto& [attempt, layers] : by_attempt) blocks.holders.push_back({shard.rank, std::move(layers), attempt});
  }
  auto forwardings = forwardings_of(job);
  job.damaged_blocks.clear();
  if (!job.detours.empty()) tell_relays_of_detours(job);
  for (const peer_id relay : job.relays) {
    blocks.forwardings = std::move(forwardings[relay]);
    actions_.push_back(to_relay{relay, blocks});
  }
  const bool all_told = std::exchange(job.places_told, true);
  for (const peer_id worker : workers_of(job)) {
    const auto routes = routes_of(job, workers_.at(worker).who.node);
    for (int rank = 0; rank < job.plan.ranks(); ++rank) {
      const auto& place = routes.ranks[static_cast<std::size_t>(rank)];
      if (places.contains(rank) || (!all_told && place.attempt > 0))
        actions_.push_back(to_worker{worker, rewire_rank{job.run, rank, place}});
    }
  }
  for (const auto& [rank, worker] : places) assign(job, rank);
}

void coordinator_logic::name_reported_holders(job_entry& job) {
  for (std::size_t rank = 0; rank < job.ranks.size(); ++rank) {
    auto& r = job.ranks[rank];
    if (!r.reported) continue;
    const auto there = held_of(job, static_cast<int>(rank));
    for (const std::int32_t layer : r.reported->held_layers) {
      const auto copy = there.find(layer);
      r.held.emplace(layer, copy == there.end() ? 0 : copy->second);
    }
    r.reported.reset();
  }
}

void coordinator_logic::ask_again_for_lost_blocks(job_entry& job) {
  for (std::size_t rank = 0; rank < job.ranks.size(); ++rank) {
    auto& r = job.ranks[rank];
    const auto there = held_of(job, static_cast<int>(rank));
    std::vector<std::int32_t> lost;
    for (const auto& [layer, attempt] : r.held) {
      if (!there.contains(layer)) lost.push_back(layer);
    }
    if (lost.empty()) continue;
    for (const std::int32_t layer : lost) r.held.erase(layer);
    actions_.push_back(to_worker{r.worker, give_blocks{job.run, static_cast<int>(rank), std::move(lost)}});
  }
}

void coordinator_logic::ask_again_for_damaged_blocks(job_entry& job, const std::map<int, peer_id>& places) {
  for (const auto& [rank, layer] : job.damaged_blocks) {
    // One that has just been placed sends all that nobody holds.
    if (places.contains(rank)) continue;
    auto& r = job.ranks[static_cast<std::size_t>(rank)];
    const auto there = held_of(job, rank);
    if (const auto copy = there.find(layer); copy != there.end()) {
      // Left to its holders from now on: the rank is asked should they be lost before they have sent it.
      r.held.insert(*copy);
    } else {
      actions_.push_back(to_worker{r.worker, give_blocks{job.run, rank, {layer}}});
    }
  }
}

coordinator_logic::held_blocks coordinator_logic::held_of(const job_entry& job, int rank) const {
  held_blocks all;
  for (const auto& [relay, held] : job.held) {
    for (const auto& blocks : held) {
      if (blocks.rank != rank) continue;
      for (const std::int32_t layer : blocks.layers) all.emplace(layer, blocks.attempt);
    }
  }
  return all;
}

std::map<peer_id, std::vector<place_blocks::forwarding>> coordinator_logic::forwardings_of(const job_entry& job) const {
  const auto held_by = [&](peer_id relay, int rank) {
    std::set<std::int32_t> layers;
    if (const auto held = job.held.find(relay); held != job.held.end()) {
      for (const auto& blocks : held->second) {
        if (blocks.rank == rank) layers.insert(blocks.layers.begin(), blocks.layers.end());
      }
    }
    return layers;
  };
  std::map<peer_id, std::vector<place_blocks::forwarding>> all;
  for (const peer_id to : job.relays) {
    const auto& node = relays_.at(to).who.node;
    int last = -1;
    bool has_replayed = false;
    for (const auto& shard : job.plan.shards) {
      if (shard.node != node) continue;
      last = shard.rank;
      has_replayed = has_replayed || job.ranks[static_cast<std::size_t>(shard.rank)].attempt > 0;
    }
    for (int source = 0; source < last; ++source) {
      const auto& its_rank = job.ranks[static_cast<std::size_t>(source)];
      const auto there = held_by(to, source);
      std::set<std::int32_t> missing;
      for (const auto& [layer, attempt] : held_of(job, source)) {
        // What a living rank has given to its own relay, and has not left to holders, comes from there by itself, unless nobody here needed
        // it so far.
        const bool comes_by_itself = !has_replayed && its_rank.attempt == 0 && !its_rank.held.contains(layer);
        if (!there.contains(layer) && !comes_by_itself) missing.insert(layer);
      }
      for (const peer_id holder : job.relays) {
        rank_layers blocks{source, {}};  // whichever attempt made them: a layer's copies are of one
        std::ranges::set_intersection(held_by(holder, source), missing, std::back_inserter(blocks.layers));
        if (blocks.layers.empty()) continue;
        for (const std::int32_t layer : blocks.layers) missing.erase(layer);
        all[holder].push_back({relays_.at(to).who.address, std::move(blocks)});
      }
    }
  }
  return all;
}

void coordinator_logic::close_replay(job_entry& job, int rank, double now_s) {
  auto& r = job.ranks[static_cast<std::size_t>(rank)];
  const auto& replay = *r.replay;
  const auto worker = workers_.find(r.worker);
  const bool other_class = worker != workers_.end() && worker->second.who.kernel_class != job.plan.kernel_class;
  const int layers = r.prefill ? replay.layer + 1 : std::min(r.progress.layer, replay.layer + 1);
  job.replays.push_back({rank, replay.cause, layers, now_s - replay.noticed_s, replay.detect_ms, other_class});
  r.replay.reset();
}

void coordinator_logic::fail_the_unplaced(double now_s) {
  std::vector<std::pair<job_id, failure>> unplaced;
  for (const auto& [id, job] : jobs_) {
    if (!job.unplaced_since_s || now_s - *job.unplaced_since_s <= limits_.replacement_s) continue;
    const auto lost = std::ranges::find(job.ranks, peer_id{0}, &rank_entry::worker);
    if (lost == job.ranks.end()) continue;
    const auto why = !lost->without_room.empty() || !job.relays_without_room.empty()
                         ? "no other has room for it; raise recovery.reserve or the relays' logs, or add devices"
                         : "there is no other; start workers again or add devices";
    unplaced.push_back({id,
                        {fault_code::lost_peer,
                         fmt::format("its device was lost and {} ({})", why, lost->replay ? lost->replay->cause : "?"),
                         fmt::format("rank {}", lost - job.ranks.begin())}});
  }
  for (const auto& [id, why] : unplaced) fail(id, why);
}

}  // namespace baton
