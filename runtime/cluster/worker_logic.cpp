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

void worker_logic::coordinator_said(const worker_command& command) {
  std::visit(
      [this](const auto& c) {
        if (heeds(c.job)) coordinator_said_this(c);
      },
      command);
}

bool worker_logic::heeds(job_id run) {
  const auto generation = generation_of(run);
  if (generation < generation_) return false;
  if (generation > generation_) {
    generation_ = generation;
    for (const job_id older : std::exchange(runs_, {})) coordinator_said_this(release_job{older});
  }
  return true;
}

void worker_logic::device_said(const device_event& event) {
  std::visit([this](const auto& e) { device_said_this(e); }, event);
}

void worker_logic::report_trace(job_id job, int rank, const rank_trace& recorded) {
  if (recorded == rank_trace{}) return;
  trace_spans piece{job, rank, {}};
  piece.recorded.dropped = recorded.dropped;
  const auto send_if_full = [&] {
    const auto& held = piece.recorded;
    if (held.spans.size() + held.blocks.size() + held.memory.size() == trace_events_per_message)
      report(std::exchange(piece, {job, rank, {}}));
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
  report(std::move(piece));
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
  actions_.emplace_back(device_command(std::move(shard->second)));
  collecting_.erase(shard);
}

void worker_logic::coordinator_said_this(const start_shard& command) {
  const shard_key key{command.job, command.rank};
  if (const auto shard = collecting_.find(key); shard != collecting_.end()) {
    return refuse(key, fmt::format("started with {} of {} token ids", shard->second.ids.size(),
                                   shard->second.plan.shards[static_cast<std::size_t>(command.rank)].tokens()));
  }
  actions_.emplace_back(device_command(start_prefill{command.job, command.rank}));
}

void worker_logic::coordinator_said_this(const give_blocks& command) {
  if (const auto shard = collecting_.find({command.job, command.rank}); shard != collecting_.end()) {
    std::erase_if(shard->second.held_layers,
                  [&](std::int32_t layer) { return std::ranges::binary_search(command.layers, layer); });
    return;
  }
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
  actions_.emplace_back(device_command(start_answer{command.job, command.asked, command.report_first_logits}));
}

void worker_logic::coordinator_said_this(const release_job& command) {
  std::erase_if(collecting_, [&](const auto& entry) { return entry.first.first == command.job; });
  std::erase_if(prefill_counts_, [&](const auto& entry) { return entry.first.first == command.job; });
  runs_.erase(command.job);
  actions_.emplace_back(device_command(drop_job{command.job}));
}

void worker_logic::device_said_this(const shard_prepared& event) { report(shard_ready{event.job, event.rank}); }

void worker_logic::device_said_this(const prefill_done& event) {
  const int layers = static_cast<int>(event.chosen_units.size());
  for (int layer = 0; layer < layers; ++layer) {
    const auto& units = event.chosen_units[static_cast<std::size_t>(layer)];
    const auto checksum = event.kv_checksums.empty() ? 0 : event.kv_checksums[static_cast<std::size_t>(layer)];
    if (!units.empty() || checksum != 0)
      report(chosen_units{event.job, event.rank, layer, event.kv_heads, units, checksum});
  }
  report_trace(event.job, event.rank, event.trace);
  prefill_counts_[{event.job, event.rank}] = event.counts;
  auto timings = timings_of(event.timings, event.counts, {});
  timings.computed = event.computed;
  report(shard_finished{event.job, event.rank, std::move(timings)});
}

void worker_logic::device_said_this(const token_chosen& event) {
  report(answer_token{event.job, event.question, event.index, event.token, event.repeat});
}

void worker_logic::device_said_this(const logits_ready& event) {
  const auto total = static_cast<std::int64_t>(event.logits.size());
  for (std::int64_t first = 0; first < total; first += ids_per_message) {
    const std::int64_t count = std::min(ids_per_message, total - first);
    const auto at = event.logits.begin() + first;
    report(first_logits{event.job, event.question, first, {at, at + count}});
  }
}

void worker_logic::device_said_this(const answer_done& event) {
  report_trace(event.job, event.rank, event.trace);
  const auto& before = prefill_counts_[{event.job, event.rank}];
  report(answer_finished{event.job, event.rank, event.question, event.tokens, event.first_token_s,
                         timings_of(event.timings, event.counts, before), event.repeat});
}

void worker_logic::device_said_this(const pass_failed& event) {
  report(shard_failed{event.job, event.rank, event.layer, failure_of(event.why)});
}

void worker_logic::device_said_this(const job_dropped& event) { report(job_released{event.job}); }

void worker_logic::passes_stand_at(std::span<const pass_snapshot> passes) {
  if (passes.empty()) report(worker_alive{});
  for (const auto& p : passes) report(shard_progress{p.job, p.rank, p.layer, p.tokens_done, p.waiting_for, p.chunks});
}

}  // namespace baton
