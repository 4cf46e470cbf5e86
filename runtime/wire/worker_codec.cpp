#include "runtime/wire/worker_codec.hpp"

#include <algorithm>

#include "runtime/wire/codec.hpp"
#include "runtime/wire/plan_codec.hpp"

namespace baton {
namespace wire {
namespace {

static_assert(HELD_STAGE_PREFILLED == static_cast<int>(held_shard::stage::prefilled) + 1);
static_assert(FAULT_CODE_INTERNAL == static_cast<int>(fault_code::internal) + 1);
static_assert(ACTIVITY_WAIT == static_cast<int>(activity::wait) + 1);
static_assert(BLOCK_PHASE_DECODE == static_cast<int>(block_phase::decode) + 1);
static_assert(TRACE_BLOCK_EVENT_ARRIVED == static_cast<int>(trace_block::event_kind::arrived) + 1);

// ---- coordinator to worker ----

void write(const rank_place& from, RankPlace& to) {
  to.set_address(from.address);
  to.set_attempt(from.attempt);
  to.set_via(from.via);
}

rank_place read(const RankPlace& in, const place& at) {
  return {address(in.address(), at / "address"), in.attempt(), address(in.via(), at / "via")};
}

void write(const job_routes& from, JobRoutes& to) {
  for (const auto& rank : from.ranks) write(rank, *to.add_ranks());
  to.set_relay(from.relay);
}

job_routes read(const JobRoutes& in, const place& at) {
  job_routes routes;
  for (int i = 0; i < in.ranks_size(); ++i) {
    routes.ranks.push_back(read(in.ranks(i), at.item("ranks", i)));
  }
  routes.relay = address(in.relay(), at / "relay");
  return routes;
}

void write(const assign_shard& from, AssignShard& to) {
  to.set_job(from.job);
  to.set_rank(from.rank);
  write(from.plan, *to.mutable_plan());
  write(from.routes, *to.mutable_routes());
  to.set_report_chosen_units(from.report_chosen_units);
  to.set_report_trace(from.report_trace);
  append(from.held_layers, *to.mutable_held_layers());
}

assign_shard read(const AssignShard& in, const place& at) {
  assign_shard assign;
  assign.job = in.job();
  assign.plan = read(in.plan(), at / "plan");
  assign.rank = within(in.rank(), 0, assign.plan.ranks() - 1, at / "rank");
  assign.routes = read(in.routes(), at / "routes");
  if (assign.routes.ranks.size() != assign.plan.shards.size()) {
    refuse(at / "routes", fmt::format("{} places for {} ranks", assign.routes.ranks.size(), assign.plan.shards.size()));
  }
  assign.report_chosen_units = in.report_chosen_units();
  assign.report_trace = in.report_trace();
  assign.held_layers = layers(in.held_layers(), at / "held_layers");
  return assign;
}

void write(const shard_ids& from, ShardIds& to) {
  to.set_job(from.job);
  to.set_rank(from.rank);
  to.set_first(from.first);
  append(from.ids, *to.mutable_ids());
}

shard_ids read(const ShardIds& in, const place& at) {
  return {.job = in.job(),
          .rank = rank(in.rank(), at / "rank"),
          .first = tokens(in.first(), at / "first"),
          .ids = piece(in.ids(), at / "ids")};
}

void write(const start_shard& from, StartShard& to) {
  to.set_job(from.job);
  to.set_rank(from.rank);
}

start_shard read(const StartShard& in, const place& at) {
  return {.job = in.job(), .rank = rank(in.rank(), at / "rank")};
}

void write(const give_blocks& from, GiveBlocks& to) {
  to.set_job(from.job);
  to.set_rank(from.rank);
  append(from.layers, *to.mutable_layers());
}

give_blocks read(const GiveBlocks& in, const place& at) {
  return {.job = in.job(), .rank = rank(in.rank(), at / "rank"), .layers = layers(in.layers(), at / "layers")};
}

void write(const rewire_rank& from, RewireRank& to) {
  to.set_job(from.job);
  to.set_rank(from.rank);
  write(from.place, *to.mutable_place());
}

rewire_rank read(const RewireRank& in, const place& at) {
  return {.job = in.job(), .rank = rank(in.rank(), at / "rank"), .place = read(in.place(), at / "place")};
}

void write(const question& from, Question& to) {
  to.set_number(from.number);
  append(from.query_ids, *to.mutable_query_ids());
  to.set_max_new_tokens(from.max_new_tokens);
  append(from.stop_tokens, *to.mutable_stop_tokens());
  write(from.sampling, *to.mutable_sampling());
  to.set_repeat(from.repeat);
  append(from.forced_tokens, *to.mutable_forced_tokens());
}

question read(const Question& in, const place& at) {
  return {.number = within(in.number(), 0u, (1u << 24) - 1, at / "number"),
          .query_ids = ids(in.query_ids(), at / "query_ids"),
          .max_new_tokens = within(in.max_new_tokens(), 1, INT32_MAX, at / "max_new_tokens"),
          .stop_tokens = ids(in.stop_tokens(), at / "stop_tokens"),
          .sampling = read(in.sampling(), at / "sampling"),
          .repeat = within(in.repeat(), 0u, 255u, at / "repeat"),
          .forced_tokens = ids(in.forced_tokens(), at / "forced_tokens")};
}

void write(const ask_question& from, AskQuestion& to) {
  to.set_job(from.job);
  write(from.asked, *to.mutable_asked());
  to.set_report_first_logits(from.report_first_logits);
}

ask_question read(const AskQuestion& in, const place& at) {
  return {.job = in.job(), .asked = read(in.asked(), at / "asked"), .report_first_logits = in.report_first_logits()};
}

void write(const release_job& from, ReleaseJob& to) { to.set_job(from.job); }

release_job read(const ReleaseJob& in, const place&) { return {.job = in.job()}; }

void write(const report_shards& from, ReportShards& to) { to.set_job(from.job); }

report_shards read(const ReportShards& in, const place&) { return {.job = in.job()}; }

void write(const report_results& from, ReportResults& to) { to.set_job(from.job); }

report_results read(const ReportResults& in, const place&) { return {.job = in.job()}; }

// ---- worker to coordinator ----

void write(const worker_ready& from, WorkerReady& to) {
  to.set_node(from.node);
  to.set_device(from.device);
  to.set_kernel_class(from.kernel_class);
  to.set_memory_bytes(from.memory_bytes);
  to.set_address(from.address);
  to.set_pid(from.pid);
  to.set_block_multiple(from.block_multiple);
  append(from.jobs, *to.mutable_jobs());
}

worker_ready read(const WorkerReady& in, const place& at) {
  within(in.jobs_size(), 0, held_jobs_max, at / "jobs");
  return {.node = text(in.node(), at / "node"),
          .device = text(in.device(), at / "device"),
          .kernel_class = text(in.kernel_class(), at / "kernel_class"),
          .memory_bytes = byte_count(in.memory_bytes(), at / "memory_bytes"),
          .address = address(in.address(), at / "address"),
          .pid = process_number(in.pid(), at / "pid"),
          .block_multiple = within(in.block_multiple(), 1, INT32_MAX, at / "block_multiple"),
          .jobs = {in.jobs().begin(), in.jobs().end()}};
}

void write(const held_shard& from, HeldShard& to) {
  to.set_rank(from.rank);
  to.set_attempt(from.attempt);
  to.set_at(number_of<HeldStage>(from.at));
  to.set_layer(from.layer);
  to.set_tokens_done(from.tokens_done);
  to.set_chunks(from.chunks);
  append(from.held_layers, *to.mutable_held_layers());
  to.set_asked(from.asked);
  to.set_repeat(from.repeat);
  append(from.tokens, *to.mutable_tokens());
}

held_shard read(const HeldShard& in, const place& at) {
  return {.rank = rank(in.rank(), at / "rank"),
          .attempt = in.attempt(),
          .at = one_of(in.at(), held_shard::stage::prefilled, at / "at"),
          .layer = layer(in.layer(), at / "layer"),
          .tokens_done = byte_count(in.tokens_done(), at / "tokens_done"),
          .chunks = in.chunks(),
          .held_layers = layers(in.held_layers(), at / "held_layers"),
          .asked = in.asked(),
          .repeat = within(in.repeat(), 0u, 255u, at / "repeat"),
          .tokens = ids(in.tokens(), at / "tokens")};
}

void write(const shards_held& from, ShardsHeld& to) {
  to.set_job(from.job);
  for (const auto& shard : from.shards) write(shard, *to.add_shards());
}

shards_held read(const ShardsHeld& in, const place& at) {
  shards_held held{in.job(), {}};
  within(in.shards_size(), 0, ranks_max, at / "shards");
  for (int i = 0; i < in.shards_size(); ++i) held.shards.push_back(read(in.shards(i), at.item("shards", i)));
  return held;
}

void write(const worker_alive&, WorkerAlive&) {}

worker_alive read(const WorkerAlive&, const place&) { return {}; }

void write(const shard_ready& from, ShardReady& to) {
  to.set_job(from.job);
  to.set_rank(from.rank);
}

shard_ready read(const ShardReady& in, const place& at) {
  return {.job = in.job(), .rank = rank(in.rank(), at / "rank")};
}

void write(const shard_finished& from, ShardFinished& to) {
  to.set_job(from.job);
  to.set_rank(from.rank);
  write(from.timings, *to.mutable_timings());
}

shard_finished read(const ShardFinished& in, const place& at) {
  return {.job = in.job(), .rank = rank(in.rank(), at / "rank"), .timings = read(in.timings(), at / "timings")};
}

void write(const answer_finished& from, AnswerFinished& to) {
  to.set_job(from.job);
  to.set_rank(from.rank);
  to.set_question(from.question);
  to.set_tokens(from.tokens);
  to.set_first_token_s(from.first_token_s);
  write(from.timings, *to.mutable_timings());
  to.set_repeat(from.repeat);
}

answer_finished read(const AnswerFinished& in, const place& at) {
  return {.job = in.job(),
          .rank = rank(in.rank(), at / "rank"),
          .question = in.question(),
          .tokens = within(in.tokens(), 0, INT32_MAX, at / "tokens"),
          .first_token_s = seconds(in.first_token_s(), at / "first_token_s"),
          .timings = read(in.timings(), at / "timings"),
          .repeat = in.repeat()};
}

void write(const shard_failed& from, ShardFailed& to) {
  to.set_job(from.job);
  to.set_rank(from.rank);
  to.set_layer(from.layer);
  write(from.why, *to.mutable_why());
}

shard_failed read(const ShardFailed& in, const place& at) {
  return {.job = in.job(),
          .rank = rank(in.rank(), at / "rank"),
          .layer = layer(in.layer(), at / "layer"),
          .why = read(in.why(), at / "why")};
}

void write(const job_released& from, JobReleased& to) { to.set_job(from.job); }

job_released read(const JobReleased& in, const place&) { return {.job = in.job()}; }

void write(const trace_span& from, TraceSpan& to) {
  to.set_what(number_of<Activity>(from.what));
  to.set_stage(number_of<BlockPhase>(from.stage));
  to.set_step(from.step);
  to.set_layer(from.layer);
  to.set_waits_for(from.waits_for);
  to.set_begin_ns(from.begin_ns);
  to.set_length_ns(from.end_ns - from.begin_ns);
}

trace_span read(const TraceSpan& in, const place& at) {
  trace_span span{.what = one_of(in.what(), activity::wait, at / "what"),
                  .stage = one_of(in.stage(), block_phase::decode, at / "stage"),
                  .step = in.step(),
                  .layer = static_cast<std::uint16_t>(layer(in.layer(), at / "layer")),
                  .waits_for = within(in.waits_for(), -1, ranks_max - 1, at / "waits_for"),
                  .begin_ns = within(in.begin_ns(), 0, INT64_MAX - 1, at / "begin_ns")};
  span.end_ns = span.begin_ns + within(in.length_ns(), 1, INT64_MAX - span.begin_ns, at / "length_ns");
  return span;
}

void write(const trace_block& from, TraceBlock& to) {
  to.set_event(number_of<TraceBlockEvent>(from.event));
  to.set_phase(number_of<BlockPhase>(from.key.phase));
  to.set_question(from.key.question);
  to.set_step(from.key.step);
  to.set_layer(from.key.layer);
  to.set_source(from.key.source);
  to.set_part(from.key.part);
  to.set_targets_first(from.targets.first);
  to.set_targets_last(from.targets.last);
  to.set_at_ns(from.at_ns);
}

trace_block read(const TraceBlock& in, job_id job, const place& at) {
  trace_block b;
  b.event = one_of(in.event(), trace_block::event_kind::arrived, at / "event");
  b.key.job = job;
  b.key.phase = one_of(in.phase(), block_phase::decode, at / "phase");
  b.key.question = in.question();
  b.key.step = in.step();
  b.key.layer = static_cast<std::uint16_t>(layer(in.layer(), at / "layer"));
  b.key.source = static_cast<std::uint16_t>(rank(in.source(), at / "source"));
  b.key.part = static_cast<std::uint16_t>(within(in.part(), 0, UINT16_MAX, at / "part"));
  b.targets.first = within(in.targets_first(), 0, ranks_max, at / "targets_first");
  b.targets.last = within(in.targets_last(), b.targets.first, ranks_max, at / "targets_last");
  b.at_ns = within(in.at_ns(), 0, INT64_MAX, at / "at_ns");
  return b;
}

/// As much of a failure's text as a reader accepts, cut between two characters: a failure must arrive.
std::string shortened(const std::string& words) {
  if (words.size() <= text_bytes_max) return words;
  std::size_t end = text_bytes_max;
  while (end > text_bytes_max - 4 && (static_cast<unsigned char>(words[end]) & 0xC0) == 0x80) --end;
  return words.substr(0, end);
}

}  // namespace

void write(const failure& from, Failure& to) {
  to.set_code(number_of<FaultCode>(from.code));
  to.set_what(shortened(from.what));
  to.set_where(shortened(from.where));
}

failure read(const Failure& in, const place& at) {
  return {.code = one_of(in.code(), fault_code::internal, at / "code"),
          .what = text(in.what(), at / "what"),
          .where = text(in.where(), at / "where")};
}

void write(const shard_progress& from, ShardProgress& to) {
  to.set_job(from.job);
  to.set_rank(from.rank);
  to.set_layer(from.layer);
  to.set_tokens_done(from.tokens_done);
  to.set_waiting_for(from.waiting_for);
  to.set_chunks(from.chunks);
}

shard_progress read(const ShardProgress& in, const place& at) {
  return {.job = in.job(),
          .rank = rank(in.rank(), at / "rank"),
          .layer = layer(in.layer(), at / "layer"),
          .tokens_done = within(in.tokens_done(), 0, INT64_MAX, at / "tokens_done"),
          .waiting_for = within(in.waiting_for(), -1, ranks_max - 1, at / "waiting_for"),
          .chunks = in.chunks()};
}

void write(const shard_timings& from, ShardTimings& to) {
  append(from.phase_s, *to.mutable_phase_s());
  to.set_compute_s(from.compute_s);
  to.set_wait_s(from.wait_s);
  to.set_exposed_wait_s(from.exposed_wait_s);
  to.set_total_s(from.total_s);
  to.set_bytes_sent(from.bytes_sent);
  to.set_bytes_received(from.bytes_received);
  append(from.computed, *to.mutable_computed());
}

shard_timings read(const ShardTimings& in, const place& at) {
  shard_timings timings;
  if (in.phase_s_size() != static_cast<int>(phase_count)) {
    refuse(at / "phase_s", fmt::format("{} phases; there are {}", in.phase_s_size(), phase_count));
  }
  for (int i = 0; i < in.phase_s_size(); ++i) {
    timings.phase_s[static_cast<std::size_t>(i)] = seconds(in.phase_s(i), at.item("phase_s", i));
  }
  timings.compute_s = seconds(in.compute_s(), at / "compute_s");
  timings.wait_s = seconds(in.wait_s(), at / "wait_s");
  timings.exposed_wait_s = seconds(in.exposed_wait_s(), at / "exposed_wait_s");
  timings.total_s = seconds(in.total_s(), at / "total_s");
  timings.bytes_sent = byte_count(in.bytes_sent(), at / "bytes_sent");
  timings.bytes_received = byte_count(in.bytes_received(), at / "bytes_received");
  for (int i = 0; i < in.computed_size(); ++i)
    timings.computed.push_back(within(in.computed(i), 0, INT64_MAX, at.item("computed", i)));
  return timings;
}

void write(const chosen_units& from, ChosenUnits& to) {
  to.set_job(from.job);
  to.set_rank(from.rank);
  to.set_layer(from.layer);
  to.set_kv_heads(from.kv_heads);
  append(from.indices, *to.mutable_indices());
  to.set_kv_checksum(from.kv_checksum);
}

chosen_units read(const ChosenUnits& in, const place& at) {
  chosen_units units{.job = in.job(),
                     .rank = rank(in.rank(), at / "rank"),
                     .layer = layer(in.layer(), at / "layer"),
                     .kv_heads = within(in.kv_heads(), 1, INT32_MAX, at / "kv_heads"),
                     .indices = ids(in.indices(), at / "indices"),
                     .kv_checksum = in.kv_checksum()};
  if (in.indices_size() % units.kv_heads != 0) {
    refuse(at / "indices", fmt::format("{} indices are no rows for {} KV heads", in.indices_size(), units.kv_heads));
  }
  return units;
}

void write(const trace_spans& from, TraceSpans& to) {
  to.set_job(from.job);
  to.set_rank(from.rank);
  for (const auto& span : from.recorded.spans) write(span, *to.add_spans());
  for (const auto& b : from.recorded.blocks) write(b, *to.add_blocks());
  for (const auto& m : from.recorded.memory) {
    auto& sample = *to.add_memory();
    sample.set_bytes(m.bytes);
    sample.set_at_ns(m.at_ns);
  }
  to.set_dropped(from.recorded.dropped);
}

trace_spans read(const TraceSpans& in, const place& at) {
  const auto events = static_cast<std::size_t>(in.spans_size()) + static_cast<std::size_t>(in.blocks_size()) +
                      static_cast<std::size_t>(in.memory_size());
  if (events > trace_events_per_message)
    refuse(at / "spans", fmt::format("{} entries in one message; at most {}", events, trace_events_per_message));
  trace_spans trace{.job = in.job(), .rank = rank(in.rank(), at / "rank"), .recorded = {}};
  for (int i = 0; i < in.spans_size(); ++i) trace.recorded.spans.push_back(read(in.spans(i), at.item("spans", i)));
  for (int i = 0; i < in.blocks_size(); ++i)
    trace.recorded.blocks.push_back(read(in.blocks(i), trace.job, at.item("blocks", i)));
  for (int i = 0; i < in.memory_size(); ++i) {
    const place item = at.item("memory", i);
    trace.recorded.memory.push_back({within(in.memory(i).bytes(), 0, INT64_MAX, item / "bytes"),
                                     within(in.memory(i).at_ns(), 0, INT64_MAX, item / "at_ns")});
  }
  trace.recorded.dropped = within(in.dropped(), 0, INT64_MAX, at / "dropped");
  return trace;
}

void write(const answer_token& from, AnswerToken& to) {
  to.set_job(from.job);
  to.set_question(from.question);
  to.set_index(from.index);
  to.set_token(from.token);
  to.set_repeat(from.repeat);
}

answer_token read(const AnswerToken& in, const place& at) {
  return {.job = in.job(),
          .question = in.question(),
          .index = within(in.index(), 0, INT32_MAX, at / "index"),
          .token = within(in.token(), 0, INT32_MAX, at / "token"),
          .repeat = in.repeat()};
}

void write(const first_logits& from, FirstLogits& to) {
  to.set_job(from.job);
  to.set_question(from.question);
  to.set_first(from.first);
  append(from.values, *to.mutable_values());
}

/// The values are whatever the model came to, not a number included: they go into a file for people.
first_logits read(const FirstLogits& in, const place& at) {
  if (in.values_size() > ids_per_message) {
    refuse(at / "values", fmt::format("{} logits in one message; at most {}", in.values_size(), ids_per_message));
  }
  return {.job = in.job(),
          .question = in.question(),
          .first = tokens(in.first(), at / "first"),
          .values = {in.values().begin(), in.values().end()}};
}

}  // namespace wire

std::string encode(const worker_command& command, std::uint64_t generation) {
  using namespace wire;
  WorkerCommand to;
  to.set_generation(generation);
  std::visit(overloaded{
                 [&](const assign_shard& c) { write(c, *to.mutable_assign_shard()); },
                 [&](const shard_ids& c) { write(c, *to.mutable_shard_ids()); },
                 [&](const start_shard& c) { write(c, *to.mutable_start_shard()); },
                 [&](const give_blocks& c) { write(c, *to.mutable_give_blocks()); },
                 [&](const rewire_rank& c) { write(c, *to.mutable_rewire_rank()); },
                 [&](const ask_question& c) { write(c, *to.mutable_ask_question()); },
                 [&](const release_job& c) { write(c, *to.mutable_release_job()); },
                 [&](const report_shards& c) { write(c, *to.mutable_report_shards()); },
                 [&](const report_results& c) { write(c, *to.mutable_report_results()); },
             },
             command);
  return to.SerializeAsString();
}

worker_command decode_worker_command(std::string_view bytes, std::uint64_t* generation) {
  using namespace wire;
  const place at("worker_command");
  const auto in = parse<WorkerCommand>(bytes, at);
  if (generation) *generation = in.generation();
  switch (in.kind_case()) {
    case in.kAssignShard: return read(in.assign_shard(), place("assign_shard"));
    case in.kShardIds: return read(in.shard_ids(), place("shard_ids"));
    case in.kStartShard: return read(in.start_shard(), place("start_shard"));
    case in.kGiveBlocks: return read(in.give_blocks(), place("give_blocks"));
    case in.kRewireRank: return read(in.rewire_rank(), place("rewire_rank"));
    case in.kAskQuestion: return read(in.ask_question(), place("ask_question"));
    case in.kReleaseJob: return read(in.release_job(), place("release_job"));
    case in.kReportShards: return read(in.report_shards(), place("report_shards"));
    case in.kReportResults: return read(in.report_results(), place("report_results"));
    case in.KIND_NOT_SET: break;
  }
  refuse(at / "kind", "missing or unknown");
}

std::string encode(const worker_report& report) {
  using namespace wire;
  WorkerReport to;
  std::visit(overloaded{
                 [&](const worker_ready& r) { write(r, *to.mutable_worker_ready()); },
                 [&](const worker_alive& r) { write(r, *to.mutable_worker_alive()); },
                 [&](const shard_ready& r) { write(r, *to.mutable_shard_ready()); },
                 [&](const shard_progress& r) { write(r, *to.mutable_shard_progress()); },
                 [&](const shard_finished& r) { write(r, *to.mutable_shard_finished()); },
                 [&](const chosen_units& r) { write(r, *to.mutable_chosen_units()); },
                 [&](const trace_spans& r) { write(r, *to.mutable_trace_spans()); },
                 [&](const answer_token& r) { write(r, *to.mutable_answer_token()); },
                 [&](const first_logits& r) { write(r, *to.mutable_first_logits()); },
                 [&](const answer_finished& r) { write(r, *to.mutable_answer_finished()); },
                 [&](const shard_failed& r) { write(r, *to.mutable_shard_failed()); },
                 [&](const job_released& r) { write(r, *to.mutable_job_released()); },
                 [&](const shards_held& r) { write(r, *to.mutable_shards_held()); },
             },
             report);
  return to.SerializeAsString();
}

worker_report decode_worker_report(std::string_view bytes) {
  using namespace wire;
  const place at("worker_report");
  const auto in = parse<WorkerReport>(bytes, at);
  switch (in.kind_case()) {
    case in.kWorkerReady: return read(in.worker_ready(), place("worker_ready"));
    case in.kWorkerAlive: return read(in.worker_alive(), place("worker_alive"));
    case in.kShardReady: return read(in.shard_ready(), place("shard_ready"));
    case in.kShardProgress: return read(in.shard_progress(), place("shard_progress"));
    case in.kShardFinished: return read(in.shard_finished(), place("shard_finished"));
    case in.kChosenUnits: return read(in.chosen_units(), place("chosen_units"));
    case in.kTraceSpans: return read(in.trace_spans(), place("trace_spans"));
    case in.kAnswerToken: return read(in.answer_token(), place("answer_token"));
    case in.kFirstLogits: return read(in.first_logits(), place("first_logits"));
    case in.kAnswerFinished: return read(in.answer_finished(), place("answer_finished"));
    case in.kShardFailed: return read(in.shard_failed(), place("shard_failed"));
    case in.kJobReleased: return read(in.job_released(), place("job_released"));
    case in.kShardsHeld: return read(in.shards_held(), place("shards_held"));
    case in.KIND_NOT_SET: break;
  }
  refuse(at / "kind", "missing or unknown");
}

}  // namespace baton
