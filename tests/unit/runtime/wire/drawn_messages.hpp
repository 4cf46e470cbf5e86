#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include <rapidcheck.h>

#include "runtime/cluster/messages.hpp"

/// Valid messages for property tests: draw<assign_shard>() inside a property, and so on for every message and part.
namespace baton {

template <typename Message>
Message draw();

template <typename Value>
Value any() {
  return *rc::gen::arbitrary<Value>();
}

/// From low to high, both included and likelier than others.
template <typename Number>
Number between(Number low, Number high) {
  const auto spread =
      rc::gen::map(rc::gen::inRange<std::uint64_t>(0, static_cast<std::uint64_t>(high - low)),
                   [low](std::uint64_t steps) { return static_cast<Number>(low + static_cast<Number>(steps)); });
  if (low == high) return low;
  return *rc::gen::weightedOneOf<Number>({{8, spread}, {1, rc::gen::just(low)}, {1, rc::gen::just(high)}});
}

inline int drawn_rank() { return between(0, 65534); }
inline int drawn_layer() { return between(0, 65535); }
inline double drawn_seconds() { return std::fabs(any<double>()); }
inline std::int64_t drawn_count() { return between<std::int64_t>(0, INT32_MAX); }
inline std::int64_t drawn_bytes() { return between<std::int64_t>(0, INT64_MAX); }
inline std::vector<std::int32_t> drawn_ids() {
  return *rc::gen::container<std::vector<std::int32_t>>(rc::gen::inRange<std::int32_t>(0, INT32_MAX));
}

/// Characters of one to four bytes, at most 4096 bytes.
inline std::string drawn_text() {
  const auto characters = *rc::gen::container<std::vector<std::string>>(
      rc::gen::element<std::string>("a", "Z", "0", " ", "\n", "/", std::string(1, '\0'), "é", "€", "😀"));
  std::string text;
  for (const auto& character : characters) text += character;
  return text.size() <= 4096 ? text : "";
}

template <typename Value, typename Draw>
std::vector<Value> drawn_list(std::size_t count_max, Draw&& next) {
  std::vector<Value> list(between<std::size_t>(0, count_max));
  std::ranges::generate(list, next);
  return list;
}

// ---- plan.proto ----

template <>
inline sampling_options draw() {
  return {.temperature = std::fabs(any<float>()),
          .top_p = static_cast<float>(between(1, 1000)) / 1000,
          .seed = any<std::uint64_t>()};
}

template <>
inline compressor_kind draw() {
  return static_cast<compressor_kind>(between(0, 4));
}

template <>
inline job_options draw() {
  job_options options;
  options.strategy = drawn_text();
  options.ranks = between(0, 65535);
  if (any<bool>()) options.anchor_tokens = drawn_count();
  if (any<bool>()) options.passing_tokens = drawn_count();
  options.block_tokens = drawn_list<std::int64_t>(5, drawn_count);
  if (any<bool>()) options.compressor = draw<compressor_kind>();
  options.compressor_seed = any<std::uint64_t>();
  options.chunk_tokens = drawn_count();
  options.max_new_tokens = between(0, INT32_MAX);
  options.sampling = draw<sampling_options>();
  return options;
}

template <>
inline job_plan draw() {
  job_plan plan;
  plan.strategy = drawn_text();
  plan.compressor = draw<compressor_kind>();
  plan.compressor_reason = drawn_text();
  plan.compressor_seed = any<std::uint64_t>();
  plan.chunk_tokens = between<std::int64_t>(1, INT32_MAX);
  plan.max_new_tokens = between(1, INT32_MAX);
  plan.passing_tokens = drawn_count();
  plan.sampling = draw<sampling_options>();
  plan.kernel_class = drawn_text();
  plan.query_tokens = between<std::int64_t>(0, 100);

  // Blocks of one to three runs first: the document is as long as they are together.
  plan.shards.resize(between<std::size_t>(1, 5));
  for (auto& shard : plan.shards) {
    shard.rank = static_cast<int>(&shard - plan.shards.data());
    shard.block.resize(between<std::size_t>(1, 3));
    for (auto& run : shard.block) {
      run.count = between<std::int64_t>(1, 5000);
      shard.block_tokens += run.count;
    }
    plan.document_tokens += shard.block_tokens;
  }
  const std::int64_t positions = plan.document_tokens + plan.query_tokens;
  plan.system_tokens = between<std::int64_t>(0, plan.document_tokens);
  plan.anchor_tokens = between<std::int64_t>(0, positions);

  std::int64_t passed_units = 0;
  for (auto& shard : plan.shards) {
    for (auto& run : shard.block) {
      run.first = between<std::int64_t>(0, plan.document_tokens - run.count);
      run.position = between<std::int64_t>(0, positions - run.count);
    }
    shard.anchor.resize(between<std::size_t>(0, 3));
    for (auto& run : shard.anchor) {
      const bool of_query = plan.query_tokens > 0 && any<bool>();
      run.source = of_query ? token_run::source_kind::query : token_run::source_kind::document;
      const std::int64_t source_tokens = of_query ? plan.query_tokens : plan.document_tokens;
      run.first = between<std::int64_t>(0, source_tokens - 1);
      run.count = between<std::int64_t>(1, source_tokens - run.first);
      run.position = between<std::int64_t>(0, positions - run.count);
      shard.anchor_tokens += run.count;
    }
    shard.anchor_aside = any<bool>();
    shard.anchor_query_tokens = between<std::int64_t>(0, shard.anchor_tokens);
    shard.anchor_query_first = between<std::int64_t>(0, shard.anchor_tokens - shard.anchor_query_tokens);
    if (shard.anchor_query_tokens == 0) shard.anchor_query_first = plan.system_tokens;
    shard.eligible_from = between<std::int64_t>(0, shard.block_tokens);
    shard.compressed_units = between<std::int64_t>(0, shard.block_tokens - shard.eligible_from);
    shard.passing_units = passed_units;
    passed_units += shard.compressed_units;
    shard.node = drawn_text();
    shard.device = drawn_text();
  }
  return plan;
}

// ---- worker.proto ----

inline std::vector<std::int32_t> drawn_layers() {
  std::set<std::int32_t> layers;
  for (int i = between(0, 5); i > 0; --i) layers.insert(drawn_layer());
  return {layers.begin(), layers.end()};
}

template <>
inline assign_shard draw() {
  assign_shard command;
  command.job = any<job_id>();
  command.plan = draw<job_plan>();
  command.rank = between(0, command.plan.ranks() - 1);
  for (int rank = 0; rank < command.plan.ranks(); ++rank)
    command.routes.ranks.push_back({any<std::string>(), any<std::uint32_t>(), any<std::string>()});
  command.routes.relay = any<std::string>();
  command.report_chosen_units = any<bool>();
  command.report_trace = any<bool>();
  command.held_layers = drawn_layers();
  return command;
}

template <>
inline shard_ids draw() {
  return {any<job_id>(), drawn_rank(), drawn_count(), drawn_ids()};
}

template <>
inline start_shard draw() {
  return {any<job_id>(), drawn_rank()};
}

template <>
inline give_blocks draw() {
  return {any<job_id>(), drawn_rank(), drawn_layers()};
}

template <>
inline rewire_rank draw() {
  return {any<job_id>(), drawn_rank(), {any<std::string>(), any<std::uint32_t>(), any<std::string>()}};
}

template <>
inline ask_question draw() {
  return {any<job_id>(),
          {between(0u, (1u << 24) - 1), drawn_ids(), between(1, INT32_MAX), drawn_ids(), draw<sampling_options>(),
           between(0u, 255u), drawn_ids()},
          any<bool>()};
}

template <>
inline release_job draw() {
  return {any<job_id>()};
}

template <>
inline report_shards draw() {
  return {any<job_id>()};
}

template <>
inline report_results draw() {
  return {any<job_id>()};
}

template <>
inline failure draw() {
  return {static_cast<fault_code>(between(0, 7)), any<std::string>(), any<std::string>()};
}

template <>
inline shard_timings draw() {
  shard_timings timings;
  std::ranges::generate(timings.phase_s, drawn_seconds);
  timings.compute_s = drawn_seconds();
  timings.wait_s = drawn_seconds();
  timings.exposed_wait_s = drawn_seconds();
  timings.total_s = drawn_seconds();
  timings.bytes_sent = drawn_bytes();
  timings.bytes_received = drawn_bytes();
  timings.computed = drawn_list<std::int64_t>(5, drawn_bytes);
  return timings;
}

template <>
inline worker_ready draw() {
  return {drawn_text(),       drawn_text(),  drawn_text(),       drawn_bytes(),
          any<std::string>(), drawn_count(), between(1, 65'536), drawn_list<job_id>(5, any<job_id>)};
}

template <>
inline held_shard draw() {
  return {drawn_rank(),   any<std::uint32_t>(), static_cast<held_shard::stage>(between(0, 3)),
          drawn_layer(),  drawn_bytes(),        any<std::uint64_t>(),
          drawn_layers(), any<bool>(),          static_cast<std::uint32_t>(between(0, 255)),
          drawn_ids()};
}

template <>
inline shards_held draw() {
  return {any<job_id>(), drawn_list<held_shard>(5, draw<held_shard>)};
}

template <>
inline worker_alive draw() {
  return {};
}

template <>
inline shard_ready draw() {
  return {any<job_id>(), drawn_rank()};
}

template <>
inline shard_progress draw() {
  return {any<job_id>(), drawn_rank(), drawn_layer(), drawn_bytes(), between(-1, 65534), any<std::uint64_t>()};
}

template <>
inline shard_finished draw() {
  return {any<job_id>(), drawn_rank(), draw<shard_timings>()};
}

template <>
inline chosen_units draw() {
  chosen_units report{any<job_id>(), drawn_rank(), drawn_layer(), between(1, 16), drawn_ids(), any<std::uint64_t>()};
  report.indices.resize(report.indices.size() / static_cast<std::size_t>(report.kv_heads) *
                        static_cast<std::size_t>(report.kv_heads));
  return report;
}

template <>
inline trace_span draw() {
  trace_span span;
  span.what = static_cast<activity>(between(0, 5));
  span.stage = static_cast<block_phase>(between(0, 2));
  span.step = any<std::uint32_t>();
  span.layer = static_cast<std::uint16_t>(drawn_layer());
  span.waits_for = between(-1, 65534);
  span.begin_ns = between<std::int64_t>(0, INT64_MAX - 1);
  span.end_ns = between<std::int64_t>(span.begin_ns + 1, INT64_MAX);
  return span;
}

template <>
inline trace_block draw() {
  trace_block b;
  b.event = static_cast<trace_block::event_kind>(between(0, 1));
  b.key.phase = static_cast<block_phase>(between(0, 2));
  b.key.question = any<std::uint32_t>();
  b.key.step = any<std::uint32_t>();
  b.key.layer = static_cast<std::uint16_t>(drawn_layer());
  b.key.source = static_cast<std::uint16_t>(drawn_rank());
  b.key.part = static_cast<std::uint16_t>(between(0, 65535));
  b.targets.first = between(0, 65535);
  b.targets.last = between(b.targets.first, 65535);
  b.at_ns = drawn_bytes();
  return b;
}

template <>
inline trace_spans draw() {
  trace_spans trace{any<job_id>(), drawn_rank(), {}};
  trace.recorded.spans = drawn_list<trace_span>(5, draw<trace_span>);
  trace.recorded.blocks = drawn_list<trace_block>(5, draw<trace_block>);
  for (auto& b : trace.recorded.blocks) b.key.job = trace.job;
  trace.recorded.memory = drawn_list<trace_memory>(5, [] {
    return trace_memory{drawn_bytes(), between<std::int64_t>(0, INT64_MAX)};
  });
  trace.recorded.dropped = drawn_bytes();
  return trace;
}

template <>
inline answer_token draw() {
  return {any<job_id>(), any<std::uint32_t>(), between(0, INT32_MAX), between(0, INT32_MAX), any<std::uint32_t>()};
}

template <>
inline first_logits draw() {
  return {any<job_id>(), any<std::uint32_t>(), drawn_count(), any<std::vector<float>>()};
}

template <>
inline answer_finished draw() {
  return {any<job_id>(),   drawn_rank(),          any<std::uint32_t>(), between(0, INT32_MAX),
          drawn_seconds(), draw<shard_timings>(), any<std::uint32_t>()};
}

template <>
inline shard_failed draw() {
  return {any<job_id>(), drawn_rank(), drawn_layer(), draw<failure>()};
}

template <>
inline job_released draw() {
  return {any<job_id>()};
}

// ---- relay.proto ----

template <>
inline reserve_log draw() {
  return {any<job_id>(), drawn_bytes(), drawn_list<std::string>(5, any<std::string>)};
}

template <>
inline release_log draw() {
  return {any<job_id>()};
}

template <>
inline rank_layers draw() {
  return {drawn_rank(), drawn_layers(), any<std::uint32_t>()};
}

template <>
inline fence_job draw() {
  return {any<job_id>(), any<std::uint32_t>(), drawn_list<std::uint32_t>(5, any<std::uint32_t>)};
}

template <>
inline place_blocks draw() {
  return {any<job_id>(), any<std::uint32_t>(), drawn_list<std::string>(5, any<std::string>),
          drawn_list<rank_layers>(3, draw<rank_layers>), drawn_list<place_blocks::forwarding>(3, [] {
            return place_blocks::forwarding{any<std::string>(), draw<rank_layers>()};
          })};
}

template <>
inline detour_job draw() {
  return {any<job_id>(), drawn_list<detour>(5, [] {
            return detour{any<std::string>(), any<std::string>(), any<std::string>()};
          })};
}

template <>
inline probe_paths draw() {
  return {any<job_id>(), any<std::uint32_t>(), drawn_list<std::string>(5, any<std::string>),
          drawn_list<std::string>(5, any<std::string>), between(0, INT32_MAX)};
}

template <>
inline paths_probed draw() {
  return {any<job_id>(), any<std::uint32_t>(), drawn_list<paths_probed::path>(5, [] {
            return paths_probed::path{any<std::string>(), any<std::string>()};
          })};
}

template <>
inline job_fenced draw() {
  return {any<job_id>(), any<std::uint32_t>(), drawn_list<rank_layers>(3, draw<rank_layers>)};
}

template <>
inline relay_ready draw() {
  return {drawn_text(), drawn_bytes(), any<std::string>(), drawn_count(), drawn_list<job_id>(5, any<job_id>)};
}

template <>
inline relay_alive draw() {
  return {drawn_bytes()};
}

template <>
inline block_damaged draw() {
  return {any<job_id>(), drawn_rank(), drawn_layer()};
}

template <>
inline log_failed draw() {
  return {any<job_id>(), draw<failure>()};
}

template <>
inline log_reserved draw() {
  return {any<job_id>()};
}

template <>
inline log_refused draw() {
  return {any<job_id>(), drawn_bytes(), drawn_bytes()};
}

template <>
inline worker_ended draw() {
  return {drawn_text(), drawn_text(), between<std::int64_t>(0, INT32_MAX)};
}

// ---- client.proto ----

template <>
inline submit_job draw() {
  submit_job request;
  request.request_id = drawn_text();
  request.options = draw<job_options>();
  request.document_tokens = drawn_count();
  request.query_tokens = between<std::int64_t>(0, INT32_MAX - request.document_tokens);
  request.system_tokens = between<std::int64_t>(0, request.document_tokens);
  request.stop_tokens = drawn_ids();
  request.report_dump = any<bool>();
  request.report_trace = any<bool>();
  request.detached = any<bool>();
  return request;
}

template <>
inline submit_ids draw() {
  return {drawn_text(), drawn_count(), drawn_ids()};
}

template <>
inline cancel_job draw() {
  return {any<job_id>()};
}

template <>
inline follow_job draw() {
  return {any<job_id>()};
}

template <>
inline ask_status draw() {
  return {};
}

template <>
inline ask_jobs draw() {
  return {};
}

template <>
inline grant_updates draw() {
  return {any<std::uint32_t>()};
}

template <>
inline client_alive draw() {
  return {};
}

template <>
inline job_accepted draw() {
  return {drawn_text(), any<job_id>(), any<std::uint32_t>()};
}

template <>
inline job_started draw() {
  return {any<job_id>(), draw<job_plan>()};
}

template <>
inline job_refused draw() {
  return {drawn_text(), draw<failure>()};
}

template <>
inline job_progress draw() {
  return {any<job_id>(), drawn_list<shard_progress>(4, draw<shard_progress>)};
}

template <>
inline prefill_finished draw() {
  return {any<job_id>(), drawn_seconds()};
}

template <>
inline rank_result draw() {
  return {drawn_rank(), draw<shard_timings>(), draw<shard_timings>()};
}

template <>
inline shard_moved draw() {
  return {any<job_id>(), drawn_rank(), any<std::uint32_t>(), drawn_text(), drawn_text(), drawn_text()};
}

template <>
inline replay_result draw() {
  return {drawn_rank(), drawn_text(), drawn_layer(), drawn_seconds(), drawn_seconds(), any<bool>()};
}

template <>
inline job_finished draw() {
  return {any<job_id>(),
          drawn_seconds(),
          drawn_seconds(),
          drawn_seconds(),
          drawn_ids(),
          drawn_list<rank_result>(4, draw<rank_result>),
          drawn_list<replay_result>(3, draw<replay_result>)};
}

template <>
inline job_failed draw() {
  return {any<job_id>(), draw<failure>()};
}

template <>
inline job_unknown draw() {
  return {any<job_id>()};
}

template <>
inline job_summary draw() {
  return {
      any<job_id>(), static_cast<job_state>(between(0, 6)), drawn_text(), between(0, 65535), drawn_count(), any<bool>(),
      drawn_text()};
}

template <>
inline jobs_list draw() {
  return {drawn_list<job_summary>(4, draw<job_summary>)};
}

template <>
inline device_status draw() {
  return {drawn_text(), static_cast<peer_state>(between(0, 2)), between<std::int64_t>(0, INT32_MAX), any<job_id>(),
          between(-1, 65535)};
}

template <>
inline node_status draw() {
  return {drawn_text(),
          static_cast<peer_state>(between(0, 2)),
          between<std::int64_t>(0, INT32_MAX),
          drawn_bytes(),
          drawn_bytes(),
          drawn_list<device_status>(3, draw<device_status>)};
}

template <>
inline rank_status draw() {
  return {drawn_rank(),         drawn_text(),  drawn_text(),
          any<std::uint32_t>(), drawn_layer(), static_cast<rank_state>(between(0, 4)),
          between(-1, 65534)};
}

template <>
inline job_status draw() {
  return {any<job_id>(),
          static_cast<job_state>(between(0, 6)),
          drawn_text(),
          drawn_count(),
          between(0, INT32_MAX),
          drawn_list<rank_status>(3, draw<rank_status>),
          drawn_list<replay_result>(2, draw<replay_result>)};
}

template <>
inline cluster_status draw() {
  return {any<std::uint64_t>(),
          any<std::uint64_t>(),
          between<std::int64_t>(0, INT32_MAX),
          between(0, 65536),
          drawn_list<node_status>(2, draw<node_status>),
          drawn_list<job_status>(2, draw<job_status>)};
}

}  // namespace baton
