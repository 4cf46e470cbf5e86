#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

#include "runtime/cluster/coordinator_logic.hpp"

// What clients ask the coordinator for, and the queue of jobs: the rest of the class is in coordinator_logic.cpp.
namespace baton {
namespace {

/// How often later jobs may go past one that waits for room; then they wait behind it.
constexpr int overtaken_max = 16;
/// Submissions whose ids are coming, on top of the queue's length.
constexpr std::size_t coming_extra = 16;
/// A client has this long to come back after the coordinator has been started again.
constexpr double return_s = 30;
constexpr std::size_t ended_shown = 16;

log_fields about(job_id job) { return {{"job", static_cast<std::int64_t>(job)}}; }

}  // namespace

void coordinator_logic::client_said(peer_id client, const client_request& request, double now_s) {
  now_s_ = now_s;
  const auto [entry, is_new] = clients_.try_emplace(client, client_entry{client_outbox(limits_.outbox)});
  entry->second.heard_s = now_s;
  try {
    std::visit([&](const auto& r) { client_asked(client, r, now_s); }, request);
  } catch (const superseded&) {
    throw;
  } catch (const fault& why) {
    if (why.code() == fault_code::bad_input) throw;
    // The store cannot even be read: that is told to whoever asks, and no reason to end.
    actions_.push_back(
        remark{log_level::warning, fmt::format("a request of client {} comes to nothing: {}", client, why.what()), {}});
    if (const auto* submission = std::get_if<submit_job>(&request))
      refuse(client, submission->request_id, failure_of(why), now_s);
  }
  start_what_fits(now_s);
}

void coordinator_logic::client_lost(peer_id client, double now_s) {
  now_s_ = now_s;
  clients_.erase(client);
  std::erase_if(coming_, [&](const auto& entry) { return entry.first.first == client; });
  std::vector<job_id> to_cancel;
  const auto leave = [&](kept_job& job) {
    job.followers.erase(client);
    if (job.owner != client) return;
    job.owner = 0;
    if (job.asked.detached) return;
    job.orphan_until_s = now_s + limits_.orphan_s;
    if (limits_.orphan_s <= 0) to_cancel.push_back(job.id);
  };
  for (auto& job : queue_) leave(job);
  for (auto& [run, job] : jobs_) leave(job);
  for (const job_id id : to_cancel) end_waiting(id, {fault_code::cancelled, "whoever asked is gone", {}}, now_s);
  start_what_fits(now_s);
}

// ---- submissions ----

plan_request coordinator_logic::request_of(const submit_job& asked) const {
  return {.document_tokens = asked.document_tokens,
          .query_tokens = asked.query_tokens,
          .system_tokens = asked.system_tokens,
          .positions_max = model_.positions_max,
          .has_retaining_heads = model_.has_retaining_heads,
          .options = asked.options};
}

std::optional<failure> coordinator_logic::queue_is_full(std::size_t waiting) const {
  if (waiting < limits_.queue_max) return {};
  return failure{fault_code::out_of_memory,
                 fmt::format("queue full: {} jobs wait, limit {}; try again later, or raise coordinator.queue", waiting,
                             limits_.queue_max),
                 "coordinator"};
}

void coordinator_logic::refuse(peer_id client, const std::string& request_id, const failure& why, double) {
  coming_.erase({client, request_id});
  tell(client, job_refused{request_id, why});
}

void coordinator_logic::client_asked(peer_id client, const submit_job& request, double now_s) {
  const auto bad = [&](const std::string& what, const std::string& where) {
    refuse(client, request.request_id, {fault_code::bad_input, what, where}, now_s);
  };
  if (request.request_id.empty()) return bad("it is empty", "request id");
  if (const auto known = store_.find(request.request_id)) {
    if (known->asked != request) return bad("it names another job already", "request id " + request.request_id);
    return attach(client, *known, true, now_s);
  }
  if (request.document_tokens < 1) return bad("it is empty", "document");
  if (request.query_tokens < 1) return bad("it is empty", "question");
  if (request.document_tokens + request.query_tokens > model_.positions_max) {
    return bad(fmt::format("{} document and {} query tokens exceed {} positions", request.document_tokens,
                           request.query_tokens, model_.positions_max),
               "document");
  }
  if (const auto full = queue_is_full(queue_.size())) return refuse(client, request.request_id, *full, now_s);
  if (coming_.size() >= limits_.queue_max + coming_extra) {
    return refuse(client, request.request_id,
                  {fault_code::out_of_memory,
                   fmt::format("queue full: {} submissions are coming in, limit {}; try again later", coming_.size(),
                               limits_.queue_max + coming_extra),
                   "coordinator"},
                  now_s);
  }
  coming_[{client, request.request_id}] = {request, {}};
}

void coordinator_logic::client_asked(peer_id client, const submit_ids& piece, double now_s) {
  const auto found = coming_.find({client, piece.request_id});
  if (found == coming_.end()) return;  // refused, or known from before
  auto& job = found->second;
  const auto bad = [&](const std::string& what) {
    refuse(client, piece.request_id, {fault_code::bad_input, what, "ids"}, now_s);
  };
  const auto total = static_cast<std::size_t>(job.asked.document_tokens + job.asked.query_tokens);
  if (piece.first != static_cast<std::int64_t>(job.ids.size()) || job.ids.size() + piece.ids.size() > total) {
    return bad(fmt::format("a piece at {} of {} ids where {} of {} are there", piece.first, piece.ids.size(),
                           job.ids.size(), total));
  }
  for (const std::int32_t token : piece.ids) {
    if (token < 0 || token >= model_.vocabulary)
      return bad(fmt::format("token id {} is outside the vocabulary of {}", token, model_.vocabulary));
  }
  job.ids.insert(job.ids.end(), piece.ids.begin(), piece.ids.end());
  if (job.ids.size() < total) return;
  auto whole = std::move(job);
  coming_.erase(found);
  accept(client, std::move(whole), now_s);
}

void coordinator_logic::accept(peer_id client, coming_job&& job, double now_s) {
  const auto& name = job.asked.request_id;
  // Somebody else may have brought the same one meanwhile.
  if (store_.find(name)) return client_asked(client, job.asked, now_s);
  if (const auto full = queue_is_full(queue_.size())) return refuse(client, name, *full, now_s);
  job_id id = 0;
  try {
    // What no plan can be made of is refused at the door; with the devices that are there, or are to come.
    auto devices = devices_for(0);
    if (devices.empty()) {
      for (const auto& [node, device] : declared_) devices.push_back({node, device, {}});
    }
    static_cast<void>(make_job_plan(request_of(job.asked), devices));
    id = store_.keep(job.asked, job.ids);
  } catch (const superseded&) {
    throw;
  } catch (const fault& why) {
    auto told = failure_of(why);
    if (why.code() != fault_code::bad_input) told.what = "the job cannot be kept, and so is not taken: " + told.what;
    return refuse(client, name, told, now_s);
  }
  queue_.push_back({.id = id, .asked = job.asked, .followers = {}});
  actions_.push_back(remark{log_level::info,
                            fmt::format("job {} is accepted: {} of {} document tokens", id, job.asked.options.strategy,
                                        job.asked.document_tokens),
                            {{"job", static_cast<std::int64_t>(id)},
                             {"strategy", job.asked.options.strategy},
                             {"document_tokens", job.asked.document_tokens}}});
  attach(client, {.id = id, .asked = std::move(job.asked)}, true, now_s);
  queue_moved_ = true;
}

void coordinator_logic::attach(peer_id client, const stored_job& job, bool owner, double) {
  const auto waits = std::ranges::find(queue_, job.id, &kept_job::id);
  const auto ahead = waits == queue_.end() ? 0 : static_cast<std::uint32_t>(waits - queue_.begin());
  tell(client, job_accepted{job.asked.request_id, job.id, ahead});
  if (job.end) {
    if (job.started) tell(client, *job.started);
    return tell(client, *job.end);
  }
  if (const auto unkept = unkept_ends_.find(job.id); unkept != unkept_ends_.end()) {
    if (unkept->second.started) tell(client, *unkept->second.started);
    return tell(client, unkept->second.end);
  }
  auto* kept = find_kept(job.id);
  if (!kept) return;
  kept->followers.insert(client);
  if (owner) {
    kept->owner = client;
    kept->orphan_until_s.reset();
  }
  const auto* running = find_running(job.id);
  if (!running) return;
  tell(client, job_started{running->id, running->plan});
  if (running->question_began_s > 0) tell(client, prefill_finished{running->id, running->prefill_s});
  for (const auto& detail : running->details) tell(client, detail);
  for (std::size_t i = 0; i < running->answer_ids.size(); ++i)
    tell(client, answer_token{running->id, 0, static_cast<int>(i), running->answer_ids[i]});
}

// ---- other wishes ----

void coordinator_logic::client_asked(peer_id client, const cancel_job& request, double now_s) {
  if (find_kept(request.job)) return end_waiting(request.job, {fault_code::cancelled, "cancelled", {}}, now_s);
  const auto known = store_.find(request.job);
  if (known && known->end) return tell(client, *known->end);
  if (const auto unkept = unkept_ends_.find(request.job); unkept != unkept_ends_.end())
    return tell(client, unkept->second.end);
  tell(client, job_unknown{request.job});
}

void coordinator_logic::client_asked(peer_id client, const follow_job& request, double now_s) {
  const auto known = store_.find(request.job);
  if (!known) return tell(client, job_unknown{request.job});
  attach(client, *known, false, now_s);
}

void coordinator_logic::client_asked(peer_id client, const ask_status&, double) { tell(client, status()); }

void coordinator_logic::client_asked(peer_id client, const ask_jobs&, double) {
  jobs_list list{store_.newest(jobs_listed_max)};
  for (auto& job : list.jobs) {
    if (const auto* running = find_running(job.id)) job.state = status_of(*running).state;
  }
  tell(client, std::move(list));
}

void coordinator_logic::client_asked(peer_id client, const grant_updates& request, double now_s) {
  auto& entry = clients_.at(client);
  entry.outbox.granted(request.count, now_s);
  send_what_may_be_sent(client, entry);
}

void coordinator_logic::client_asked(peer_id client, const client_alive&, double) {
  clients_.at(client).gives_signs = true;
}

void coordinator_logic::tell(const kept_job& job, const client_update& update) {
  for (const peer_id client : job.followers) tell(client, update);
}

void coordinator_logic::tell_detail(job_entry& job, client_update update) {
  tell(job, update);
  job.details.push_back(std::move(update));
}

void coordinator_logic::tell(peer_id client, client_update update) {
  const auto found = clients_.find(client);
  if (found == clients_.end()) return;
  found->second.outbox.put(std::move(update), now_s_);
  send_what_may_be_sent(client, found->second);
}

void coordinator_logic::send_what_may_be_sent(peer_id client, client_entry& to) {
  for (auto& update : to.outbox.take()) actions_.push_back(to_client{client, std::move(update)});
}

void coordinator_logic::drop_clients_that_do_not_read(double now_s) {
  std::vector<std::pair<peer_id, std::string>> gone;
  for (const auto& [id, client] : clients_) {
    if (client.outbox.overflows()) {
      gone.emplace_back(id, fmt::format("it does not read, and {} updates wait for it", client.outbox.waiting()));
    } else if (client.outbox.stalled(now_s)) {
      gone.emplace_back(id, fmt::format("it has not read anything for {:.0f} s", limits_.outbox.stall_s));
    } else if (client.gives_signs && now_s - client.heard_s > limits_.client_silence_s) {
      gone.emplace_back(id, fmt::format("silent for {:.0f} s", limits_.client_silence_s));
    }
  }
  for (const auto& [id, why] : gone) {
    actions_.push_back(remark{log_level::warning, fmt::format("client {} is dropped: {}", id, why)});
    actions_.push_back(dismiss{id});
    client_lost(id, now_s);
  }
}

void coordinator_logic::retry_unkept_ends() {
  for (auto& [run, job] : jobs_) {
    if (job.run_unkept) keep_run(job);
  }
  while (!unkept_ends_.empty()) {
    const auto& [id, what] = *unkept_ends_.begin();
    try {
      store_.ended(id, what.started, what.end);
    } catch (const superseded&) {
      throw;
    } catch (const fault&) {
      return;
    }
    actions_.push_back(remark{log_level::info, fmt::format("the end of job {} is kept now", id), about(id)});
    unkept_ends_.erase(unkept_ends_.begin());
  }
}

void coordinator_logic::cancel_orphans(double now_s) {
  std::vector<job_id> orphans;
  const auto look_at = [&](kept_job& job) {
    if (job.asked.detached || job.owner != 0) return;
    // From the journal: its client has to find the new coordinator first.
    if (!job.orphan_until_s) job.orphan_until_s = now_s + std::max(limits_.orphan_s, return_s);
    if (now_s > *job.orphan_until_s) orphans.push_back(job.id);
  };
  for (auto& job : queue_) look_at(job);
  for (auto& [run, job] : jobs_) look_at(job);
  for (const job_id id : orphans) end_waiting(id, {fault_code::cancelled, "whoever asked is gone", {}}, now_s);
}

// ---- the queue ----

bool coordinator_logic::assembled(double now_s) {
  if (assembled_) return true;
  if (!assembling_since_s_) assembling_since_s_ = now_s;
  const bool all_there = std::ranges::all_of(declared_, [&](const auto& place) {
    return relay_of(place.first) != 0 && std::ranges::any_of(workers_, [&](const auto& entry) {
             return entry.second.who.node == place.first && entry.second.who.device == place.second;
           });
  });
  assembled_ = all_there || now_s - *assembling_since_s_ > limits_.assemble_s;
  return assembled_;
}

void coordinator_logic::start_what_fits(double now_s) {
  if (!assembled(now_s) || !queue_moved_ || queue_.empty()) return;
  // What they take of devices and relays is not known yet.
  if (std::ranges::any_of(jobs_, [](const auto& entry) { return entry.second.now == stage::resuming; })) return;
  queue_moved_ = false;
  for (std::size_t i = 0; i < queue_.size() && jobs_.size() < limits_.running_max;) {
    auto& next = queue_[i];
    const auto devices = devices_for(next.asked.options.ranks);
    if (devices.empty()) return;
    job_plan plan;
    std::vector<device_need> needs;
    try {
      plan = make_job_plan(request_of(next.asked), devices);
      if (model_.memory_of) needs = model_.memory_of(plan);
    } catch (const fault& why) {
      end_waiting(next.id, failure_of(why), now_s);
      continue;
    }
    if (next.waits_for_an_end || !has_room(plan, needs)) {
      // A large one must not wait for ever while small ones keep coming.
      if (next.overtaken >= overtaken_max) return;
      ++i;
      continue;
    }
    for (std::size_t before = 0; before < i; ++before) ++queue_[before].overtaken;
    auto job = std::move(next);
    queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(i));
    start(std::move(job), std::move(plan), std::move(needs), now_s);
  }
}

bool coordinator_logic::has_room(const job_plan& plan, const std::vector<device_need>& needs) const {
  for (const auto& need : needs) {
    std::int64_t taken = 0;
    for (const auto& [run, job] : jobs_) {
      for (const auto& other : job.needs) {
        if (other.node == need.node && other.device == need.device) taken += other.bytes;
      }
    }
    const auto worker = std::ranges::find_if(workers_, [&](const auto& entry) {
      return entry.second.who.node == need.node && entry.second.who.device == need.device;
    });
    if (taken > 0 && worker != workers_.end() && taken + need.bytes > worker->second.who.memory_bytes) return false;
  }
  const std::int64_t log_bytes = relay_log_bytes(plan, model_.shape);
  for (const auto& [id, relay] : relays_) {
    if (std::ranges::none_of(plan.shards, [&](const shard_plan& s) { return s.node == relay.who.node; })) continue;
    std::int64_t taken = 0;
    for (const auto& [run, job] : jobs_) {
      if (job.relays.contains(id) || job.relays_awaited.contains(id)) taken += job.log_bytes;
    }
    if (taken > 0 && taken + log_bytes > relay.who.log_bytes_max) return false;
  }
  return true;
}

void coordinator_logic::start(kept_job&& kept, job_plan&& plan, std::vector<device_need>&& needs, double now_s) {
  const job_id run = ++last_run_;
  auto& job = jobs_[run];
  static_cast<kept_job&>(job) = std::move(kept);
  job.overtaken = 0;
  job.run = run;
  job.plan = std::move(plan);
  job.needs = std::move(needs);
  job.log_bytes = relay_log_bytes(job.plan, model_.shape);
  for (const auto& shard : job.plan.shards) {
    const auto worker = std::ranges::find_if(workers_, [&](const auto& entry) {
      return entry.second.who.node == shard.node && entry.second.who.device == shard.device;
    });
    rank_entry rank;
    rank.worker = worker->first;
    rank.progress.job = run;
    rank.progress.rank = shard.rank;
    job.ranks.push_back(rank);
  }
  try {
    job.ids = store_.ids_of(job.id);
  } catch (const fault& why) {
    return fail(run, failure_of(why));
  }
  actions_.push_back(
      remark{log_level::info, fmt::format("job {} begins on {} ranks", job.id, job.plan.ranks()), about(job.id)});
  tell(job, job_started{job.id, job.plan});
  for (const auto& [id, relay] : relays_) {
    if (std::ranges::any_of(job.plan.shards, [&](const shard_plan& shard) { return shard.node == relay.who.node; }))
      ask_for_room(job, id);
  }
  if (job.relays_awaited.empty()) prepare_shards_of(job, now_s);
}

void coordinator_logic::put_back(job_entry& job) {
  kept_job waits = std::move(static_cast<kept_job&>(job));
  release(job);
  waits.waits_for_an_end = true;
  queue_.push_front(std::move(waits));
}

void coordinator_logic::end_waiting(job_id id, const failure& why, double) {
  if (const auto* running = find_running(id)) return fail(running->run, why);
  const auto found = std::ranges::find(queue_, id, &kept_job::id);
  if (found == queue_.end()) return;
  const auto job = std::move(*found);
  queue_.erase(found);
  queue_moved_ = true;
  keep_end(job, {}, job_failed{id, why});
}

void coordinator_logic::keep_end(const kept_job& job, const std::optional<job_started>& started, client_update end) {
  const auto* running = find_running(job.id);
  auto status = running ? status_of(*running)
                        : job_status{.id = job.id,
                                     .strategy = job.asked.options.strategy,
                                     .document_tokens = job.asked.document_tokens,
                                     .ranks = {},
                                     .replays = {}};
  status.state = state_of(end);
  ended_.push_back(std::move(status));
  if (ended_.size() > ended_shown) ended_.pop_front();
  try {
    store_.ended(job.id, started, end);
  } catch (const superseded&) {
    throw;
  } catch (const fault& why) {
    actions_.push_back(
        remark{log_level::warning,
               fmt::format("the end of job {} cannot be kept yet, and is tried again: {}", job.id, why.what()),
               about(job.id)});
    unkept_ends_[job.id] = {started, end};
  }
  if (const auto* failed = std::get_if<job_failed>(&end)) {
    actions_.push_back(
        remark{log_level::info, fmt::format("job {} has no answer: {}", job.id, failed->why.what), about(job.id)});
  } else {
    actions_.push_back(remark{log_level::info, fmt::format("job {} has finished", job.id), about(job.id)});
  }
  tell(job, end);
}

coordinator_logic::kept_job* coordinator_logic::find_kept(job_id id) {
  if (auto* running = find_running(id)) return running;
  const auto found = std::ranges::find(queue_, id, &kept_job::id);
  return found == queue_.end() ? nullptr : &*found;
}

coordinator_logic::job_entry* coordinator_logic::find_running(job_id id) {
  const auto found = std::ranges::find_if(jobs_, [&](const auto& entry) { return entry.second.id == id; });
  return found == jobs_.end() ? nullptr : &found->second;
}

// ---- what is told of all this ----

job_status coordinator_logic::status_of(const job_entry& job) const {
  job_status status{.id = job.id,
                    .strategy = job.plan.strategy,
                    .document_tokens = job.asked.document_tokens,
                    .answer_tokens = static_cast<int>(job.answer_ids.size()),
                    .ranks = {},
                    .replays = job.replays};
  status.state = job.now == stage::answering    ? job_state::answering
                 : job.now == stage::prefilling ? job_state::prefilling
                                                : job_state::starting;
  for (std::size_t i = 0; i < job.ranks.size(); ++i) {
    const auto& rank = job.ranks[i];
    const auto& shard = job.plan.shards[i];
    const bool done = job.now == stage::answering ? rank.answer.has_value() : rank.prefill.has_value();
    const auto state = rank.worker == 0                 ? rank_state::lost
                       : !rank.ready                    ? rank_state::preparing
                       : done                           ? rank_state::done
                       : rank.progress.waiting_for >= 0 ? rank_state::waiting
                                                        : rank_state::computing;
    status.ranks.push_back({shard.rank, shard.node, shard.device, rank.attempt, rank.progress.layer, state,
                            state == rank_state::waiting ? rank.progress.waiting_for : -1});
  }
  return status;
}

cluster_status coordinator_logic::status() const {
  cluster_status all{.epoch = epoch_,
                     .generation = store_.generation(),
                     .coordinator_pid = ::getpid(),
                     .layers = model_.shape.layers,
                     .nodes = {},
                     .jobs = {}};
  const auto node_of = [&](const std::string& name) -> node_status& {
    const auto found = std::ranges::find(all.nodes, name, &node_status::name);
    if (found != all.nodes.end()) return *found;
    return all.nodes.emplace_back(node_status{.name = name, .devices = {}});
  };
  for (const auto& [node, device] : declared_) node_of(node).devices.push_back({.name = device});
  for (const auto& [id, relay] : relays_) {
    auto& node = node_of(relay.who.node);
    node.state = peer_state::idle;
    node.pid = relay.who.pid;
    node.relay_log_bytes = relay.log_bytes;
    node.relay_log_bytes_max = relay.who.log_bytes_max;
  }
  for (const auto& [id, worker] : workers_) {
    auto& node = node_of(worker.who.node);
    auto device = std::ranges::find(node.devices, worker.who.device, &device_status::name);
    if (device == node.devices.end()) device = node.devices.insert(device, {.name = worker.who.device});
    device->state = peer_state::idle;
    device->worker_pid = worker.who.pid;
    for (const auto& [run, job] : jobs_) {
      for (const auto& rank : job.ranks) {
        if (rank.worker != id) continue;
        device->state = peer_state::busy;
        const bool done = job.now == stage::answering ? rank.answer.has_value() : rank.prefill.has_value();
        if (device->job == 0) device->job = job.id;
        if (device->job == job.id && !done && (device->layer < 0 || rank.progress.layer < device->layer))
          device->layer = rank.progress.layer;
      }
    }
    if (device->state == peer_state::busy && node.state == peer_state::idle) node.state = peer_state::busy;
  }
  for (const auto& [run, job] : jobs_) all.jobs.push_back(status_of(job));
  for (const auto& job : queue_) {
    all.jobs.push_back({.id = job.id,
                        .state = job_state::queued,
                        .strategy = job.asked.options.strategy,
                        .document_tokens = job.asked.document_tokens,
                        .ranks = {},
                        .replays = {}});
  }
  for (auto job = ended_.rbegin(); job != ended_.rend(); ++job) all.jobs.push_back(*job);
  return all;
}

}  // namespace baton
