#include "tests/support/simulated_cluster.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

namespace baton {
namespace {

constexpr std::int64_t steps_max = 200'000;
constexpr int answer_tokens = 3;
constexpr double assemble_s = 0.05;
/// A block's value says which generation made it, and which attempt.
constexpr std::uint32_t generation_unit = 1000;

[[noreturn]] void broken(const std::string& promise) { throw std::runtime_error(promise); }

/// A coordinator is killed inside an event.
struct killed_inside {};

/// The number of the job that a message is about; 0: of none.
template <class Variant>
job_id job_in(const Variant& message) {
  return std::visit(
      [](const auto& m) -> job_id {
        if constexpr (requires { m.job; }) return m.job;
        return 0;
      },
      message);
}

}  // namespace

struct simulated_cluster::data_message {
  message_kind kind = message_kind::want;
  std::string from;
  std::string to;  ///< of a direct block: nobody; its target's place is looked up when it is delivered
  block_key key;
  rank_range targets;
  std::uint32_t value = 0;           ///< the attempt that made the block
  std::vector<std::int32_t> tokens;  ///< of a direct block: those that its sender knew, or the one that was chosen
  std::string at{};                  ///< the relay in between that has it; empty: its sender

  /// As its ends see it.
  [[nodiscard]] carried_message carried(const std::string& destination) const {
    return {from, destination, {.kind = kind, .key = key}};
  }
};

struct simulated_cluster::shard {
  job_id job = 0;
  int rank = 0;
  std::uint64_t generation = 0;
  job_plan plan;
  std::uint32_t attempt = 0;
  std::set<std::int32_t> held;
  std::set<std::int32_t> left_out;  ///< `held`, as it was at first
  bool started = false;
  int layer = 0;
  std::uint64_t moves = 0;
  int waiting_for = -1;
  bool given = false;
  bool prefilled = false;
  std::map<block_key, std::uint32_t> consumed;
  std::optional<question> asked;  ///< an answer is under way, or has ended
  std::uint32_t step = 0;
  bool sent = false;
  bool answered = false;
  std::vector<std::int32_t> tokens;

  [[nodiscard]] bool is_last() const { return rank + 1 == plan.ranks(); }
  [[nodiscard]] std::uint32_t asking() const { return asked->repeat << 24 | asked->number; }
};

struct simulated_cluster::worker {
  peer_id id;
  int node;
  int device;
  std::string address;
  worker_logic logic;
  std::size_t joined;              ///< which coordinator
  std::uint64_t newest_heard = 0;  ///< the highest generation of a command
  std::set<job_id> ordered{};      ///< runs that this coordinator has spoken of, and has not released
  std::map<std::pair<job_id, int>, shard> shards{};
  std::map<job_id, job_routes> routes{};
  std::map<std::pair<job_id, int>, std::map<block_key, data_message>> mailboxes{};
  std::map<block_key, std::uint32_t> given_here{};
  std::map<block_key, std::uint32_t> arrived{};
};

struct simulated_cluster::relay {
  peer_id id;
  int node;
  std::string address;
  relay_logic logic;
  std::size_t joined;
  std::uint64_t newest_heard = 0;
  std::map<block_key, std::uint32_t> log{};
  detours ways{};
  std::set<block_key> damaged{};  ///< once: a disk that damages a block again fails its job
};

/// What the client knows of a job.
struct simulated_cluster::told {
  submit_job asked;
  job_id id = 0;  ///< 0: not accepted, as far as it knows
  std::vector<std::int32_t> tokens;
  bool finished_here = false;  ///< has been told so by the coordinator that it has found
  std::optional<std::vector<std::int32_t>> answer;
};

/// What coordinators have committed.
struct simulated_cluster::disk {
  struct kept {
    stored_job job;
    std::vector<std::int32_t> ids;
  };
  std::uint64_t generation = 0;
  std::map<job_id, kept> jobs;
  job_id last = 0;
};

/// As baton::journal, on that disk.
class simulated_cluster::journal final : public job_store {
 public:
  explicit journal(simulated_cluster& in) : in_(in), disk_(*in.disk_), generation_(++disk_.generation) {}

  [[nodiscard]] std::uint64_t generation() const override {
    return in_.options_.bug == planted_bug::no_generations ? 0 : generation_;
  }
  [[nodiscard]] std::uint64_t start() const { return generation_; }
  void expect_to_be_the_newest() const override {
    if (generation_ != disk_.generation && in_.options_.bug != planted_bug::journal_not_fenced)
      throw superseded("the simulated journal", disk_.generation);
  }
  job_id keep(const submit_job& asked, std::span<const std::int32_t> ids) override {
    may_write();
    const job_id id = ++disk_.last;
    disk_.jobs[id] = {{id, asked, job_state::queued, {}, {}}, {ids.begin(), ids.end()}};
    may_die();
    return id;
  }
  [[nodiscard]] std::optional<stored_job> find(job_id id) override {
    const auto found = disk_.jobs.find(id);
    return found == disk_.jobs.end() ? std::nullopt : std::optional(found->second.job);
  }
  [[nodiscard]] std::optional<stored_job> find(const std::string& request_id) override {
    for (const auto& [id, kept] : disk_.jobs) {
      if (kept.job.asked.request_id == request_id) return kept.job;
    }
    return {};
  }
  [[nodiscard]] std::vector<std::int32_t> ids_of(job_id id) override { return disk_.jobs.at(id).ids; }
  void began(job_id id, const begun_run& run) override {
    may_write();
    auto& begun = disk_.jobs.at(id).job.begun;
    const bool raised = begun && begun->run == run.run;
    if (!raised || in_.options_.bug != planted_bug::attempts_not_kept) begun = run;
    in_.jobs_of_runs_[run.run] = id;
    may_die();
  }
  void ended(job_id id, const std::optional<job_started>& started, const client_update& end) override {
    may_write();
    if (in_.options_.bug == planted_bug::told_before_kept) {
      late_.emplace_back(id, end);
      return;
    }
    commit(id, started, end);
    may_die();
  }
  [[nodiscard]] std::vector<stored_job> unfinished() override {
    std::vector<stored_job> all;
    for (const auto& [id, kept] : disk_.jobs) {
      if (!kept.job.end) all.push_back(kept.job);
    }
    return all;
  }
  [[nodiscard]] std::vector<job_summary> newest(std::size_t) override { return {}; }

  /// What the planted bug has put off.
  void commit_what_is_late() {
    for (const auto& [id, end] : std::exchange(late_, {})) commit(id, {}, end);
  }

 private:
  void may_write() const {
    expect_to_be_the_newest();
    may_die();
  }
  void may_die() const {
    if (generation_ == disk_.generation && !in_.options_.faults && in_.restarts_ < in_.options_.restarts_max &&
        in_.chance(12))
      throw killed_inside();
  }
  void commit(job_id id, const std::optional<job_started>& started, const client_update& end) {
    auto& job = disk_.jobs.at(id).job;
    job.started = started;
    job.end = end;
    job.state = state_of(end);
    job.begun.reset();
  }

  simulated_cluster& in_;
  disk& disk_;
  const std::uint64_t generation_;
  std::vector<std::pair<job_id, client_update>> late_;
};

/// One start of the coordinator: what it knows, and what is under way to it and from it. In order between two, and lost with either.
struct simulated_cluster::office {
  using command = std::variant<worker_command, relay_command>;
  using report = std::variant<worker_report, relay_report, std::monostate>;  ///< monostate: gone

  std::unique_ptr<journal> store;
  std::unique_ptr<coordinator_logic> logic;  ///< null: dead
  std::map<peer_id, std::deque<command>> commands{};
  std::map<peer_id, std::deque<report>> reports{};
  std::deque<client_request> requests{};  ///< of the client, if it has found this one
  std::deque<std::pair<peer_id, client_update>> updates{};
  std::set<job_id> takes_up{};  ///< runs that an earlier one has begun
  std::set<job_id> taken_up{};  ///< of these, those that it has gone on with
};

simulated_cluster::simulated_cluster(std::uint64_t seed, const simulation_options& options)
    : options_(options), random_(seed), disk_(std::make_unique<disk>()) {
  open_office();
  for (int node = 0; node < options.nodes; ++node) start_node(node);
  while (newest().logic->workers() + newest().logic->relays() < workers_.size() + relays_.size()) {
    for (auto& [id, queue] : newest().reports) {
      if (!queue.empty()) deliver_report(newest(), id);
    }
  }
  for (int job = 0; job < options.jobs; ++job) {
    auto known = std::make_unique<told>();
    known->asked = {.request_id = fmt::format("job {}", job), .options = {}, .document_tokens = 200, .query_tokens = 8};
    known->asked.detached = true;
    known->asked.options.ranks = options_.ranks;
    known->asked.options.anchor_tokens = 20;
    known->asked.options.passing_tokens = 5;
    known->asked.options.max_new_tokens = answer_tokens;
    jobs_[known->asked.request_id] = std::move(known);
  }
  client_connects();
}

simulated_cluster::~simulated_cluster() = default;

void simulated_cluster::start_node(int node) {
  const peer_id id = ++last_peer_;
  const auto address = fmt::format("r{}", id);
  homes_[address] = node;
  auto r = std::make_unique<relay>(relay{id, node, address, relay_logic(address), offices_.size() - 1});
  newest().reports[id].emplace_back(relay_report(relay_ready{fmt::format("n{}", node), 1 << 30, r->address, 1}));
  relays_[id] = std::move(r);
  for (int device = 0; device < options_.devices; ++device) start_worker(node, device);
}

void simulated_cluster::start_worker(int node, int device) {
  const peer_id id = ++last_peer_;
  const auto address = fmt::format("w{}", id);
  homes_[address] = node;
  const worker_ready who{fmt::format("n{}", node), fmt::format("d{}", device), "cpu", 1 << 30, address, 1};
  workers_[id] = std::make_unique<worker>(worker{id, node, device, address, worker_logic(who), offices_.size() - 1});
  newest().reports[id].emplace_back(worker_report(who));
}

// ---- coordinators ----

void simulated_cluster::open_office() {
  const served_model model{
      4096, 100, true, {.layers = options_.layers, .heads = 4, .kv_heads = 2, .head_dim = 8, .element_bytes = 2}};
  std::vector<std::pair<std::string, std::string>> declared;
  for (int node = 0; node < options_.nodes; ++node) {
    for (int device = 0; device < options_.devices; ++device)
      declared.emplace_back(fmt::format("n{}", node), fmt::format("d{}", device));
  }
  auto o = std::make_unique<office>();
  o->store = std::make_unique<journal>(*this);
  for (const auto& job : o->store->unfinished()) {
    if (job.begun) o->takes_up.insert(job.begun->run);
  }
  o->logic = std::make_unique<coordinator_logic>(model,
                                                 coordinator_limits{.silence_s = 1e9,
                                                                    .stuck_s = 1e9,
                                                                    .cut_off_s = options_.cut_off_s,
                                                                    .replays_max = 100,
                                                                    .replacement_s = 1e9,
                                                                    .assemble_s = assemble_s,
                                                                    .take_up_s = options_.impatient ? 0.3 : 1e9},
                                                 declared, o->store.get());
  offices_.push_back(std::move(o));
}

void simulated_cluster::kill_coordinator() {
  auto& o = newest();
  o.logic.reset();
  o.reports.clear();
  o.requests.clear();
  // What it had sent may still arrive, up to some point.
  for (auto& [to, queue] : o.commands) {
    while (!queue.empty() && chance(2)) queue.pop_back();
  }
  while (!o.updates.empty() && chance(2)) o.updates.pop_back();
  ++restarts_;
  open_office();
}

template <class Event>
void simulated_cluster::have(office& o, Event&& event) {
  if (!o.logic) return;
  try {
    event(*o.logic);
    perform(o, o.logic->take_actions());
  } catch (const superseded&) {
    o.logic.reset();
  } catch (const killed_inside&) {
    kill_coordinator();
  }
}

/// What it holds stays, and what it computes and sends goes on.
void simulated_cluster::join_the_newest(worker& who) {
  const peer_id before = who.id;
  auto& left = *offices_[who.joined];
  if (left.logic) left.reports[before].emplace_back(std::monostate{});
  auto same = workers_.extract(before);
  same.key() = who.id = became_[before] = ++last_peer_;
  who.joined = offices_.size() - 1;
  workers_.insert(std::move(same));
  newest().reports[who.id].emplace_back(worker_report(who.logic.joins()));
}

void simulated_cluster::join_the_newest(relay& who) {
  const peer_id before = who.id;
  auto& left = *offices_[who.joined];
  if (left.logic) left.reports[before].emplace_back(std::monostate{});
  auto same = relays_.extract(before);
  same.key() = who.id = became_[before] = ++last_peer_;
  who.joined = offices_.size() - 1;
  relays_.insert(std::move(same));
  newest().reports[who.id].emplace_back(
      relay_report(relay_ready{fmt::format("n{}", who.node), 1 << 30, who.address, 1, who.logic.joins()}));
  who.logic.tells_damages_again();
  perform(who);
}

/// Somebody whose coordinator is gone has waited for the next one for too long.
void simulated_cluster::somebody_gives_up() {
  std::vector<worker*> waiting;
  for (auto& [id, who] : workers_) {
    if (!offices_[who->joined]->logic && !who->shards.empty()) waiting.push_back(who.get());
  }
  std::vector<relay*> logs;
  for (auto& [id, who] : relays_) {
    if (!offices_[who->joined]->logic && !who->log.empty()) logs.push_back(who.get());
  }
  if (waiting.empty() && logs.empty()) return;
  ++given_up_;
  const auto which = any(waiting.size() + logs.size());
  if (which < waiting.size()) return kill(waiting[which]->id);
  // Another relay in the same process: the node's workers live on.
  const auto& who = *logs[which - waiting.size()];
  const peer_id before = who.id;
  const peer_id id = ++last_peer_;
  const auto address = fmt::format("r{}", id);
  homes_[address] = who.node;
  relays_[id] = std::make_unique<relay>(relay{id, who.node, address, relay_logic(address), who.joined});
  std::erase_if(network_, [&](const data_message& m) { return m.from == who.address; });
  relays_.erase(before);
}

bool simulated_cluster::somebody_joins_the_newest() {
  std::vector<peer_id> all;
  for (const auto& [id, w] : workers_) {
    if (w->joined + 1 < offices_.size()) all.push_back(id);
  }
  for (const auto& [id, r] : relays_) {
    if (r->joined + 1 < offices_.size()) all.push_back(id);
  }
  if (client_at_ + 1 < offices_.size()) all.push_back(client_);
  if (all.empty()) return false;
  const peer_id who = all[any(all.size())];
  if (const auto w = workers_.find(who); w != workers_.end()) {
    join_the_newest(*w->second);
  } else if (const auto r = relays_.find(who); r != relays_.end()) {
    join_the_newest(*r->second);
  } else {
    client_connects();
  }
  return true;
}

void simulated_cluster::perform(office& o, std::vector<coordinator_action>&& actions) {
  // Whoever is cut off drops what it has of a job that goes on without it; one that has ended is released by all relays as well.
  const bool no_link_is_cut = options_.cuts_max == 0 && cut_.empty();
  std::set<job_id> ended;
  for (const auto& action : actions) {
    const auto* to = std::get_if<to_relay>(&action);
    const auto* release = to ? std::get_if<release_log>(&to->command) : nullptr;
    if (!release) continue;
    const auto relays_told = std::ranges::count_if(actions, [&](const coordinator_action& other) {
      const auto* other_to = std::get_if<to_relay>(&other);
      const auto* same = other_to ? std::get_if<release_log>(&other_to->command) : nullptr;
      return same && same->job == release->job;
    });
    if (no_link_is_cut || static_cast<std::size_t>(relays_told) >= o.logic->relays()) ended.insert(release->job);
  }
  for (auto& action : actions) {
    if (auto* to = std::get_if<to_worker>(&action)) {
      if (const auto* release = std::get_if<release_job>(&to->command)) check_released(o, release->job, false);
      if (const auto* assign = std::get_if<assign_shard>(&to->command); assign && !o.takes_up.contains(assign->job))
        begun_by_[assign->job] = o.store->start();
      if (const auto* again = std::get_if<report_results>(&to->command); again && o.taken_up.insert(again->job).second)
        ++taken_up_;
      if (auto* assign = std::get_if<assign_shard>(&to->command);
          assign && options_.bug == planted_bug::holders_ignored)
        assign->held_layers.clear();
      if (auto* ask = std::get_if<ask_question>(&to->command)) {
        if (options_.bug == planted_bug::tokens_forgotten) ask->asked.forced_tokens.clear();
        if (options_.bug == planted_bug::askings_not_numbered) ask->asked.repeat = 0;
      }
      if (const auto* rewire = std::get_if<rewire_rank>(&to->command)) {
        if (options_.bug == planted_bug::places_not_told) continue;
        if (options_.bug == planted_bug::places_not_told_again && o.takes_up.contains(rewire->job)) continue;
      }
      if (std::holds_alternative<give_blocks>(to->command) && options_.bug == planted_bug::not_gathered_again) continue;
      if (workers_.contains(to->worker) || became_.contains(to->worker))
        o.commands[to->worker].emplace_back(std::move(to->command));
    } else if (auto* r = std::get_if<to_relay>(&action)) {
      if (const auto* release = std::get_if<release_log>(&r->command))
        check_released(o, release->job, ended.contains(release->job));
      if (auto* fence = std::get_if<fence_job>(&r->command); fence && options_.bug == planted_bug::attempts_not_fenced)
        std::ranges::fill(fence->attempts, 0u);
      if (auto* place = std::get_if<place_blocks>(&r->command)) {
        if (options_.bug == planted_bug::holders_ignored) place->holders.clear();
        if (options_.bug == planted_bug::nothing_forwarded) place->forwardings.clear();
      }
      if (relays_.contains(r->relay) || became_.contains(r->relay))
        o.commands[r->relay].emplace_back(std::move(r->command));
    } else if (auto* c = std::get_if<to_client>(&action)) {
      if (const auto* done = std::get_if<job_finished>(&c->update); done && !disk_->jobs.at(done->job).job.end)
        broken("an end is told only when it is kept");
      o.updates.emplace_back(c->client, std::move(c->update));
    } else if (const auto* gone = std::get_if<dismiss>(&action)) {
      kill(gone->peer);
    } else {
      const auto& said = std::get<remark>(action);
      if (said.level != log_level::info) broken("nothing goes wrong with the journal: " + said.what);
    }
  }
}

/// Memory goes where a job has ended, or where another run has taken this one's place. What nobody holds any more, or holds as it was before
/// others went on, is released from single workers, too; and whole where no worker holds anything.
void simulated_cluster::check_released(office& o, job_id run, bool everywhere) {
  const auto begun = jobs_of_runs_.find(run);
  if (begun == jobs_of_runs_.end() || &o != &newest()) return;  // nobody has computed anything
  const auto& job = disk_->jobs.at(begun->second).job;
  if (job.end) return check_end(run);
  if (everywhere && !o.takes_up.contains(run) && job.begun && job.begun->run == run)
    broken("memory of a job is freed only when its end is kept");
}

/// The first that is heard of it: all ranks still are as they were when the job ended.
void simulated_cluster::check_end(job_id run) {
  if (!checked_.insert(run).second) return;
  const auto& end = *disk_->jobs.at(jobs_of_runs_.at(run)).job.end;
  const auto* done = std::get_if<job_finished>(&end);
  if (!done)
    broken(fmt::format("no accepted job is lost: {} ({}); {}", std::get<job_failed>(end).why.what,
                       std::get<job_failed>(end).why.where, where_everybody_is()));
  std::map<block_key, std::uint32_t> consumed;
  for (const auto& [id, who] : workers_) {
    if (who->newest_heard != newest().store->start() || !who->ordered.contains(run)) continue;
    const auto& said = newest().commands[id];
    const bool lets_go = std::ranges::any_of(said, [&](const office::command& command) {
      const auto* w = std::get_if<worker_command>(&command);
      return w && std::holds_alternative<release_job>(*w) && job_in(*w) == run;
    });
    if (lets_go) continue;  // of what it held before others went on
    for (const auto& [key, s] : who->shards) {
      if (s.job != run) continue;
      for (const auto& [block, value] : s.consumed) {
        if (consumed.emplace(block, value).first->second != value)
          broken(fmt::format("one value of a block is consumed by all ({}: {} by rank {}, not {}); ", describe(block),
                             value, s.rank, consumed.at(block)) +
                 where_everybody_is());
      }
      if (s.answered && s.tokens != done->answer_ids)
        broken(fmt::format("every rank has run the answer's tokens (rank {}: {}); ", s.rank, fmt::join(s.tokens, " ")) +
               where_everybody_is());
    }
  }
  replays_ += static_cast<int>(done->replays.size());
}

void simulated_cluster::deliver_command(office& o, peer_id to) {
  auto command = std::move(o.commands[to].front());
  o.commands[to].pop_front();
  // Whoever has joined the next coordinator hears the earlier one all the same.
  while (became_.contains(to)) to = became_.at(to);
  const auto generation = o.store->start();
  if (auto* w = std::get_if<worker_command>(&command)) {
    if (!workers_.contains(to)) return;
    auto& who = *workers_.at(to);
    if (!who.logic.coordinator_said(*w, o.store->generation())) return;
    if (generation < who.newest_heard) broken("no older generation acts: a worker does what it says");
    if (std::exchange(who.newest_heard, generation) < generation) who.ordered.clear();
    std::holds_alternative<release_job>(*w) ? who.ordered.erase(job_in(*w)) : who.ordered.insert(job_in(*w)).second;
    perform(who);
    return;
  }
  if (!relays_.contains(to)) return;
  auto& who = *relays_.at(to);
  const auto& said = std::get<relay_command>(command);
  const auto untold = who.logic.heeds(o.store->generation());
  if (!untold) return;
  for (const job_id job : *untold) {
    std::erase_if(who.log, [&](const auto& entry) { return entry.first.job == job; });
    who.ways.forget_job(job);
  }
  if (generation < who.newest_heard) broken("no older generation acts: a relay does what it says");
  who.newest_heard = generation;
  if (const auto* reserve = std::get_if<reserve_log>(&said)) {
    who.logic.log_reserved_for(*reserve);
  } else if (const auto* release = std::get_if<release_log>(&said)) {
    who.logic.job_released(release->job);
    std::erase_if(who.log, [&](const auto& entry) { return entry.first.job == release->job; });
    who.ways.forget_job(release->job);
  } else if (const auto* led = std::get_if<detour_job>(&said)) {
    who.ways.lead_relay(led->job, who.address, led->detours);
  } else if (const auto* asked = std::get_if<probe_paths>(&said)) {
    probe(who, *asked);
  } else if (const auto* fence = std::get_if<fence_job>(&said)) {
    who.logic.job_fenced_by(*fence);
  } else {
    who.logic.blocks_placed_by(std::get<place_blocks>(said));
  }
  perform(who);
}

void simulated_cluster::deliver_report(office& o, peer_id from) {
  auto report = std::move(o.reports[from].front());
  o.reports[from].pop_front();
  have(o, [&](coordinator_logic& logic) {
    if (auto* w = std::get_if<worker_report>(&report)) {
      logic.worker_said(from, *w, now_);
    } else if (auto* r = std::get_if<relay_report>(&report)) {
      const auto* ready = std::get_if<relay_ready>(r);
      ready ? logic.relay_joined(from, *ready, now_) : logic.relay_said(from, *r, now_);
    } else {
      logic.worker_lost(from, "killed", now_);
      logic.relay_lost(from, "killed", now_);
    }
  });
}

// ---- the client: it asks again with the same request ids, whichever coordinator it finds ----

void simulated_cluster::client_connects() {
  auto& left = *offices_[client_at_];
  left.requests.clear();
  if (client_ != 0) have(left, [&](coordinator_logic& logic) { logic.client_lost(client_, now_); });
  client_ = ++last_peer_;
  client_at_ = offices_.size() - 1;
  for (auto& [name, job] : jobs_) {
    job->finished_here = false;
    job->tokens.clear();
    if (job->answer) continue;
    newest().requests.emplace_back(job->asked);
    newest().requests.emplace_back(submit_ids{name, 0, std::vector<std::int32_t>(208, 1)});
  }
}

void simulated_cluster::deliver_request(office& o) {
  const auto request = std::move(o.requests.front());
  o.requests.pop_front();
  have(o, [&](coordinator_logic& logic) { logic.client_said(client_, request, now_); });
}

void simulated_cluster::deliver_update(office& o) {
  const auto [to, update] = std::move(o.updates.front());
  o.updates.pop_front();
  if (to == client_) tell_client(update);
}

void simulated_cluster::tell_client(const client_update& update) {
  const auto of = [&](job_id id) -> told& {
    for (auto& [name, job] : jobs_) {
      if (job->id == id) return *job;
    }
    broken("a client hears only of what it asked for");
  };
  if (const auto* accepted = std::get_if<job_accepted>(&update)) {
    auto& job = *jobs_.at(accepted->request_id);
    if (job.id != 0 && job.id != accepted->job) broken("no accepted job is lost: its request names another one now");
    job.id = accepted->job;
  } else if (const auto* started = std::get_if<job_started>(&update)) {
    of(started->job).tokens.clear();
  } else if (const auto* token = std::get_if<answer_token>(&update)) {
    auto& job = of(token->job);
    if (token->index != static_cast<int>(job.tokens.size())) broken("tokens reach the client in order, each once");
    job.tokens.push_back(token->token);
  } else if (const auto* failed = std::get_if<job_failed>(&update)) {
    broken(fmt::format("no accepted job is lost ({}: {})", failed->why.where, failed->why.what));
  } else if (const auto* refused = std::get_if<job_refused>(&update)) {
    broken("every job is accepted: " + refused->why.what);
  } else if (const auto* done = std::get_if<job_finished>(&update)) {
    auto& job = of(done->job);
    if (std::exchange(job.finished_here, true)) broken("a job ends once");
    if (done->answer_ids.size() != answer_tokens || (!job.tokens.empty() && job.tokens != done->answer_ids))
      broken("the answer is what the client was told, token by token");
    if (!job.answer) ++ended_;
    job.answer = done->answer_ids;
  }
}

// ---- workers ----

void simulated_cluster::perform(worker& who) {
  for (auto actions = who.logic.take_actions(); !actions.empty(); actions = who.logic.take_actions()) {
    for (auto& action : actions) {
      if (auto* report = std::get_if<worker_report>(&action)) {
        if (auto* held = std::get_if<shards_held>(report); held && options_.bug == planted_bug::askings_forgotten) {
          for (auto& s : held->shards) s.repeat = 0;
        }
        if (auto& o = *offices_[who.joined]; o.logic) o.reports[who.id].emplace_back(std::move(*report));
      } else {
        compute(who, std::get<device_command>(action));
      }
    }
  }
}

void simulated_cluster::compute(worker& who, const device_command& command) {
  if (const auto* prepare = std::get_if<prepare_prefill>(&command)) {
    shard s{
        .job = prepare->job, .rank = prepare->rank, .generation = begun_by_.at(prepare->job), .plan = prepare->plan};
    s.attempt = prepare->routes.ranks.at(static_cast<std::size_t>(prepare->rank)).attempt;
    s.held = s.left_out = {prepare->held_layers.begin(), prepare->held_layers.end()};
    auto& routes = who.routes[prepare->job];
    routes.relay = prepare->routes.relay;
    routes.ranks.resize(prepare->routes.ranks.size());
    for (std::size_t rank = 0; rank < routes.ranks.size(); ++rank) {
      if (prepare->routes.ranks[rank].attempt >= routes.ranks[rank].attempt)
        routes.ranks[rank] = prepare->routes.ranks[rank];
    }
    who.shards[{s.job, s.rank}] = s;
    who.logic.device_said(shard_prepared{s.job, s.rank});
  } else if (const auto* start = std::get_if<start_prefill>(&command)) {
    const auto s = who.shards.find({start->job, start->rank});
    if (s != who.shards.end()) s->second.started = true;
  } else if (const auto* again = std::get_if<give_again>(&command)) {
    const auto s = who.shards.find({again->job, again->rank});
    if (s == who.shards.end()) return;
    s->second.held.erase(again->layer);
    const bool has_come = again->layer < s->second.layer || (again->layer == s->second.layer && s->second.given);
    if (has_come && !s->second.is_last()) give(who, s->second, again->layer);
  } else if (const auto* rewire = std::get_if<rewire_job>(&command)) {
    const auto routes = who.routes.find(rewire->job);
    if (routes == who.routes.end()) return;
    auto& known = routes->second.ranks.at(static_cast<std::size_t>(rewire->rank));
    if (rewire->place.attempt < known.attempt) return;
    known = rewire->place;
    for (auto& [to, mailbox] : who.mailboxes) {
      std::erase_if(mailbox, [&](const auto& entry) {
        return entry.first.job == rewire->job && entry.first.source == rewire->rank &&
               entry.first.attempt < rewire->place.attempt;
      });
    }
  } else if (const auto* answer = std::get_if<start_answer>(&command)) {
    for (auto& [key, s] : who.shards) {
      if (key.first != answer->job || !s.prefilled) continue;
      s.asked = answer->asked;
      s.step = 0;
      s.sent = s.answered = false;
      s.tokens.clear();
    }
  } else if (const auto* drop = std::get_if<drop_job>(&command)) {
    const auto of_job = [&](const auto& entry) { return entry.first.first == drop->job; };
    std::erase_if(who.shards, of_job);
    std::erase_if(who.mailboxes, of_job);
    who.routes.erase(drop->job);
    for (auto* blocks : {&who.given_here, &who.arrived})
      std::erase_if(*blocks, [&](const auto& entry) { return entry.first.job == drop->job; });
    who.logic.device_said(job_dropped{drop->job});
  }
}

bool simulated_cluster::consume(worker& who, shard& s, const block_key& key) {
  if (s.consumed.contains(key)) return true;
  for (const auto* place : {&who.given_here, &who.arrived}) {
    if (const auto found = place->find(key); found != place->end()) {
      if (found->second / generation_unit != s.generation) broken("no block of an older generation is consumed");
      s.consumed[key] = found->second;
      return true;
    }
  }
  return false;
}

bool simulated_cluster::can_go_on(const worker&, const shard& s) const {
  return s.started && (!s.prefilled || (s.asked && !s.answered));
}

void simulated_cluster::step(worker& who, shard& s) {
  // Once all has arrived that the newest coordinator had to say.
  const auto& said = offices_[who.joined]->commands[who.id];
  if (offices_[who.joined]->logic && who.newest_heard == offices_[who.joined]->store->start() && said.empty() &&
      !who.ordered.contains(s.job))
    broken("no older generation acts: its rank computes on");
  s.prefilled ? step_answer(who, s) : step_prefill(who, s);
  if (chance(4)) {
    const pass_snapshot at{s.job, s.rank, s.layer, 0, s.waiting_for, s.moves};
    who.logic.passes_stand_at({&at, 1});
  }
  perform(who);
}

void simulated_cluster::step_prefill(worker& who, shard& s) {
  if (!s.given) {
    s.given = true;
    ++s.moves;
    if (!s.is_last() && !s.held.contains(s.layer)) give(who, s, s.layer);
  }
  bool all = true;
  s.waiting_for = -1;
  for (int source = 0; source < s.rank; ++source) {
    const block_key key{
        .job = s.job, .layer = static_cast<std::uint16_t>(s.layer), .source = static_cast<std::uint16_t>(source)};
    if (consume(who, s, key)) continue;
    if (std::exchange(all, false)) s.waiting_for = source;
    const auto& its_relay = who.routes.at(s.job).relay;
    const bool asked = std::ranges::any_of(network_, [&](const data_message& m) {
      return m.kind == message_kind::want && m.from == who.address && m.key == key;
    });
    if (!asked) network_.push_back({message_kind::want, who.address, its_relay, key, {}, 0, {}});
  }
  if (!all) return;
  s.given = false;
  ++s.moves;
  ++computed_[{jobs_of_runs_.at(s.job), s.rank, s.layer}];
  if (++s.layer < options_.layers) return;
  s.prefilled = true;
  prefill_done done;
  done.job = s.job;
  done.rank = s.rank;
  who.logic.device_said(done);
}

void simulated_cluster::give(worker& who, shard& s, int layer) {
  const block_key key{.job = s.job,
                      .layer = static_cast<std::uint16_t>(layer),
                      .source = static_cast<std::uint16_t>(s.rank),
                      .attempt = s.attempt};
  // Whoever makes a block again that all its holders have lost makes what it was: only devices of one kernel class promise that.
  const auto lost = made_.find(key);
  const std::uint32_t value = (s.left_out.contains(layer) || damaged_.contains(key)) && lost != made_.end()
                                  ? lost->second
                                  : static_cast<std::uint32_t>(s.generation) * generation_unit + s.attempt;
  who.given_here[key] = value;
  network_.push_back(
      {message_kind::put, who.address, who.routes.at(s.job).relay, key, {s.rank + 1, s.plan.ranks()}, value, {}});
}

void simulated_cluster::send_direct(worker& who, shard& s, std::uint32_t step, std::uint16_t part) {
  for (int rank = 0; rank < s.plan.ranks(); ++rank) {
    if (rank == s.rank) continue;
    network_.push_back({message_kind::direct,
                        who.address,
                        {},
                        {.job = s.job,
                         .phase = block_phase::decode,
                         .question = s.asking(),
                         .step = step,
                         .source = static_cast<std::uint16_t>(s.rank),
                         .part = part,
                         .attempt = s.attempt},
                        {rank, rank + 1},
                        0,
                        s.tokens});
  }
}

void simulated_cluster::step_answer(worker& who, shard& s) {
  if (!std::exchange(s.sent, true)) {
    ++s.moves;
    send_direct(who, s, s.step, 0);
  }
  auto& mailbox = who.mailboxes[{s.job, s.rank}];
  const auto at = [&](int source, std::uint16_t part) {
    return mailbox.find({.job = s.job,
                         .phase = block_phase::decode,
                         .question = s.asking(),
                         .step = s.step,
                         .source = static_cast<std::uint16_t>(source),
                         .part = part});
  };
  const int last = s.plan.ranks() - 1;
  const bool forced = s.step < s.asked->forced_tokens.size();
  s.waiting_for = -1;
  for (int source = 0; source < s.plan.ranks(); ++source) {
    if (source == s.rank || at(source, 0) != mailbox.end()) continue;
    s.waiting_for = source;
    return;
  }
  if (!forced && !s.is_last() && at(last, 1) == mailbox.end()) {
    s.waiting_for = last;
    return;
  }
  ++s.moves;
  for (int source = 0; source < s.plan.ranks(); ++source) {
    if (source != s.rank && at(source, 0)->second.tokens != s.tokens) broken("all ranks run the same tokens");
  }
  if (forced) {
    s.tokens.push_back(s.asked->forced_tokens[s.step]);
  } else if (s.is_last()) {
    s.tokens.push_back(static_cast<std::int32_t>(random_() % 1'000'000));
    send_direct(who, s, s.step, 1);
  } else {
    s.tokens = at(last, 1)->second.tokens;
  }
  if (!forced)
    who.logic.device_said(
        token_chosen{s.job, s.rank, s.asked->number, static_cast<int>(s.step), s.tokens.back(), s.asked->repeat});
  ++s.step;
  s.sent = false;
  if (s.step < answer_tokens) return;
  s.answered = true;
  answer_done done;
  done.job = s.job;
  done.rank = s.rank;
  done.question = s.asked->number;
  done.tokens = answer_tokens;
  done.repeat = s.asked->repeat;
  who.logic.device_said(done);
}

// ---- relays and blocks: in any order, and again ----

void simulated_cluster::perform(relay& who) {
  for (auto actions = who.logic.take_actions(); !actions.empty(); actions = who.logic.take_actions()) {
    for (auto& action : actions) {
      if (auto* report = std::get_if<relay_report>(&action)) {
        if (auto& o = *offices_[who.joined]; o.logic) o.reports[who.id].emplace_back(std::move(*report));
        continue;
      }
      const auto& sending = std::get<send_block>(action);
      const auto held = who.log.find(sending.key);
      // Damaged a moment ago, and so on its way again.
      if (held == who.log.end() && options_.damages_max > 0) continue;
      if (held == who.log.end()) broken("a relay sends only what it has");
      if (damages_ < options_.damages_max && chance(40) && who.damaged.insert(sending.key).second) {
        ++damages_;
        damaged_.insert(sending.key);
        who.log.erase(held);
        if (!who.logic.block_was_damaged(sending)) broken("a block is damaged once");
        continue;
      }
      network_.push_back({sending.kind, who.address, sending.to, held->first, sending.targets, held->second, {}});
    }
  }
}

void simulated_cluster::probe(relay& who, const probe_paths& asked) {
  paths_probed result{.job = asked.job, .round = asked.round, .reached = {}};
  const auto is_reached = [&](const std::string& from, const std::string& to) {
    return relay_at(to) && !is_cut(from, to) && !(options_.probes_get_lost && chance(5));
  };
  for (const auto& to : asked.to) {
    if (is_reached(who.address, to)) result.reached.push_back({to, {}});
    for (const auto& via : asked.via) {
      if (via != to && is_reached(who.address, via) && is_reached(via, to)) result.reached.push_back({to, via});
    }
  }
  if (auto& o = *offices_[who.joined]; o.logic) o.reports[who.id].emplace_back(relay_report(std::move(result)));
}

simulated_cluster::relay* simulated_cluster::relay_at(const std::string& address) {
  const auto found = std::ranges::find_if(relays_, [&](const auto& r) { return r.second->address == address; });
  return found == relays_.end() ? nullptr : found->second.get();
}

simulated_cluster::worker* simulated_cluster::worker_at(const std::string& address) {
  const auto found = std::ranges::find_if(workers_, [&](const auto& w) { return w.second->address == address; });
  return found == workers_.end() ? nullptr : found->second.get();
}

bool simulated_cluster::is_cut(const std::string& one, const std::string& other) const {
  const auto a = homes_.find(one);
  const auto b = homes_.find(other);
  if (a == homes_.end() || b == homes_.end()) return false;
  return cut_.contains(std::minmax(a->second, b->second));
}

bool simulated_cluster::travels(data_message& m, const std::string& to) {
  auto* const reader = worker_at(to);
  auto* const its_relay = relay_at(to);
  if (m.at.empty()) {
    // Its sender's: it goes as that knows the way now, as often as it is sent.
    std::string via;
    if (const auto* sender = relay_at(m.from)) {
      const auto* way = sender->ways.way_to(to, {.kind = m.kind, .key = m.key});
      if (way) via = *way;
    } else if (const auto* its_worker = worker_at(m.from); its_worker && m.kind == message_kind::direct) {
      const auto routes = its_worker->routes.find(m.key.job);
      if (routes != its_worker->routes.end()) {
        const auto& place = routes->second.ranks.at(static_cast<std::size_t>(m.targets.first));
        if (place.address == to) via = place.via;
      }
    }
    if (via.empty()) return !is_cut(m.from, to);
    const auto* between = relay_at(via);
    if (between && !is_cut(m.from, via) && between->ways.passes_on(m.from, m.carried(to))) m.at = via;
    return false;
  }
  const auto at = m.at;
  // Whatever is lost there its sender sends again.
  if (!relay_at(at) || is_cut(at, to) || chance(10)) {
    m.at.clear();
    return false;
  }
  bool is_agreed = false;
  if (its_relay) {
    is_agreed = its_relay->ways.comes_by(at, m.carried(to));
  } else if (reader) {
    const auto routes = reader->routes.find(m.key.job);
    if (routes != reader->routes.end()) {
      const auto& place = routes->second.ranks.at(m.key.source);
      is_agreed = place.address == m.from && place.via == at;
    }
  }
  if (is_agreed) ++carried_;
  if (!is_agreed) m.at.clear();
  return is_agreed;
}

bool simulated_cluster::deliver(data_message& m) {
  if (m.kind == message_kind::direct) return deliver_direct(m);
  if (!relay_at(m.from) && !worker_at(m.from) && is_cut(m.from, m.to)) return true;  // nobody sends it again
  if (!travels(m, m.to)) return false;
  const auto relay_there = std::ranges::find_if(relays_, [&](const auto& r) { return r.second->address == m.to; });
  if (relay_there != relays_.end()) {
    auto& who = *relay_there->second;
    if (m.kind == message_kind::want) {
      who.logic.block_wanted(m.from, m.key);
    } else if (m.kind != message_kind::answer) {
      const auto verdict = who.logic.judge(m.key);
      if (verdict == block_verdict::later) return false;
      if (verdict == block_verdict::take) {
        who.log.emplace(m.key, m.value);
        made_[m.key] = m.value;
        m.kind == message_kind::put ? who.logic.block_given(m.from, m.key, m.targets)
                                    : who.logic.block_forwarded(m.key, m.targets);
      }
    }
    perform(who);
    return true;
  }
  const auto worker_there = std::ranges::find_if(workers_, [&](const auto& w) { return w.second->address == m.to; });
  if (worker_there != workers_.end() && m.kind == message_kind::answer)
    worker_there->second->arrived.emplace(m.key, m.value);
  return true;
}

bool simulated_cluster::deliver_direct(data_message& m) {
  const auto sender = std::ranges::find_if(workers_, [&](const auto& w) { return w.second->address == m.from; });
  const int rank = m.targets.first;
  if (sender == workers_.end()) return true;
  const auto sends = sender->second->routes.find(m.key.job);
  if (sends == sender->second->routes.end()) return true;  // released
  const auto& to = sends->second.ranks.at(static_cast<std::size_t>(rank)).address;
  const auto there = std::ranges::find_if(workers_, [&](const auto& w) { return w.second->address == to; });
  if (there == workers_.end() || !travels(m, to)) return false;
  auto& who = *there->second;
  const auto routes = who.routes.find(m.key.job);
  if (routes == who.routes.end()) return false;
  if (m.key.attempt < routes->second.ranks.at(m.key.source).attempt) return true;
  auto& mailbox = who.mailboxes[{m.key.job, rank}];
  const auto [at, is_new] = mailbox.emplace(m.key, m);
  if (!is_new && at->first.attempt < m.key.attempt) {
    mailbox.erase(at);
    mailbox.emplace(m.key, m);
  }
  return true;
}

// ---- deaths ----

void simulated_cluster::kill(peer_id who) {
  std::string address;
  std::size_t joined = 0;
  if (const auto w = workers_.find(who); w != workers_.end()) {
    address = w->second->address;
    joined = w->second->joined;
    dead_devices_.emplace_back(w->second->node, w->second->device);
    workers_.erase(w);
  } else if (const auto r = relays_.find(who); r != relays_.end()) {
    address = r->second->address;
    joined = r->second->joined;
    const int node = r->second->node;
    relays_.erase(r);
    // The agent's workers end with it.
    std::vector<peer_id> theirs;
    for (const auto& [id, its_worker] : workers_) {
      if (its_worker->node == node) theirs.push_back(id);
    }
    for (const peer_id id : theirs) kill(id);
    std::erase_if(dead_devices_, [&](const auto& d) { return d.first == node; });
    dead_devices_.emplace_back(node, -1);
  } else {
    return;
  }
  if (auto& o = *offices_[joined]; o.logic) {
    o.commands.erase(who);
    // What it had sent may still arrive, up to some point.
    auto& said = o.reports[who];
    while (!said.empty() && chance(2)) said.pop_back();
    said.emplace_back(std::monostate{});
  }
  std::erase_if(network_, [&](const data_message& m) {
    return m.from == address && (m.kind == message_kind::direct || chance(2));
  });
}

void simulated_cluster::kill_somebody(std::optional<int> which) {
  ++deaths_;
  std::vector<peer_id> all;
  for (const auto& [id, w] : workers_) all.push_back(id);
  if (relays_.size() > 1 || options_.nodes == 1) {
    for (const auto& [id, r] : relays_) all.push_back(id);
  }
  if (!all.empty()) kill(all[which ? static_cast<std::size_t>(*which) % all.size() : any(all.size())]);
}

/// As a device loop does: the pass goes, what the shard has finished stays. Not before all workers are there: a job whose every device so far
/// has failed at it is rightly given up.
void simulated_cluster::a_device_fails() {
  if (!newest().logic) return;
  std::size_t known = 0;
  for (const auto& node : newest().logic->status().nodes) {
    if (node.state == peer_state::down) continue;  // its relay is not there
    known += static_cast<std::size_t>(std::ranges::count_if(
        node.devices, [](const device_status& device) { return device.state != peer_state::down; }));
  }
  if (known < static_cast<std::size_t>(options_.nodes * options_.devices)) return;
  std::vector<std::pair<worker*, shard*>> all;
  for (auto& [id, who] : workers_) {
    for (auto& [key, s] : who->shards) {
      if (can_go_on(*who, s)) all.emplace_back(who.get(), &s);
    }
  }
  if (all.empty()) return;
  const auto [who, s] = all[any(all.size())];
  ++device_faults_;
  if (s->prefilled) {
    s->asked.reset();
  } else {
    s->started = false;
  }
  who->logic.device_said(pass_failed{s->job, s->rank, s->layer, fault(fault_code::device, "it broke")});
  perform(*who);
}

void simulated_cluster::cut_a_link(std::optional<int> which) {
  std::vector<std::pair<int, int>> all;
  for (int one = 0; one < options_.nodes; ++one) {
    for (int other = one + 1; other < options_.nodes; ++other) all.emplace_back(one, other);
  }
  cut_.insert(all.at(which ? static_cast<std::size_t>(*which) : any(all.size())));
}

bool simulated_cluster::a_fault() {
  if (options_.faults) {
    if (faults_ == options_.faults->size() || (*options_.faults)[faults_].at > events_) return false;
    const int victim = (*options_.faults)[faults_++].victim;
    if (victim >= 0) {
      kill_somebody(victim);
    } else if (victim <= planned_fault::link_cut) {
      cut_a_link(planned_fault::link_cut - victim);
    } else if (victim == planned_fault::coordinator_killed) {
      kill_coordinator();
    } else {
      ++restarts_;
      open_office();
    }
    return true;
  }
  if (deaths_ < options_.deaths_max && chance(300)) {
    kill_somebody();
    return true;
  }
  if (static_cast<int>(cut_.size()) < options_.cuts_max && chance(200)) {
    cut_a_link();
    return true;
  }
  if (device_faults_ < options_.device_faults_max && chance(400)) {
    a_device_fails();
    return true;
  }
  if (restarts_ < options_.restarts_max && chance(400)) {
    if (chance(2)) {
      kill_coordinator();
    } else {
      ++restarts_;
      open_office();
    }
    return true;
  }
  return false;
}

// ---- time ----

bool simulated_cluster::one_step() {
  now_ += 0.001;
  if (a_fault()) return true;
  if (given_up_ < options_.given_up_max && chance(300)) somebody_gives_up();
  if (chance(30) && somebody_joins_the_newest()) return true;
  if (chance(50)) {
    have(*offices_[any(offices_.size())], [&](coordinator_logic& logic) { logic.tick(now_); });
    return false;
  }
  if (options_.bug == planted_bug::told_before_kept && chance(100)) newest().store->commit_what_is_late();
  if (!dead_devices_.empty() && chance(60)) {
    const auto at = dead_devices_.begin() + static_cast<std::ptrdiff_t>(any(dead_devices_.size()));
    const auto [node, device] = *at;
    const bool relay_lives = std::ranges::any_of(relays_, [&](const auto& r) { return r.second->node == node; });
    if (device < 0 || relay_lives) {
      dead_devices_.erase(at);
      device < 0 ? start_node(node) : start_worker(node, device);
    }
    return true;
  }
  switch (any(4)) {
    case 0: {
      std::vector<std::pair<office*, peer_id>> all;
      for (const auto& o : offices_) {
        for (const auto& [id, queue] : o->commands) {
          if (!queue.empty()) all.emplace_back(o.get(), id);
        }
      }
      if (all.empty()) return false;
      const auto [o, to] = all[any(all.size())];
      deliver_command(*o, to);
      return true;
    }
    case 1: {
      std::vector<std::pair<office*, peer_id>> all;  // 0: a request of the client, or something for it
      for (const auto& o : offices_) {
        for (const auto& [id, queue] : o->reports) {
          if (!queue.empty()) all.emplace_back(o.get(), id);
        }
        if (!o->requests.empty() || !o->updates.empty()) all.emplace_back(o.get(), 0);
      }
      if (all.empty()) return false;
      const auto [o, from] = all[any(all.size())];
      if (from != 0) {
        deliver_report(*o, from);
      } else if (o->updates.empty() || (!o->requests.empty() && chance(2))) {
        deliver_request(*o);
      } else {
        deliver_update(*o);
      }
      return true;
    }
    case 2: {
      if (network_.empty()) return false;
      const std::size_t index = any(network_.size());
      auto m = network_[index];
      const bool again = chance(12);
      if (deliver(m) && !again) {
        // Delivering may have added messages, never removed any.
        network_[index] = network_.back();
        network_.pop_back();
      } else {
        network_[index].at = m.at;
      }
      return true;
    }
    default: {
      std::vector<std::pair<worker*, shard*>> all;
      for (auto& [id, who] : workers_) {
        for (auto& [key, s] : who->shards) {
          if (can_go_on(*who, s)) all.emplace_back(who.get(), &s);
        }
      }
      if (all.empty()) return false;
      const auto [who, s] = all[any(all.size())];
      step(*who, *s);
      return true;
    }
  }
}

std::string simulated_cluster::where_everybody_is() const {
  std::string text;
  for (const auto& [id, who] : workers_) {
    for (const auto& [key, s] : who->shards) {
      text +=
          fmt::format("job {} rank {} attempt {} at {} (node {}): {}layer {}{}", s.job, s.rank, s.attempt, who->address,
                      who->node, s.started ? "" : "not started, ", s.layer, s.prefilled ? " prefilled" : "");
      if (s.asked) text += fmt::format(", asked {} step {}{}", s.asked->repeat, s.step, s.answered ? " answered" : "");
      if (s.started && !s.prefilled) {
        for (int source = 0; source < s.rank; ++source) {
          const block_key wanted{
              .job = s.job, .layer = static_cast<std::uint16_t>(s.layer), .source = static_cast<std::uint16_t>(source)};
          if (s.consumed.contains(wanted)) continue;
          text += fmt::format(", lacks C_{} from {}", source, who->routes.at(s.job).relay);
          for (const auto& [number, r] : relays_) {
            if (r->log.contains(wanted)) text += " held by " + r->address;
          }
        }
      }
      text += "; ";
    }
  }
  for (const auto& m : network_) {
    text += fmt::format("{} from {} to {} {} attempt {}; ", static_cast<int>(m.kind), m.from, m.to, describe(m.key),
                        m.key.attempt);
    if (text.size() > 4000) break;
  }
  return text;
}

void simulated_cluster::run() {
  while (ended_ < options_.jobs) {
    if (++steps_ > steps_max) broken("every run ends; " + where_everybody_is());
    if (one_step()) ++events_;
  }
  for (const auto& [name, job] : jobs_) {
    const auto* end = std::get_if<job_finished>(&disk_->jobs.at(job->id).job.end.value());
    if (!end || end->answer_ids != *job->answer) broken("the journal has the answer that the client was told");
  }
  // Ranks that are cut off from others may have to move.
  if (deaths_ + device_faults_ + given_up_ > 0 || options_.cuts_max > 0 || options_.impatient) return;
  for (const auto& [layer, times] : computed_) {
    if (times != 1)
      broken(fmt::format("where nobody has died nothing is computed twice (rank {} of job {}, layer {}: {} times)",
                         std::get<1>(layer), std::get<0>(layer), std::get<2>(layer), times));
  }
}

}  // namespace baton
