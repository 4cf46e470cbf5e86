#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "runtime/cluster/coordinator_logic.hpp"

// How the coordinator takes up what an earlier one has begun: the rest of the class is in coordinator_logic.cpp.
//
// Workers and relays outlive a coordinator and go on. The store knows which runs had begun, and the newest attempt of each rank. Whoever
// joins names the runs that it holds, and is asked about those that wait; by that question it hears this coordinator's generation, so that
// what it then tells is not changed by an earlier one any more. Ranks that nobody has told of in time are lost, as those of a dead worker
// are. Whatever an earlier coordinator may have left half said is settled by a round of fences, as after a death.
namespace baton {
namespace {

bool names(const std::vector<job_id>& runs, job_id run) { return std::ranges::find(runs, run) != runs.end(); }

log_fields about(job_id job) { return {{"job", static_cast<std::int64_t>(job)}}; }

}  // namespace

void coordinator_logic::resume(stored_job&& stored) {
  const job_id run = stored.begun->run;
  auto& job = jobs_[run];
  job.id = stored.id;
  job.asked = std::move(stored.asked);
  job.run = run;
  job.now = stage::resuming;
  job.plan = std::move(stored.begun->plan);
  job.log_bytes = relay_log_bytes(job.plan, model_.shape);
  job.begun = job.taken_up = true;
  // Later than any that relays may have heard.
  job.fence_round = first_run_of(store_.generation());
  job.probe_round = static_cast<std::uint32_t>(store_.generation() << 16);
  for (const auto& shard : job.plan.shards) {
    rank_entry rank;
    rank.attempt = stored.begun->attempts[static_cast<std::size_t>(shard.rank)];
    rank.progress.job = run;
    rank.progress.rank = shard.rank;
    job.ranks.push_back(std::move(rank));
  }
}

bool coordinator_logic::ask_what_is_held(peer_id worker, const worker_ready& who, double now_s) {
  const bool one_goes_on_without_it = std::ranges::any_of(who.jobs, [&](job_id run) {
    const auto* job = find(run);
    return job && job->now != stage::resuming;
  });
  if (one_goes_on_without_it) {
    dismiss_holder(worker, now_s);
    return false;
  }
  for (const job_id run : who.jobs) {
    auto* job = find(run);
    // Else it has ended, or was never begun.
    if (!job) {
      actions_.push_back(to_worker{worker, release_job{run}});
      continue;
    }
    job->reports_awaited.insert(worker);
    actions_.push_back(to_worker{worker, report_shards{run}});
  }
  return true;
}

void coordinator_logic::dismiss_holder(peer_id worker, double now_s) {
  worker_lost(worker, "it holds ranks of a job that has gone on without it", now_s);
  actions_.push_back(dismiss{worker});
}

void coordinator_logic::ask_what_is_held(peer_id relay, const relay_ready& who) {
  for (const job_id run : who.jobs) {
    auto* job = find(run);
    if (job && job->now == stage::resuming) {
      job->relays.insert(relay);
    } else {
      actions_.push_back(to_relay{relay, release_log{run}});
    }
  }
}

void coordinator_logic::worker_reported(peer_id worker, const shards_held& report, double now_s) {
  auto* job = find(report.job);
  if (!job) return;
  job->results_awaited.erase(worker);
  if (job->now != stage::resuming || job->reports_awaited.erase(worker) == 0) return;
  const auto& who = workers_.at(worker).who;
  // One that holds an older attempt has been given up once: it may lack what was said of the run since.
  const bool counts = std::ranges::all_of(report.shards, [&](const held_shard& held) {
    return held.rank < job->plan.ranks() && held.attempt >= job->ranks[static_cast<std::size_t>(held.rank)].attempt;
  });
  for (const auto& held : report.shards) {
    if (!counts) break;
    auto& rank = job->ranks[static_cast<std::size_t>(held.rank)];
    if (rank.worker != 0) forget_reports_of(*job, rank.worker);
    rank.worker = worker;
    rank.attempt = held.attempt;
    rank.reported = held;
    auto& shard = job->plan.shards[static_cast<std::size_t>(held.rank)];
    shard.node = who.node;
    shard.device = who.device;
  }
  take_up_what_can_be(now_s);
}

void coordinator_logic::forget_reports_of(job_entry& job, peer_id worker) {
  for (auto& rank : job.ranks) {
    if (rank.worker != worker) continue;
    rank.worker = 0;
    rank.reported.reset();
  }
}

bool coordinator_logic::all_declared_are_there() const {
  return !declared_.empty() && std::ranges::all_of(declared_, [&](const auto& place) {
    return relay_of(place.first) != 0 && std::ranges::any_of(workers_, [&](const auto& entry) {
             return entry.second.who.node == place.first && entry.second.who.device == place.second;
           });
  });
}

bool coordinator_logic::all_have_reported(const job_entry& job) const {
  return std::ranges::all_of(job.ranks, [&](const rank_entry& rank) {
    const auto worker = workers_.find(rank.worker);
    return worker != workers_.end() && job.relays.contains(relay_of(worker->second.who.node));
  });
}

void coordinator_logic::take_up_what_can_be(double now_s) {
  std::vector<job_id> due;
  for (auto& [run, job] : jobs_) {
    if (job.now != stage::resuming) continue;
    if (!job.take_up_at_s) job.take_up_at_s = now_s + limits_.take_up_s;
    const bool nobody_else_comes = job.reports_awaited.empty() && all_declared_are_there();
    if (all_have_reported(job) || nobody_else_comes || now_s >= *job.take_up_at_s) due.push_back(run);
  }
  for (const job_id run : due) {
    if (auto* job = find(run)) take_up(*job, now_s);
  }
  if (!due.empty()) queue_moved_ = true;
}

void coordinator_logic::take_up(job_entry& job, double now_s) {
  // A relay that does not hold the log has been started anew, and its node's workers are not long for this world.
  for (const peer_id worker : workers_of(job)) {
    if (!job.relays.contains(relay_of(workers_.at(worker).who.node))) forget_reports_of(job, worker);
  }
  const auto holders = workers_of(job);
  if (holders.empty()) return begin_anew(job);
  std::vector<peer_id> left_behind;
  for (const auto& [id, worker] : workers_) {
    if (names(worker.who.jobs, job.run) && !holders.contains(id)) left_behind.push_back(id);
  }
  for (const peer_id worker : left_behind) {
    const bool holds_others = std::ranges::any_of(jobs_, [&](const auto& entry) {
      return std::ranges::any_of(entry.second.ranks, [&](const rank_entry& r) { return r.worker == worker; });
    });
    if (holds_others) {
      job.unfit_workers.insert(worker);
      actions_.push_back(to_worker{worker, release_job{job.run}});
    } else {
      dismiss_holder(worker, now_s);
    }
  }
  job.reports_awaited.clear();
  try {
    job.ids = store_.ids_of(job.id);
    if (model_.memory_of) job.needs = model_.memory_of(job.plan);
  } catch (const superseded&) {
    throw;
  } catch (const fault& why) {
    return fail(job.run, failure_of(why));
  }
  int lost = 0;
  for (std::size_t rank = 0; rank < job.ranks.size(); ++rank) {
    auto& r = job.ranks[rank];
    if (r.worker == 0) {
      ++lost;
      const auto& shard = job.plan.shards[rank];
      const auto cause = fmt::format("device {}/{}: nobody has told this coordinator that it holds the rank",
                                     shard.node, shard.device);
      if (r.attempt >= static_cast<std::uint32_t>(limits_.replays_max))
        return fail(job.run, {fault_code::lost_peer, cause, fmt::format("rank {}", rank)});
      ++r.attempt;
      // How far it was nobody knows.
      r.replay = {cause, model_.shape.layers - 1, now_s, 0};
      continue;
    }
    r.ready = r.reported->at != held_shard::stage::preparing;
    r.progress.layer = r.reported->layer;
    r.progress.tokens_done = r.reported->tokens_done;
    r.progress.chunks = r.reported->chunks;
  }
  actions_.push_back(remark{log_level::info,
                            lost == 0 ? fmt::format("job {} goes on: all its ranks are held", job.id)
                                      : fmt::format("job {} goes on: {} of its {} ranks are held", job.id,
                                                    job.plan.ranks() - lost, job.plan.ranks()),
                            about(job.id)});
  if (lost > 0) keep_run(job);
  job.now = take_up_answer(job, now_s) ? stage::answering : stage::prefilling;
  job.prefill_began_s = job.moved_s = job.settled_s = now_s;
  for (auto& rank : job.ranks) rank.moved_s = now_s;
  job.results_awaited = holders;
  for (const peer_id worker : holders) actions_.push_back(to_worker{worker, report_results{job.run}});
  job.places_told = false;
  fence(job, now_s);
}

bool coordinator_logic::take_up_answer(job_entry& job, double now_s) {
  // Whoever knows the newest asking knows all tokens that earlier ones have led to.
  const held_shard* newest = nullptr;
  for (const auto& rank : job.ranks) {
    const auto* held = rank.reported ? &*rank.reported : nullptr;
    if (!held || !held->asked) continue;
    if (!newest || std::pair(held->repeat, held->tokens.size()) > std::pair(newest->repeat, newest->tokens.size()))
      newest = held;
  }
  if (!newest) return false;
  job.question_began_s = job.first_token_at_s = job.last_token_at_s = now_s;
  job.asked_again = newest->repeat;
  job.answer_ids = newest->tokens;
  for (std::size_t i = 0; i < job.answer_ids.size(); ++i)
    tell(job, answer_token{job.id, 0, static_cast<int>(i), job.answer_ids[i]});
  return std::ranges::all_of(job.ranks, [&](const rank_entry& rank) {
    return rank.reported && rank.reported->asked && rank.reported->repeat == job.asked_again;
  });
}

void coordinator_logic::keep_run(job_entry& job) {
  begun_run run{.run = job.run, .plan = job.plan, .attempts = {}};
  for (const auto& rank : job.ranks) run.attempts.push_back(rank.attempt);
  try {
    store_.began(job.id, run);
    job.begun = true;
    job.run_unkept = false;
  } catch (const superseded&) {
    throw;
  } catch (const fault& why) {
    // It runs on; should this coordinator die before there is room, the job may begin anew.
    if (!job.run_unkept) {
      actions_.push_back(
          remark{log_level::warning,
                 fmt::format("how far job {} is cannot be kept yet, and is tried again: {}", job.id, why.what()),
                 about(job.id)});
    }
    job.run_unkept = true;
  }
}

void coordinator_logic::begin_anew(job_entry& job) {
  actions_.push_back(
      remark{log_level::info, fmt::format("job {} begins anew: nobody holds any of its ranks", job.id), about(job.id)});
  kept_job waits = std::move(static_cast<kept_job&>(job));
  release(job);
  const auto later = std::ranges::find_if(queue_, [&](const kept_job& other) { return other.id > waits.id; });
  queue_.insert(later, std::move(waits));
}

}  // namespace baton
