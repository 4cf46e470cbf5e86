#include "runtime/cluster/worker_logic.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace baton {
namespace {

shard_timings timings_of(const pass_timings& pass, const transport_counts& after, const transport_counts& before) {
  return {pass.phase_s,
          pass.compute_s,
          pass.wait_s,
          pass.exposed_wait_s,
          pass.total_s,
          after.bytes_sent - before.bytes_sent,
          after.bytes_received - before.bytes_received,
          {}};
}

}  // namespace

worker_ready worker_logic::joins() {
  told_ = runs_;
  auto who = who_;
  who.jobs.assign(runs_.begin(), runs_.end());
  return who;
}

bool worker_logic::coordinator_said(const worker_command& command, std::uint64_t generation) {
  if (generation < generation_) return false;
  if (std::exchange(generation_, generation) < generation) {
    // An earlier one may still have been heard after the later one had been joined.
    for (const job_id run : std::set(runs_)) {
      if (!told_.contains(run)) coordinator_said_this(release_job{run});
    }
  }
  std::visit([this](const auto& c) { coordinator_said_this(c); }, command);
  return true;
}

void worker_logic::device_said(const device_event& event) {
  std::visit([this](const auto& e) { device_said_this(e); }, event);
}

worker_logic::shard_entry* worker_logic::find(job_id job, int rank) {
  const auto found = shards_.find({job, rank});
  return found == shards_.end() ? nullptr : &found->second;
}

void worker_logic::report_and_keep(std::vector<worker_report>* kept, worker_report r) {
  if (kept) kept->push_back(r);
  report(std::move(r));
}

void worker_logic::report_trace(std::vector<worker_report>* kept, job_id job, int rank, const rank_trace& recorded) {
  if (recorded == rank_trace{}) return;
  trace_spans piece{job, rank, {}};
  piece.recorded.dropped = recorded.dropped;
  const auto send_if_full = [&] {
    const auto& held = piece.recorded;
    if (held.spans.size() + held.blocks.size() + held.memory.size() == trace_events_per_message)
      report_and_keep(kept, std::exchange(piece, {job, rank, {}}));
  };
  for (const auto& span : recorded.spans) {
    piece.recorded.spans.push_back(span);
    send_if_full();
  }
  for (const auto& b : recorded.blocks) {
    piece.recorded.blocks.push_back(b);
    send_if_full();
  }
  for (const auto& m : recorded.memory) {
    piece.recorded.memory.push_back(m);
    send_if_full();
  }
  report_and_keep(kept, std::move(piece));
}

void worker_logic::refuse(const shard_key& shard, const std::string& what) {
  collecting_.erase(shard);
  report(shard_failed{shard.first, shard.second, 0, {fault_code::internal, what, {}}});
}

void worker_logic::coordinator_said_this(const assign_shard& command) {
  if (command.rank < 0 || command.rank >= command.plan.ranks())
    return refuse({command.job, command.rank}, "a rank outside its plan");
  runs_.insert(command.job);
  collecting_[{command.job, command.rank}] = {
      command.job,          command.rank,       command.plan, command.routes, {}, command.report_chosen_units,
      command.report_trace, command.held_layers};
}

void worker_logic::coordinator_said_this(const shard_ids& command) {
  const shard_key key{command.job, command.rank};
  const auto shard = collecting_.find(key);
  if (shard == collecting_.end()) return;
  auto& ids = shard->second.ids;
  const auto tokens = shard->second.plan.shards[static_cast<std::size_t>(command.rank)].tokens();
  if (command.first != static_cast<std::int64_t>(ids.size()) ||
      command.first + static_cast<std::int64_t>(command.ids.size()) > tokens) {
    return refuse(key, fmt::format("token ids at {} came where {} of {} are there", command.first, ids.size(), tokens));
  }
  ids.insert(ids.end(), command.ids.begin(), command.ids.end());
  if (static_cast<std::int64_t>(ids.size()) < tokens) return;
  shard_entry given;
  given.now.rank = command.rank;
  given.now.attempt = shard->second.routes.ranks[static_cast<std::size_t>(command.rank)].attempt;
  given.now.held_layers = shard->second.held_layers;
  given.ranks = shard->second.plan.ranks();
  shards_[key] = std::move(given);
  actions_.emplace_back(device_command(std::move(shard->second)));
  collecting_.erase(shard);
}

void worker_logic::coordinator_said_this(const start_shard& command) {
  const shard_key key{command.job, command.rank};
  if (const auto shard = collecting_.find(key); shard != collecting_.end()) {
    return refuse(key, fmt::format("started with {} of {} token ids", shard->second.ids.size(),
                                   shard->second.plan.shards[static_cast<std::size_t>(command.rank)].tokens()));
  }
  if (auto* shard = find(command.job, command.rank); shard && shard->now.at == held_shard::stage::ready)
    shard->now.at = held_shard::stage::started;
  actions_.emplace_back(device_command(start_prefill{command.job, command.rank}));
}

void worker_logic::coordinator_said_this(const give_blocks& command) {
  if (const auto shard = collecting_.find({command.job, command.rank}); shard != collecting_.end()) {
    std::erase_if(shard->second.held_layers,
                  [&](std::int32_t layer) { return std::ranges::binary_search(command.layers, layer); });
    return;
  }
  if (auto* shard = find(command.job, command.rank))
    std::erase_if(shard->now.held_layers,
                  [&](std::int32_t layer) { return std::ranges::binary_search(command.layers, layer); });
  for (const std::int32_t layer : command.layers)
    actions_.emplace_back(device_command(give_again{command.job, command.rank, layer}));
}

void worker_logic::coordinator_said_this(const rewire_rank& command) {
  for (auto& [key, shard] : collecting_) {
    if (key.first != command.job || command.rank >= static_cast<int>(shard.routes.ranks.size())) continue;
    auto& known = shard.routes.ranks[static_cast<std::size_t>(command.rank)];
    if (known.attempt <= command.place.attempt) known = command.place;
  }
  actions_.emplace_back(device_command(rewire_job{command.job, command.rank, command.place}));
}

void worker_logic::coordinator_said_this(const ask_question& command) {
  for (auto& [key, shard] : shards_) {
    if (key.first != command.job || shard.now.at != held_shard::stage::prefilled) continue;
    shard.now.asked = true;
    shard.now.repeat = command.asked.repeat;
    shard.now.tokens = command.asked.forced_tokens;
    shard.of_answer.clear();
    shard.failed.reset();
  }
  actions_.emplace_back(device_command(start_answer{command.job, command.asked, command.report_first_logits}));
}

void worker_logic::coordinator_said_this(const release_job& command) {
  std::erase_if(collecting_, [&](const auto& entry) { return entry.first.first == command.job; });
  std::erase_if(shards_, [&](const auto& entry) { return entry.first.first == command.job; });
  runs_.erase(command.job);
  actions_.emplace_back(device_command(drop_job{command.job}));
}

void worker_logic::coordinator_said_this(const report_shards& command) {
  // Nobody sends the ids that were still to come: such a shard is given to somebody anew.
  std::erase_if(collecting_, [&](const auto& entry) { return entry.first.first == command.job; });
  shards_held held{command.job, {}};
  for (const auto& [key, shard] : shards_) {
    if (key.first == command.job) held.shards.push_back(shard.now);
  }
  report(std::move(held));
}

void worker_logic::coordinator_said_this(const report_results& command) {
  coordinator_said_this(report_shards{command.job});  // what comes behind it is new to the coordinator
  for (const auto& [key, shard] : shards_) {
    if (key.first != command.job) continue;
    if (shard.now.at == held_shard::stage::ready) report(shard_ready{key.first, key.second});
    for (const auto& r : shard.of_prefill) report(r);
    const auto& tokens = shard.now.tokens;
    for (std::size_t i = 0; i < tokens.size() && key.second + 1 == shard.ranks; ++i)
      report(answer_token{key.first, 0, static_cast<int>(i), tokens[i], shard.now.repeat});
    for (const auto& r : shard.of_answer) report(r);
    if (shard.failed) report(*shard.failed);
  }
}

void worker_logic::device_said_this(const shard_prepared& event) {
  if (auto* shard = find(event.job, event.rank)) shard->now.at = held_shard::stage::ready;
  report(shard_ready{event.job, event.rank});
}

void worker_logic::device_said_this(const prefill_done& event) {
  auto* shard = find(event.job, event.rank);
  auto* kept = shard ? &shard->of_prefill : nullptr;
  const int layers = static_cast<int>(event.chosen_units.size());
  for (int layer = 0; layer < layers; ++layer) {
    const auto& units = event.chosen_units[static_cast<std::size_t>(layer)];
    const auto checksum = event.kv_checksums.empty() ? 0 : event.kv_checksums[static_cast<std::size_t>(layer)];
    if (!units.empty() || checksum != 0)
      report_and_keep(kept, chosen_units{event.job, event.rank, layer, event.kv_heads, units, checksum});
  }
  report_trace(kept, event.job, event.rank, event.trace);
  if (shard) {
    shard->now.at = held_shard::stage::prefilled;
    shard->prefill_counts = event.counts;
  }
  auto timings = timings_of(event.timings, event.counts, {});
  timings.computed = event.computed;
  report_and_keep(kept, shard_finished{event.job, event.rank, std::move(timings)});
}

void worker_logic::device_said_this(const token_chosen& event) {
  auto* shard = find(event.job, event.rank);
  if (!shard || shard->now.repeat != event.repeat) return;  // an earlier asking's
  auto& tokens = shard->now.tokens;
  if (static_cast<std::size_t>(event.index) == tokens.size()) tokens.push_back(event.token);
  // The others were told by the last rank, which is the one that chooses.
  if (event.rank + 1 == shard->ranks)
    report(answer_token{event.job, event.question, event.index, event.token, event.repeat});
}

void worker_logic::device_said_this(const logits_ready& event) {
  auto* shard = find(event.job, event.rank);
  const auto total = static_cast<std::int64_t>(event.logits.size());
  for (std::int64_t first = 0; first < total; first += ids_per_message) {
    const std::int64_t count = std::min(ids_per_message, total - first);
    const auto at = event.logits.begin() + first;
    report_and_keep(shard ? &shard->of_answer : nullptr,
                    first_logits{event.job, event.question, first, {at, at + count}});
  }
}

void worker_logic::device_said_this(const answer_done& event) {
  auto* shard = find(event.job, event.rank);
  if (shard && shard->now.repeat != event.repeat) return;
  auto* kept = shard ? &shard->of_answer : nullptr;
  report_trace(kept, event.job, event.rank, event.trace);
  report_and_keep(
      kept, answer_finished{event.job, event.rank, event.question, event.tokens, event.first_token_s,
                            timings_of(event.timings, event.counts, shard ? shard->prefill_counts : transport_counts{}),
                            event.repeat});
}

void worker_logic::device_said_this(const pass_failed& event) {
  const shard_failed why{event.job, event.rank, event.layer, failure_of(event.why)};
  if (auto* shard = find(event.job, event.rank)) shard->failed = why;
  report(why);
}

void worker_logic::device_said_this(const job_dropped& event) { report(job_released{event.job}); }

void worker_logic::passes_stand_at(std::span<const pass_snapshot> passes) {
  if (passes.empty()) report(worker_alive{});
  for (const auto& p : passes) {
    if (auto* shard = find(p.job, p.rank)) {
      shard->now.layer = p.layer;
      shard->now.tokens_done = p.tokens_done;
      shard->now.chunks = p.chunks;
    }
    report(shard_progress{p.job, p.rank, p.layer, p.tokens_done, p.waiting_for, p.chunks});
  }
}

}  // namespace baton
