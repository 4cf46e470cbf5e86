#include "tests/support/simulated_cluster.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

namespace baton {
namespace {

constexpr std::int64_t steps_max = 200'000;
constexpr int answer_tokens = 3;
constexpr peer_id the_client = 1'000'000;

[[noreturn]] void broken(const std::string& promise) { throw std::runtime_error(promise); }

}  // namespace

struct simulated_cluster::data_message {
  message_kind kind = message_kind::want;
  std::string from;
  std::string to;  ///< of a direct block: nobody; its target's place is looked up when it is delivered
  block_key key;
  rank_range targets;
  std::uint32_t value = 0;           ///< the attempt that made the block
  std::vector<std::int32_t> tokens;  ///< of a direct block: those that its sender knew, or the one that was chosen
};

struct simulated_cluster::shard {
  job_id job = 0;
  int rank = 0;
  job_plan plan;
  std::uint32_t attempt = 0;
  std::set<std::int32_t> held;
  std::set<std::int32_t> left_out;  ///< `held`, as it was at first
  bool started = false;
  int layer = 0;
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
  std::map<block_key, std::uint32_t> log{};
};

struct simulated_cluster::told {
  std::vector<std::int32_t> tokens;
  bool finished = false;
};

simulated_cluster::simulated_cluster(std::uint64_t seed, const simulation_options& options)
    : options_(options), random_(seed) {
  const served_model model{
      4096, 100, true, {.layers = options.layers, .heads = 4, .kv_heads = 2, .head_dim = 8, .element_bytes = 2}};
  coordinator_ = std::make_unique<coordinator_logic>(
      model, coordinator_limits{.silence_s = 1e9, .stuck_s = 1e9, .replays_max = 100, .replacement_s = 1e9});
  for (int node = 0; node < options.nodes; ++node) start_node(node);
  while (coordinator_->workers() + coordinator_->relays() < workers_.size() + relays_.size()) {
    for (auto& [id, queue] : reports_) {
      if (!queue.empty()) deliver_report(id);
    }
  }
  for (int job = 0; job < options.jobs; ++job) submit(job);
}

simulated_cluster::~simulated_cluster() = default;

void simulated_cluster::start_node(int node) {
  const peer_id id = ++last_peer_;
  auto r = std::make_unique<relay>(relay{id, node, fmt::format("r{}", id), relay_logic(fmt::format("r{}", id))});
  reports_[id].emplace_back(relay_report(relay_ready{fmt::format("n{}", node), 1 << 30, r->address, 1}));
  relays_[id] = std::move(r);
  for (int device = 0; device < options_.devices; ++device) start_worker(node, device);
}

void simulated_cluster::start_worker(int node, int device) {
  const peer_id id = ++last_peer_;
  const auto address = fmt::format("w{}", id);
  const worker_ready who{fmt::format("n{}", node), fmt::format("d{}", device), "cpu", 1 << 30, address, 1};
  workers_[id] = std::make_unique<worker>(worker{id, node, device, address, worker_logic(who)});
  reports_[id].emplace_back(worker_report(who));
}

void simulated_cluster::submit(int number) {
  submit_job request{
      .request_id = fmt::format("job {}", number), .options = {}, .document_tokens = 200, .query_tokens = 8};
  request.options.ranks = options_.ranks;
  request.options.anchor_tokens = 20;
  request.options.passing_tokens = 5;
  request.options.max_new_tokens = answer_tokens;
  coordinator_->client_said(the_client, request, now_);
  coordinator_->client_said(the_client, submit_ids{request.request_id, 0, std::vector<std::int32_t>(208, 1)}, now_);
  perform(coordinator_->take_actions());
}

// ---- control: in order between two, and lost with either ----

void simulated_cluster::perform(std::vector<coordinator_action>&& actions) {
  for (auto& action : actions) {
    if (auto* to = std::get_if<to_worker>(&action)) {
      if (!workers_.contains(to->worker)) continue;
      if (auto* assign = std::get_if<assign_shard>(&to->command);
          assign && options_.bug == planted_bug::holders_ignored)
        assign->held_layers.clear();
      if (auto* ask = std::get_if<ask_question>(&to->command)) {
        if (options_.bug == planted_bug::tokens_forgotten) ask->asked.forced_tokens.clear();
        if (options_.bug == planted_bug::askings_not_numbered) ask->asked.repeat = 0;
      }
      if (std::holds_alternative<rewire_rank>(to->command) && options_.bug == planted_bug::places_not_told) continue;
      commands_[to->worker].emplace_back(std::move(to->command));
    } else if (auto* r = std::get_if<to_relay>(&action)) {
      if (!relays_.contains(r->relay)) continue;
      if (auto* fence = std::get_if<fence_job>(&r->command); fence && options_.bug == planted_bug::attempts_not_fenced)
        std::ranges::fill(fence->attempts, 0u);
      if (auto* place = std::get_if<place_blocks>(&r->command)) {
        if (options_.bug == planted_bug::holders_ignored) place->holders.clear();
        if (options_.bug == planted_bug::nothing_forwarded) place->forwardings.clear();
      }
      commands_[r->relay].emplace_back(std::move(r->command));
    } else if (const auto* c = std::get_if<to_client>(&action)) {
      tell_client(c->update);
    } else {
      kill(std::get<dismiss>(action).peer);
    }
  }
}

void simulated_cluster::deliver_command(peer_id to) {
  auto command = std::move(commands_[to].front());
  commands_[to].pop_front();
  if (auto* w = std::get_if<worker_command>(&command)) {
    auto& who = *workers_.at(to);
    who.logic.coordinator_said(*w);
    perform(who);
    return;
  }
  auto& who = *relays_.at(to);
  const auto& said = std::get<relay_command>(command);
  if (const auto* reserve = std::get_if<reserve_log>(&said)) {
    who.logic.log_reserved_for(*reserve);
  } else if (const auto* release = std::get_if<release_log>(&said)) {
    who.logic.job_released(release->job);
    std::erase_if(who.log, [&](const auto& entry) { return entry.first.job == release->job; });
  } else if (const auto* fence = std::get_if<fence_job>(&said)) {
    who.logic.job_fenced_by(*fence);
  } else {
    who.logic.blocks_placed_by(std::get<place_blocks>(said));
  }
  perform(who);
}

void simulated_cluster::deliver_report(peer_id from) {
  auto report = std::move(reports_[from].front());
  reports_[from].pop_front();
  if (auto* w = std::get_if<worker_report>(&report)) {
    coordinator_->worker_said(from, *w, now_);
  } else if (auto* r = std::get_if<relay_report>(&report)) {
    const auto* ready = std::get_if<relay_ready>(r);
    ready ? coordinator_->relay_joined(from, *ready, now_) : coordinator_->relay_said(from, *r, now_);
  } else {
    coordinator_->worker_lost(from, "killed", now_);
    coordinator_->relay_lost(from, "killed", now_);
  }
  perform(coordinator_->take_actions());
}

void simulated_cluster::tell_client(const client_update& update) {
  if (const auto* accepted = std::get_if<job_accepted>(&update)) {
    jobs_[accepted->job] = std::make_unique<told>();
  } else if (const auto* token = std::get_if<answer_token>(&update)) {
    auto& job = *jobs_.at(token->job);
    if (token->index != static_cast<int>(job.tokens.size())) broken("tokens reach the client in order, each once");
    job.tokens.push_back(token->token);
  } else if (const auto* failed = std::get_if<job_failed>(&update)) {
    broken(fmt::format("no accepted job is lost ({}: {})", failed->why.where, failed->why.what));
  } else if (const auto* refused = std::get_if<job_refused>(&update)) {
    broken("every job is accepted: " + refused->why.what);
  } else if (const auto* finished = std::get_if<job_finished>(&update)) {
    check_finished(*finished);
  }
}

void simulated_cluster::check_finished(const job_finished& done) {
  auto& job = *jobs_.at(done.job);
  if (std::exchange(job.finished, true)) broken("a job ends once");
  if (done.answer_ids != job.tokens || job.tokens.size() != answer_tokens)
    broken("the answer is what the client was told, token by token");
  std::map<block_key, std::uint32_t> consumed;
  for (const auto& [id, who] : workers_) {
    for (const auto& [key, s] : who->shards) {
      if (s.job != done.job) continue;
      for (const auto& [block, value] : s.consumed) {
        if (consumed.emplace(block, value).first->second != value)
          broken(fmt::format("one value of a block is consumed by all ({}: {} by rank {}, not {}); ", describe(block),
                             value, s.rank, consumed.at(block)) +
                 where_everybody_is());
      }
      if (s.answered && s.tokens != done.answer_ids) broken("every rank has run the answer's tokens");
    }
  }
  replays_ += static_cast<int>(done.replays.size());
  ++ended_;
}

// ---- workers ----

void simulated_cluster::perform(worker& who) {
  for (auto actions = who.logic.take_actions(); !actions.empty(); actions = who.logic.take_actions()) {
    for (auto& action : actions) {
      if (auto* report = std::get_if<worker_report>(&action)) {
        reports_[who.id].emplace_back(std::move(*report));
      } else {
        compute(who, std::get<device_command>(action));
      }
    }
  }
}

void simulated_cluster::compute(worker& who, const device_command& command) {
  if (const auto* prepare = std::get_if<prepare_prefill>(&command)) {
    shard s{.job = prepare->job, .rank = prepare->rank, .plan = prepare->plan};
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
    who.logic.device_said(job_dropped{drop->job});
  }
}

bool simulated_cluster::consume(worker& who, shard& s, const block_key& key) {
  if (s.consumed.contains(key)) return true;
  for (const auto* place : {&who.given_here, &who.arrived}) {
    if (const auto found = place->find(key); found != place->end()) {
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
  s.prefilled ? step_answer(who, s) : step_prefill(who, s);
  if (chance(4)) {
    const pass_snapshot at{s.job, s.rank, s.layer, 0, -1, static_cast<std::uint64_t>(steps_)};
    who.logic.passes_stand_at({&at, 1});
  }
  perform(who);
}

void simulated_cluster::step_prefill(worker& who, shard& s) {
  if (!s.given) {
    s.given = true;
    if (!s.is_last() && !s.held.contains(s.layer)) give(who, s, s.layer);
  }
  bool all = true;
  for (int source = 0; source < s.rank; ++source) {
    const block_key key{
        .job = s.job, .layer = static_cast<std::uint16_t>(s.layer), .source = static_cast<std::uint16_t>(source)};
    if (consume(who, s, key)) continue;
    all = false;
    const auto& its_relay = who.routes.at(s.job).relay;
    const bool asked = std::ranges::any_of(network_, [&](const data_message& m) {
      return m.kind == message_kind::want && m.from == who.address && m.key == key;
    });
    if (!asked) network_.push_back({message_kind::want, who.address, its_relay, key, {}, 0, {}});
  }
  if (!all) return;
  s.given = false;
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
  const std::uint32_t value = s.left_out.contains(layer) && lost != made_.end() ? lost->second : s.attempt;
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
  if (!std::exchange(s.sent, true)) send_direct(who, s, s.step, 0);
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
  for (int source = 0; source < s.plan.ranks(); ++source) {
    if (source != s.rank && at(source, 0) == mailbox.end()) return;
  }
  if (!forced && !s.is_last() && at(last, 1) == mailbox.end()) return;
  for (int source = 0; source < s.plan.ranks(); ++source) {
    if (source != s.rank && at(source, 0)->second.tokens != s.tokens) broken("all ranks run the same tokens");
  }
  if (forced) {
    s.tokens.push_back(s.asked->forced_tokens[s.step]);
  } else if (s.is_last()) {
    s.tokens.push_back(static_cast<std::int32_t>(random_() % 1'000'000));
    who.logic.device_said(
        token_chosen{s.job, s.asked->number, static_cast<int>(s.step), s.tokens.back(), s.asked->repeat});
    send_direct(who, s, s.step, 1);
  } else {
    s.tokens = at(last, 1)->second.tokens;
  }
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
  for (auto& action : who.logic.take_actions()) {
    if (auto* report = std::get_if<relay_report>(&action)) {
      reports_[who.id].emplace_back(std::move(*report));
      continue;
    }
    const auto& sending = std::get<send_block>(action);
    const auto held = who.log.find(sending.key);
    if (held == who.log.end()) broken("a relay sends only what it has");
    network_.push_back({sending.kind, who.address, sending.to, held->first, sending.targets, held->second, {}});
  }
}

bool simulated_cluster::deliver(data_message& m) {
  if (m.kind == message_kind::direct) return deliver_direct(m);
  const auto relay_there = std::ranges::find_if(relays_, [&](const auto& r) { return r.second->address == m.to; });
  if (relay_there != relays_.end()) {
    auto& who = *relay_there->second;
    if (m.kind == message_kind::want) {
      who.logic.block_wanted(m.from, m.key);
    } else {
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

bool simulated_cluster::deliver_direct(const data_message& m) {
  const auto sender = std::ranges::find_if(workers_, [&](const auto& w) { return w.second->address == m.from; });
  const int rank = m.targets.first;
  std::string to;
  if (sender != workers_.end()) {
    const auto routes = sender->second->routes.find(m.key.job);
    if (routes == sender->second->routes.end()) return true;  // released
    to = routes->second.ranks.at(static_cast<std::size_t>(rank)).address;
  } else {
    to = m.to;
  }
  const auto there = std::ranges::find_if(workers_, [&](const auto& w) { return w.second->address == to; });
  if (there == workers_.end()) return false;
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
  if (const auto w = workers_.find(who); w != workers_.end()) {
    address = w->second->address;
    dead_devices_.emplace_back(w->second->node, w->second->device);
    workers_.erase(w);
  } else if (const auto r = relays_.find(who); r != relays_.end()) {
    address = r->second->address;
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
  commands_.erase(who);
  // What it had sent may still arrive, up to some point.
  auto& said = reports_[who];
  while (!said.empty() && chance(2)) said.pop_back();
  said.emplace_back(std::monostate{});
  std::erase_if(network_, [&](const data_message& m) {
    return m.from == address && (m.kind == message_kind::direct || chance(2));
  });
}

void simulated_cluster::kill_somebody() {
  ++deaths_;
  std::vector<peer_id> all;
  for (const auto& [id, w] : workers_) all.push_back(id);
  if (relays_.size() > 1 || options_.nodes == 1) {
    for (const auto& [id, r] : relays_) all.push_back(id);
  }
  if (!all.empty()) kill(all[any(all.size())]);
}

// ---- time ----

bool simulated_cluster::one_step() {
  now_ += 0.001;
  if (deaths_ < options_.deaths_max && chance(300)) {
    kill_somebody();
    return true;
  }
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
      std::vector<peer_id> all;
      for (const auto& [id, queue] : commands_) {
        if (!queue.empty()) all.push_back(id);
      }
      if (all.empty()) return false;
      deliver_command(all[any(all.size())]);
      return true;
    }
    case 1: {
      std::vector<peer_id> all;
      for (const auto& [id, queue] : reports_) {
        if (!queue.empty()) all.push_back(id);
      }
      if (all.empty()) return false;
      deliver_report(all[any(all.size())]);
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
    static_cast<void>(one_step());
  }
}

}  // namespace baton
