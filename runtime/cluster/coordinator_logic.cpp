#include "runtime/cluster/coordinator_logic.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace baton {
namespace {

std::string place_of(const worker_ready& who) { return fmt::format("{}/{}", who.node, who.device); }

/// A worker's report as clients are told it: with the number by which they know the job.
template <class Report>
Report named(Report report, job_id job) {
  report.job = job;
  return report;
}

}  // namespace

coordinator_logic::coordinator_logic(served_model model, const coordinator_limits& limits,
                                     std::vector<std::pair<std::string, std::string>> declared, job_store* store)
    : model_(std::move(model)), limits_(limits), declared_(std::move(declared)), store_(store ? *store : memory_) {
  last_run_ = first_run_of(store_.generation());
  for (auto& job : store_.unfinished()) {
    if (job.begun) {
      last_run_ = std::max(last_run_, job.begun->run);
      resume(std::move(job));
    } else {
      queue_.push_back({.id = job.id, .asked = std::move(job.asked), .followers = {}});
    }
  }
  queue_moved_ = true;
}

void coordinator_logic::worker_joined(peer_id worker, const worker_ready& who, double now_s) {
  now_s_ = now_s;
  // There is one worker of a device: another one is what is left of a dead agent.
  const auto older = std::ranges::find_if(workers_, [&](const auto& entry) {
    return entry.first != worker && entry.second.who.node == who.node && entry.second.who.device == who.device;
  });
  if (older != workers_.end()) {
    const peer_id id = older->first;
    worker_lost(id, "another process has taken its place", now_s);
    actions_.push_back(dismiss{id});
  }
  ++epoch_;
  workers_[worker] = {who, now_s, now_s};
  actions_.push_back(remark{log_level::info,
                            fmt::format("the worker of {}/{} is there", who.node, who.device),
                            {{"node", who.node}, {"device", who.device}, {"pid", who.pid}}});
  joined_.insert({who.node, who.device});
  if (!ask_what_is_held(worker, who, now_s)) return;
  take_up_what_can_be(now_s);
  recover_all(now_s);
  queue_moved_ = true;
  start_what_fits(now_s);
}

void coordinator_logic::worker_lost(peer_id worker, const std::string& why, double now_s) {
  now_s_ = now_s;
  const auto found = workers_.find(worker);
  if (found == workers_.end()) return;
  expect_to_be_the_newest();
  const auto gone = found->second;
  workers_.erase(found);
  actions_.push_back(remark{log_level::info,
                            fmt::format("the worker of {}/{} is gone: {}", gone.who.node, gone.who.device, why),
                            {{"node", gone.who.node}, {"device", gone.who.device}}});
  ++epoch_;
  queue_moved_ = true;
  std::vector<job_id> hit;
  for (auto& [id, job] : jobs_) {
    job.reports_awaited.erase(worker);
    job.results_awaited.erase(worker);
    if (std::ranges::any_of(job.ranks, [&](const rank_entry& r) { return r.worker == worker; })) hit.push_back(id);
  }
  for (const job_id id : hit)
    lose_ranks_of(*find(id), worker, gone, fmt::format("the worker is gone ({})", why), now_s);
  start_what_fits(now_s);
}

void coordinator_logic::expect_to_be_the_newest() const {
  try {
    store_.expect_to_be_the_newest();
  } catch (const superseded&) {
    throw;
  } catch (const fault&) {
    // A store that cannot be read says nothing against it.
  }
}

void coordinator_logic::relay_joined(peer_id relay, const relay_ready& who, double now_s) {
  now_s_ = now_s;
  const auto older = std::ranges::find_if(
      relays_, [&](const auto& entry) { return entry.first != relay && entry.second.who.node == who.node; });
  if (older != relays_.end()) {
    const peer_id id = older->first;
    relay_lost(id, "another process has taken its place", now_s);
    actions_.push_back(dismiss{id});
  }
  ++epoch_;
  relays_[relay] = {who, now_s};
  actions_.push_back(
      remark{log_level::info, fmt::format("the relay of node {} is there", who.node), {{"node", who.node}}});
  ask_what_is_held(relay, who);
  take_up_what_can_be(now_s);
  recover_all(now_s);
  queue_moved_ = true;
  start_what_fits(now_s);
}

void coordinator_logic::relay_lost(peer_id relay, const std::string& why, double now_s) {
  now_s_ = now_s;
  const auto found = relays_.find(relay);
  if (found == relays_.end()) return;
  // Where it has left for a later coordinator, its node's workers are not this one's to dismiss.
  expect_to_be_the_newest();
  const std::string node = found->second.who.node;
  relays_.erase(found);
  actions_.push_back(
      remark{log_level::info, fmt::format("the relay of node {} is gone: {}", node, why), {{"node", node}}});
  ++epoch_;
  std::vector<job_id> holding;
  for (auto& [id, job] : jobs_) {
    if (job.relays.erase(relay) > 0 && job.now > stage::reserving) holding.push_back(id);
    job.relays_awaited.erase(relay);
    job.fences_awaited.erase(relay);
    job.held.erase(relay);
  }
  std::vector<peer_id> theirs;
  for (const auto& [id, worker] : workers_) {
    if (worker.who.node == node) theirs.push_back(id);
  }
  for (const peer_id worker : theirs) {
    worker_lost(worker, fmt::format("the relay of node {} is gone: {}", node, why), now_s);
    actions_.push_back(dismiss{worker});
  }
  // Also where no rank was lost: blocks may be.
  for (const job_id id : holding) {
    if (auto* job = find(id)) fence(*job, now_s);
  }
  lose_detours_through(node, now_s);
  recover_all(now_s);
  start_what_fits(now_s);
}

// ---- who takes part ----

void coordinator_logic::ask_for_room(job_entry& job, peer_id relay) {
  // Each node's relay keeps every block that its own ranks send or read: at most all of them.
  std::vector<std::string> relays;
  for (const auto& shard : job.plan.shards) relays.push_back(relay_address(shard.node));
  job.relays_awaited.insert(relay);
  actions_.push_back(to_relay{relay, reserve_log{job.run, job.log_bytes, std::move(relays)}});
}

std::vector<device_view> coordinator_logic::in_declared_order(std::vector<device_view> devices) const {
  // Never the order in which they happened to join: equal jobs get equal plans.
  std::ranges::sort(devices, {}, [&](const device_view& d) {
    const auto place = std::pair(d.node, d.device);
    return std::pair(std::ranges::find(declared_, place) - declared_.begin(), place);
  });
  return devices;
}

std::vector<device_view> coordinator_logic::devices_for(int ranks) const {
  std::map<peer_id, int> load;
  for (const auto& [run, job] : jobs_) {
    for (const auto& rank : job.ranks) ++load[rank.worker];
  }
  std::map<std::pair<std::string, std::string>, int> busy;
  std::vector<device_view> all;
  for (const auto& [id, worker] : workers_) {
    if (relay_of(worker.who.node) == 0) continue;
    all.push_back({worker.who.node, worker.who.device, worker.who.kernel_class, worker.who.block_multiple});
    busy[{worker.who.node, worker.who.device}] = load[id];
  }
  all = in_declared_order(std::move(all));
  if (ranks < 1 || all.size() <= static_cast<std::size_t>(ranks)) return all;
  std::ranges::stable_sort(all, {}, [&](const device_view& d) { return busy.at({d.node, d.device}); });
  all.resize(static_cast<std::size_t>(ranks));
  return in_declared_order(std::move(all));
}

job_routes coordinator_logic::routes_of(const job_entry& job, const std::string& node) const {
  job_routes routes;
  for (const auto& shard : job.plan.shards) {
    const auto& rank = job.ranks[static_cast<std::size_t>(shard.rank)];
    const auto worker = workers_.find(rank.worker);
    if (worker == workers_.end()) {
      routes.ranks.push_back({{}, rank.attempt});
    } else {
      routes.ranks.push_back({worker->second.who.address, rank.attempt, detour_between(job, node, shard.node)});
    }
  }
  routes.relay = relay_address(node);
  return routes;
}

peer_id coordinator_logic::relay_of(const std::string& node) const {
  const auto found = std::ranges::find_if(relays_, [&](const auto& entry) { return entry.second.who.node == node; });
  return found == relays_.end() ? 0 : found->first;
}

std::string coordinator_logic::relay_address(const std::string& node) const {
  const peer_id relay = relay_of(node);
  return relay == 0 ? std::string() : relays_.at(relay).who.address;
}

void coordinator_logic::relay_said(peer_id relay, const relay_report& report, double now_s) {
  now_s_ = now_s;
  const auto known = relays_.find(relay);
  if (known != relays_.end()) {
    known->second.heard_s = now_s;
    if (const auto* alive = std::get_if<relay_alive>(&report)) known->second.log_bytes = alive->log_bytes;
  }
  const std::string node = known == relays_.end() ? "?" : known->second.who.node;
  if (const auto* reserved = std::get_if<log_reserved>(&report)) {
    auto* job = find(reserved->job);
    if (!job || job->relays_awaited.erase(relay) == 0) return;
    job->relays.insert(relay);
    if (job->now != stage::reserving) {
      fence(*job, now_s);
    } else if (job->relays_awaited.empty()) {
      prepare_shards_of(*job, now_s);
    }
  } else if (const auto* fenced = std::get_if<job_fenced>(&report)) {
    auto* job = find(fenced->job);
    if (!job || fenced->round != job->fence_round || job->fences_awaited.erase(relay) == 0) return;
    job->held[relay] = fenced->held;
    recover(*job, now_s);
  } else if (const auto* refused = std::get_if<log_refused>(&report)) {
    auto* job = find(refused->job);
    if (job && job->now != stage::reserving && job->relays_awaited.erase(relay) > 0) {
      job->relays_without_room.insert(relay);
      return recover(*job, now_s);
    }
    if (job && jobs_.size() > 1) return put_back(*job);
    fail(refused->job,
         {fault_code::out_of_memory,
          fmt::format(
              "the relay's log has {} bytes free, the job needs {}; raise relay.log_memory or relay.log_disk, or lower "
              "passing-tokens",
              refused->bytes_free, refused->bytes_asked),
          "node " + node});
  } else if (const auto* broken = std::get_if<log_failed>(&report)) {
    auto why = broken->why;
    why.where = why.where.empty() ? "node " + node : fmt::format("{} (node {})", why.where, node);
    fail(broken->job, why);
  } else if (const auto* damaged = std::get_if<block_damaged>(&report)) {
    auto* job = find(damaged->job);
    if (!job || damaged->rank >= static_cast<int>(job->ranks.size())) return;
    if (job->now == stage::reserving) return;
    if (job->now == stage::resuming) {
      job->damaged_blocks.insert({damaged->rank, damaged->layer});
      return;
    }
    // Another relay may hold a copy, and that is the one that counts: all are asked. Also of a block that is known to be damaged, for this
    // is another copy, which its relay may have named.
    job->damaged_blocks.insert({damaged->rank, damaged->layer});
    fence(*job, now_s);
  } else if (const auto* probed = std::get_if<paths_probed>(&report)) {
    auto* job = find(probed->job);
    if (!job || !job->probe || job->probe->round != probed->round || job->probe->node != node) return;
    paths_are_known(*job, probed->reached, now_s);
  } else if (const auto* ended = std::get_if<worker_ended>(&report)) {
    const auto worker = std::ranges::find_if(workers_, [&](const auto& entry) {
      const auto& who = entry.second.who;
      return who.node == node && who.device == ended->device && (ended->pid == 0 || ended->pid == who.pid);
    });
    if (worker != workers_.end()) return worker_lost(worker->first, ended->how, now_s);
    // One that has joined and is gone already was noticed by its connection.
    if (!joined_.contains({node, ended->device}))
      trouble_ = fmt::format("the worker of {}/{} ended while it started: {}", node, ended->device, ended->how);
  }
  start_what_fits(now_s);
}

// ---- prefill and answer ----

void coordinator_logic::prepare_shards_of(job_entry& job, double now_s) {
  job.now = stage::preparing;
  for (const auto& shard : job.plan.shards) {
    if (job.ranks[static_cast<std::size_t>(shard.rank)].worker != 0) assign(job, shard.rank);
  }
  // A worker may have died since the job was planned.
  if (std::ranges::any_of(job.ranks, [](const rank_entry& r) { return r.worker == 0; })) fence(job, now_s);
}

void coordinator_logic::assign(const job_entry& job, int rank) {
  const auto& shard = job.plan.shards[static_cast<std::size_t>(rank)];
  const auto& entry = job.ranks[static_cast<std::size_t>(rank)];
  const peer_id worker = entry.worker;
  std::vector<std::int32_t> held_layers;
  for (const auto& [layer, attempt] : entry.held) held_layers.push_back(layer);
  actions_.push_back(
      to_worker{worker, assign_shard{job.run, rank, job.plan, routes_of(job, shard.node), job.asked.report_dump,
                                     job.asked.report_trace, std::move(held_layers)}});
  const auto document = std::span(job.ids).first(static_cast<std::size_t>(job.asked.document_tokens));
  const auto tokens = tokens_of(shard, document, std::span(job.ids).subspan(document.size()));
  for (std::size_t first = 0; first < tokens.ids.size(); first += ids_per_message) {
    const std::size_t count = std::min<std::size_t>(ids_per_message, tokens.ids.size() - first);
    const auto at = tokens.ids.begin() + static_cast<std::ptrdiff_t>(first);
    actions_.push_back(to_worker{
        worker,
        shard_ids{job.run, rank, static_cast<std::int64_t>(first), {at, at + static_cast<std::ptrdiff_t>(count)}}});
  }
}

void coordinator_logic::start_prefill_of(job_entry& job, double now_s) {
  job.now = stage::prefilling;
  job.prefill_began_s = job.moved_s = now_s;
  keep_run(job);
  for (const auto& shard : job.plan.shards) {
    const auto& rank = job.ranks[static_cast<std::size_t>(shard.rank)];
    actions_.push_back(to_worker{rank.worker, start_shard{job.run, shard.rank}});
  }
}

void coordinator_logic::start_answer_of(job_entry& job, double now_s) {
  const bool again = job.question_began_s > 0;
  job.now = stage::answering;
  job.moved_s = now_s;
  if (again) {
    ++job.asked_again;
  } else {
    job.prefill_s = std::max(job.prefill_s, now_s - job.prefill_began_s);
    job.question_began_s = now_s;
    tell(job, prefill_finished{job.id, job.prefill_s});
  }
  question asked;
  asked.repeat = job.asked_again;
  asked.forced_tokens = job.answer_ids;
  asked.query_ids.assign(job.ids.begin() + job.asked.document_tokens, job.ids.end());
  asked.max_new_tokens = job.plan.max_new_tokens;
  asked.stop_tokens = job.asked.stop_tokens;
  asked.sampling = job.plan.sampling;
  for (auto& rank : job.ranks) {
    rank.moved_s = now_s;
    rank.progress.waiting_for = -1;
    rank.answer.reset();
  }
  for (const peer_id worker : workers_of(job))
    actions_.push_back(to_worker{worker, ask_question{job.run, asked, job.asked.report_dump}});
}

void coordinator_logic::finish(job_entry& job) {
  job_finished done;
  done.job = job.id;
  done.prefill_s = job.prefill_s;
  done.first_token_s = job.first_token_at_s - job.question_began_s;
  done.decode_s = job.last_token_at_s - job.first_token_at_s;
  done.answer_ids = job.answer_ids;
  for (std::size_t rank = 0; rank < job.ranks.size(); ++rank) {
    const auto& r = job.ranks[rank];
    // A rank that was lost when the answer was there has no timings.
    done.ranks.push_back(
        {static_cast<int>(rank), r.prefill.value_or(shard_timings{}), r.answer.value_or(shard_timings{})});
  }
  done.replays = job.replays;
  keep_end(job, job_started{job.id, job.plan}, std::move(done));
  release(job);
}

void coordinator_logic::fail(job_id run, const failure& why) {
  auto* job = find(run);
  if (!job) return;
  keep_end(*job, job_started{job->id, job->plan}, job_failed{job->id, why});
  release(*job);
}

void coordinator_logic::release(job_entry& job) {
  auto workers = workers_of(job);
  for (const auto& [id, worker] : workers_) {
    if (std::ranges::find(worker.who.jobs, job.run) != worker.who.jobs.end()) workers.insert(id);
  }
  for (const peer_id worker : workers) actions_.push_back(to_worker{worker, release_job{job.run}});
  for (const auto& [id, relay] : relays_) actions_.push_back(to_relay{id, release_log{job.run}});
  jobs_.erase(job.run);
  for (auto& waits : queue_) waits.waits_for_an_end = false;
  queue_moved_ = true;
}

// ---- reports of workers ----

void coordinator_logic::worker_said(peer_id worker, const worker_report& report, double now_s) {
  if (const auto found = workers_.find(worker); found != workers_.end()) found->second.heard_s = now_s;
  now_s_ = now_s;
  std::visit([&](const auto& r) { worker_reported(worker, r, now_s); }, report);
  start_what_fits(now_s);
}

void coordinator_logic::worker_reported(peer_id worker, const worker_ready& report, double now_s) {
  worker_joined(worker, report, now_s);
}

void coordinator_logic::worker_reported(peer_id, const worker_alive&, double) {}

void coordinator_logic::worker_reported(peer_id worker, const shard_ready& report, double now_s) {
  auto* job = job_of(worker, report.job, report.rank);
  if (!job) return;
  job->ranks[static_cast<std::size_t>(report.rank)].ready = true;
  if (job->now > stage::preparing) {
    // A replay: the others are under way.
    actions_.push_back(to_worker{worker, start_shard{report.job, report.rank}});
    job->moved_s = job->ranks[static_cast<std::size_t>(report.rank)].moved_s = now_s;
    return;
  }
  if (job->now == stage::preparing && std::ranges::all_of(job->ranks, &rank_entry::ready))
    start_prefill_of(*job, now_s);
}

void coordinator_logic::worker_reported(peer_id worker, const shard_progress& report, double now_s) {
  auto* job = job_of(worker, report.job, report.rank);
  if (!job) return;
  auto& rank = job->ranks[static_cast<std::size_t>(report.rank)];
  const bool done = is_done(*job, rank);
  if (report.chunks != rank.progress.chunks || (report.waiting_for < 0 && !done)) job->moved_s = now_s;
  if (report.chunks != rank.progress.chunks) workers_.at(worker).moved_s = now_s;
  if (report.chunks != rank.progress.chunks || report.waiting_for != rank.progress.waiting_for) rank.moved_s = now_s;
  rank.progress = report;
  if (rank.replay && rank.ready && report.layer > rank.replay->layer) close_replay(*job, report.rank, now_s);
  job->progress_changed = true;
}

void coordinator_logic::worker_reported(peer_id worker, const shard_finished& report, double now_s) {
  auto* job = job_of(worker, report.job, report.rank);
  if (!job || job->now < stage::prefilling) return;
  auto& rank = job->ranks[static_cast<std::size_t>(report.rank)];
  if (job->now == stage::answering && rank.prefill) return;
  rank.prefill = report.timings;
  rank.moved_s = now_s;
  // When it began only an earlier coordinator knew.
  if (job->taken_up) job->prefill_s = std::max(job->prefill_s, report.timings.total_s);
  if (rank.replay) close_replay(*job, report.rank, now_s);
  rank.progress.tokens_done = model_.shape.layers * job->plan.shards[static_cast<std::size_t>(report.rank)].tokens();
  rank.progress.waiting_for = -1;
  job->progress_changed = true;
  if (!std::ranges::all_of(job->ranks, [](const rank_entry& r) { return r.prefill.has_value(); })) return;
  job->now == stage::answering ? tell(*job, prefill_finished{job->id, job->prefill_s}) : start_answer_of(*job, now_s);
}

void coordinator_logic::worker_reported(peer_id worker, const chosen_units& report, double) {
  auto* job = job_of(worker, report.job, report.rank);
  if (!job) return;
  // What a replayed rank tells again stands in for what it told before.
  tell_detail(*job, named(report, job->id));
}

void coordinator_logic::worker_reported(peer_id worker, const trace_spans& report, double) {
  if (auto* job = job_of(worker, report.job, report.rank)) tell_detail(*job, named(report, job->id));
}

void coordinator_logic::worker_reported(peer_id, const answer_token& report, double now_s) {
  auto* job = find(report.job);
  // A token is known by its index: duplicates fall. What an earlier asking chose comes too late: the next may have chosen otherwise.
  if (!job || job->now != stage::answering || report.repeat != job->asked_again) return;
  if (report.index != static_cast<int>(job->answer_ids.size())) return;
  if (report.index == 0) job->first_token_at_s = now_s;
  job->last_token_at_s = now_s;
  job->answer_ids.push_back(report.token);
  tell(*job, named(report, job->id));
}

void coordinator_logic::worker_reported(peer_id, const first_logits& report, double) {
  auto* job = find(report.job);
  if (!job || report.first != job->logits_told) return;
  job->logits_told += static_cast<std::int64_t>(report.values.size());
  tell_detail(*job, named(report, job->id));
}

void coordinator_logic::worker_reported(peer_id worker, const answer_finished& report, double now_s) {
  auto* job = job_of(worker, report.job, report.rank);
  if (!job || job->now != stage::answering || report.repeat != job->asked_again) return;
  if (job->answer_ids.empty()) job->first_token_at_s = job->last_token_at_s = now_s;
  job->ranks[static_cast<std::size_t>(report.rank)].answer = report.timings;
  job->ranks[static_cast<std::size_t>(report.rank)].moved_s = now_s;
  if (std::ranges::all_of(job->ranks, [](const rank_entry& r) { return r.answer.has_value(); })) finish(*job);
}

void coordinator_logic::worker_reported(peer_id worker, const shard_failed& report, double now_s) {
  auto* job = job_of(worker, report.job, report.rank);
  if (!job) return;
  auto& rank = job->ranks[static_cast<std::size_t>(report.rank)];
  if (rank.attempt > 0 && !rank.ready && report.why.code == fault_code::out_of_memory) {
    // No room for the replay there; somebody else may have some.
    rank.without_room.insert(worker);
    rank.worker = 0;
    return fence(*job, now_s);
  }
  // There is no room beside the others, which `has_room` could not know: extents lie where they lie.
  if (job->now == stage::preparing && report.why.code == fault_code::out_of_memory && jobs_.size() > 1)
    return put_back(*job);
  // A device that failed at this may do so again, another may not; the worker itself lives.
  if ((report.why.code == fault_code::device || report.why.code == fault_code::corruption) &&
      job->now > stage::reserving && rank.attempt < static_cast<std::uint32_t>(limits_.replays_max)) {
    rank.progress.layer = report.layer;
    const auto cause =
        report.why.where.empty() ? report.why.what : fmt::format("{}: {}", report.why.where, report.why.what);
    if (move_ranks_from(*job, {worker}, true, "its device failed (" + cause + ")", now_s)) return;
  }
  failure why = report.why;
  // A stopped rank says so because of another's failure, which is told first.
  const std::string place =
      fmt::format("rank {}, device {}, layer {}", report.rank, place_of(workers_.at(worker).who), report.layer);
  why.where = why.where.empty() ? place : fmt::format("{} ({})", why.where, place);
  fail(report.job, why);
}

void coordinator_logic::worker_reported(peer_id, const job_released&, double) {}

// ---- time ----

void coordinator_logic::give_up_the_silent(double now_s) {
  // Where nobody at all is heard it is rather this process that does not hear: they get five times as long, which costs little, for
  // nobody would be left to replay on.
  double heard_s = 0;
  for (const auto& [id, worker] : workers_) heard_s = std::max(heard_s, worker.heard_s);
  for (const auto& [id, relay] : relays_) heard_s = std::max(heard_s, relay.heard_s);
  const double unheard_s = now_s - heard_s;
  if (unheard_s > limits_.silence_s / 2 && unheard_s <= 5 * limits_.silence_s) return;
  const auto silent_of = [&](const auto& peers) {
    std::vector<peer_id> silent;
    for (const auto& [id, peer] : peers) {
      if (now_s - peer.heard_s > limits_.silence_s) silent.push_back(id);
    }
    return silent;
  };
  const auto why = fmt::format("silent for {:.1f} s", limits_.silence_s);
  for (const peer_id id : silent_of(workers_)) {
    worker_lost(id, why, now_s);
    actions_.push_back(dismiss{id});
  }
  for (const peer_id id : silent_of(relays_)) {
    relay_lost(id, why, now_s);
    actions_.push_back(dismiss{id});
  }
}

bool coordinator_logic::is_done(const job_entry& job, const rank_entry& rank) {
  return job.now == stage::answering ? rank.answer.has_value() : rank.prefill.has_value();
}

int coordinator_logic::waits_in_vain_for(const job_entry& job, const rank_entry& rank, double for_s,
                                         double now_s) const {
  const int source = rank.progress.waiting_for;
  if (job.now < stage::prefilling || is_done(job, rank) || source < 0 || source >= static_cast<int>(job.ranks.size()))
    return -1;
  // While it is being settled who is where and who has which block, nobody is late.
  if (!job.fences_awaited.empty() || job.placed_round != job.fence_round) return -1;
  // Whoever is to make it has deadlines of its own: as a worker that is silent, a device that hangs, a rank that waits.
  const auto& other = job.ranks[static_cast<std::size_t>(source)];
  const bool is_made =
      is_done(job, other) || (job.now == stage::prefilling && other.progress.layer > rank.progress.layer);
  if (!is_made || !workers_.contains(rank.worker) || !workers_.contains(other.worker)) return -1;
  return now_s - std::max({rank.moved_s, other.moved_s, job.settled_s}) > for_s ? source : -1;
}

void coordinator_logic::give_up_the_hung(double now_s) {
  if (limits_.hung_s <= 0) return;
  std::set<peer_id> computing;
  for (const auto& [run, job] : jobs_) {
    if (job.now < stage::prefilling) continue;
    for (const auto& rank : job.ranks) {
      if (rank.ready && !is_done(job, rank) && rank.progress.waiting_for < 0) computing.insert(rank.worker);
    }
  }
  std::vector<peer_id> hung;
  for (auto& [id, worker] : workers_) {
    if (!computing.contains(id)) {
      worker.moved_s = now_s;
    } else if (now_s - worker.moved_s > limits_.hung_s) {
      hung.push_back(id);
    }
  }
  // The worker lives and its device does not: whatever else it is told to do there would not be done either.
  for (const peer_id id : hung) {
    worker_lost(id, fmt::format("its device hangs: it has computed for {:.0f} s and ended no chunk", limits_.hung_s),
                now_s);
    actions_.push_back(dismiss{id});
  }
}

void coordinator_logic::fail_the_stuck(double now_s) {
  std::vector<std::pair<job_id, failure>> stuck;
  for (const auto& [id, job] : jobs_) {
    if (!stands_still(job, limits_.stuck_s, now_s)) {
      for (std::size_t rank = 0; rank < job.ranks.size(); ++rank) {
        const auto& r = job.ranks[rank];
        const int source = waits_in_vain_for(job, r, limits_.stuck_s, now_s);
        if (source < 0) continue;
        stuck.push_back(
            {id,
             {fault_code::deadline,
              fmt::format("it waits for a block that rank {} has made, and neither has moved for {:.0f} s: it is lost",
                          source, limits_.stuck_s),
              fmt::format("rank {}, layer {}", rank, r.progress.layer)}});
        break;
      }
      continue;
    }
    const auto first = std::ranges::find_if_not(job.ranks, [&](const rank_entry& r) { return is_done(job, r); });
    if (first == job.ranks.end()) continue;
    stuck.push_back(
        {id,
         {fault_code::deadline,
          fmt::format("every rank waits for a block and none has moved for {:.0f} s: a block of rank {} is lost",
                      limits_.stuck_s, first->progress.waiting_for),
          fmt::format("rank {}, layer {}", first - job.ranks.begin(), first->progress.layer)}});
  }
  for (const auto& [id, why] : stuck) fail(id, why);
}

void coordinator_logic::tick(double now_s) {
  // Whatever held up this process held up what it was told as well: that is nobody's silence.
  const double late_s = last_tick_s_ == 0 ? 0 : now_s - last_tick_s_ - limits_.tick_s;
  last_tick_s_ = now_s;
  if (late_s > limits_.tick_s) {
    for (auto& [id, worker] : workers_) {
      worker.heard_s += late_s;
      worker.moved_s += late_s;
    }
    for (auto& [id, relay] : relays_) relay.heard_s += late_s;
    for (auto& [id, job] : jobs_) {
      job.moved_s += late_s;
      job.settled_s += late_s;
      for (auto& rank : job.ranks) rank.moved_s += late_s;
      if (job.probe) job.probe->until_s += late_s;
      if (job.probed) job.probed->at_s += late_s;
      if (job.take_up_at_s) *job.take_up_at_s += late_s;
    }
    for (auto& [id, client] : clients_) {
      client.heard_s += late_s;
      client.outbox.excuse(late_s);
    }
  }
  now_s_ = now_s;
  give_up_the_silent(now_s);
  take_up_what_can_be(now_s);
  fail_the_unplaced(now_s);
  give_up_the_hung(now_s);
  look_after_the_cut_off(now_s);
  fail_the_stuck(now_s);
  retry_unkept_ends();
  drop_clients_that_do_not_read(now_s);
  cancel_orphans(now_s);
  start_what_fits(now_s);
  for (auto& [run, job] : jobs_) {
    if (!std::exchange(job.progress_changed, false)) continue;
    job_progress now{job.id, {}};
    for (const auto& rank : job.ranks) now.ranks.push_back(named(rank.progress, job.id));
    tell(job, now);
  }
}

std::vector<coordinator_action> coordinator_logic::take_actions() { return std::exchange(actions_, {}); }

coordinator_logic::job_entry* coordinator_logic::job_of(peer_id worker, job_id run, int rank) {
  auto* const found = find(run);
  if (!found || rank < 0 || rank >= static_cast<int>(found->ranks.size())) return nullptr;
  // It will tell all of it again, from the beginning.
  if (found->now == stage::resuming || found->results_awaited.contains(worker)) return nullptr;
  return found->ranks[static_cast<std::size_t>(rank)].worker == worker ? found : nullptr;
}

coordinator_logic::job_entry* coordinator_logic::find(job_id run) {
  const auto found = jobs_.find(run);
  return found == jobs_.end() ? nullptr : &found->second;
}

std::set<peer_id> coordinator_logic::workers_of(const job_entry& job) const {
  std::set<peer_id> ids;
  for (const auto& rank : job.ranks) {
    if (workers_.contains(rank.worker)) ids.insert(rank.worker);
  }
  return ids;
}

}  // namespace baton
