#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/wire/worker.pb.h"
#include "tests/support/routes.hpp"
#include "tests/unit/runtime/wire/conversation.hpp"

namespace baton {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

job_plan plan_of_two() {
  job_plan plan;
  plan.document_tokens = 2;
  plan.chunk_tokens = 1;
  plan.max_new_tokens = 1;
  plan.shards.resize(2);
  for (int rank = 0; rank < 2; ++rank) {
    auto& shard = plan.shards[static_cast<std::size_t>(rank)];
    shard.rank = rank;
    shard.block = {{.first = rank, .count = 1, .position = rank}};
    shard.block_tokens = 1;
  }
  return plan;
}

TEST(worker_codec, refuses_a_rank_outside_its_plan) {
  const auto at = [](int rank) {
    return refused_at<worker_command>(assign_shard{1, rank, plan_of_two(), routes_of(2), false});
  };
  EXPECT_EQ(at(1), "");
  EXPECT_EQ(at(2), "message assign_shard, field rank");
  EXPECT_EQ(at(-1), "message assign_shard, field rank");
}

TEST(worker_codec, refuses_ranks_and_layers_that_no_block_can_name) {
  EXPECT_EQ(refused_at<worker_command>(start_shard{1, 65534}), "");
  EXPECT_EQ(refused_at<worker_command>(start_shard{1, 65535}), "message start_shard, field rank");
  EXPECT_EQ(refused_at<worker_command>(shard_ids{1, -1, 0, {}}), "message shard_ids, field rank");
  EXPECT_EQ(refused_at<worker_report>(shard_progress{.rank = -1}), "message shard_progress, field rank");
  EXPECT_EQ(refused_at<worker_report>(shard_progress{.layer = 65535}), "");
  EXPECT_EQ(refused_at<worker_report>(shard_progress{.layer = 65536}), "message shard_progress, field layer");
  EXPECT_EQ(refused_at<worker_report>(shard_progress{.waiting_for = -2}), "message shard_progress, field waiting_for");
  EXPECT_EQ(refused_at<worker_report>(shard_progress{.waiting_for = 65535}),
            "message shard_progress, field waiting_for");
  EXPECT_EQ(refused_at<worker_report>(shard_finished{1, 65535, {}}), "message shard_finished, field rank");
  EXPECT_EQ(refused_at<worker_report>(answer_finished{1, -5, 0, 0, 0, {}}), "message answer_finished, field rank");
  EXPECT_EQ(refused_at<worker_report>(shard_failed{1, 70000, 0, {}}), "message shard_failed, field rank");
  EXPECT_EQ(refused_at<worker_report>(shard_failed{1, 0, -1, {}}), "message shard_failed, field layer");
  EXPECT_EQ(refused_at<worker_report>(chosen_units{1, -1, 0, 1, {}}), "message chosen_units, field rank");
  EXPECT_EQ(refused_at<worker_report>(chosen_units{1, 0, -1, 1, {}}), "message chosen_units, field layer");
}

TEST(worker_codec, refuses_counts_and_indices_below_zero) {
  EXPECT_EQ(refused_at<worker_command>(shard_ids{1, 0, -1, {}}), "message shard_ids, field first");
  EXPECT_EQ(refused_at<worker_command>(shard_ids{1, 0, INT64_MAX, {}}), "message shard_ids, field first");
  EXPECT_EQ(refused_at<worker_command>(shard_ids{1, 0, 0, {4, -1}}), "message shard_ids, field ids");
  EXPECT_EQ(refused_at<worker_report>(worker_ready{"n", "d", "k", -1}), "message worker_ready, field memory_bytes");
  EXPECT_EQ(refused_at<worker_report>(shard_progress{.tokens_done = -1}), "message shard_progress, field tokens_done");
  EXPECT_EQ(refused_at<worker_report>(answer_token{.index = -1}), "message answer_token, field index");
  EXPECT_EQ(refused_at<worker_report>(answer_token{.token = -1}), "message answer_token, field token");
  EXPECT_EQ(refused_at<worker_report>(first_logits{1, 0, -1, {}}), "message first_logits, field first");
  EXPECT_EQ(refused_at<worker_report>(answer_finished{1, 0, 0, -1, 0, {}}), "message answer_finished, field tokens");
}

TEST(worker_codec, refuses_a_question_that_nobody_can_answer) {
  const auto at = [](const question& asked) { return refused_at<worker_command>(ask_question{1, asked, false}); };
  EXPECT_EQ(at({0, {1}, 1, {}, {}}), "");
  EXPECT_EQ(at({0, {-1}, 1, {}, {}}), "message ask_question, field asked.query_ids");
  EXPECT_EQ(at({0, {1}, 0, {}, {}}), "message ask_question, field asked.max_new_tokens");
  EXPECT_EQ(at({0, {1}, 1, {-3}, {}}), "message ask_question, field asked.stop_tokens");
  EXPECT_EQ(at({0, {1}, 1, {}, {.top_p = 2}}), "message ask_question, field asked.sampling.top_p");
}

TEST(worker_codec, reads_at_most_65536_ids_or_logits_in_a_message) {
  EXPECT_EQ(refused_at<worker_command>(shard_ids{1, 0, 0, std::vector<std::int32_t>(65536)}), "");
  EXPECT_EQ(refused_at<worker_command>(shard_ids{1, 0, 0, std::vector<std::int32_t>(65537)}),
            "message shard_ids, field ids");
  EXPECT_EQ(refused_at<worker_report>(first_logits{1, 0, 0, std::vector<float>(65536)}), "");
  EXPECT_EQ(refused_at<worker_report>(first_logits{1, 0, 0, std::vector<float>(65537)}),
            "message first_logits, field values");
}

TEST(worker_codec, refuses_times_that_are_no_seconds) {
  const auto at = [](const shard_timings& timings) { return refused_at<worker_report>(shard_finished{1, 0, timings}); };
  EXPECT_EQ(at({.phase_s = {0, 0, infinity, 0, 0}}), "message shard_finished, field timings.phase_s[2]");
  EXPECT_EQ(at({.compute_s = -1}), "message shard_finished, field timings.compute_s");
  EXPECT_EQ(at({.wait_s = std::nan("")}), "message shard_finished, field timings.wait_s");
  EXPECT_EQ(at({.total_s = infinity}), "message shard_finished, field timings.total_s");
  EXPECT_EQ(at({.bytes_sent = -1}), "message shard_finished, field timings.bytes_sent");
  EXPECT_EQ(at({.bytes_received = -1}), "message shard_finished, field timings.bytes_received");
  EXPECT_EQ(refused_at<worker_report>(answer_finished{1, 0, 0, 0, std::nan(""), {}}),
            "message answer_finished, field first_token_s");
}

TEST(worker_codec, refuses_units_that_fill_no_rows) {
  EXPECT_EQ(refused_at<worker_report>(chosen_units{1, 0, 0, 2, {0, 1, 2, 3}}), "");
  EXPECT_EQ(refused_at<worker_report>(chosen_units{1, 0, 0, 2, {0, 1, 2}}), "message chosen_units, field indices");
  EXPECT_EQ(refused_at<worker_report>(chosen_units{1, 0, 0, 2, {0, -1}}), "message chosen_units, field indices");
  EXPECT_EQ(refused_at<worker_report>(chosen_units{1, 0, 0, 0, {}}), "message chosen_units, field kv_heads");
}

TEST(worker_codec, refuses_a_message_without_its_parts) {
  // Message 1 and 4 of a command, 3, 7 and 8 of a report, each empty.
  EXPECT_EQ(refused_at<worker_command>(std::string_view("\x0a\x00", 2)), "message assign_shard, field plan.compressor");
  EXPECT_EQ(refused_at<worker_command>(std::string_view("\x22\x00", 2)),
            "message ask_question, field asked.max_new_tokens");
  EXPECT_EQ(refused_at<worker_report>(std::string_view("\x1a\x00", 2)),
            "message shard_finished, field timings.phase_s");
  EXPECT_EQ(refused_at<worker_report>(std::string_view("\x3a\x00", 2)),
            "message answer_finished, field timings.phase_s");
  EXPECT_EQ(refused_at<worker_report>(std::string_view("\x42\x00", 2)), "message shard_failed, field why.code");
}

TEST(worker_codec, refuses_an_unknown_fault_code) {
  EXPECT_EQ(refused_at<worker_report>(shard_failed{1, 0, 0, {static_cast<fault_code>(8), "", ""}}),
            "message shard_failed, field why.code");
  EXPECT_EQ(refused_at<worker_report>(shard_failed{1, 0, 0, {static_cast<fault_code>(-1), "", ""}}),
            "message shard_failed, field why.code");
}

TEST(worker_codec, refuses_names_that_are_too_long) {
  EXPECT_EQ(refused_at<worker_report>(worker_ready{std::string(4097, 'n'), "d", "k", 0}),
            "message worker_ready, field node");
  EXPECT_EQ(refused_at<worker_report>(worker_ready{"n", std::string(4097, 'd'), "k", 0}),
            "message worker_ready, field device");
  EXPECT_EQ(refused_at<worker_report>(worker_ready{"n", "d", std::string(4097, 'k'), 0}),
            "message worker_ready, field kernel_class");
}

TEST(worker_codec, shortens_the_text_of_a_failure_instead_of_losing_it) {
  const auto arrives = [](const std::string& what) {
    const worker_report sent = shard_failed{1, 0, 0, {fault_code::device, what, what}};
    const auto why = std::get<shard_failed>(decode_worker_report(encode(sent))).why;
    EXPECT_EQ(why.what, why.where);
    return why.what;
  };
  const std::string most(4096, 'x');
  EXPECT_EQ(arrives(most), most);
  EXPECT_EQ(arrives(most + "y"), most);
  EXPECT_EQ(arrives(most.substr(1) + "é"), most.substr(1));
  EXPECT_EQ(arrives(most.substr(3) + "😀 and more"), most.substr(3));
  EXPECT_EQ(arrives(std::string(5000, '\x80')).size(), 4092U);
}

TEST(worker_codec, refuses_the_text_of_a_failure_that_nobody_shortened) {
  wire::WorkerReport report;
  auto& why = *report.mutable_shard_failed()->mutable_why();
  why.set_code(wire::FAULT_CODE_DEVICE);
  why.set_where(std::string(4097, 'x'));
  EXPECT_EQ(refused_at<worker_report>(report.SerializeAsString()), "message shard_failed, field why.where");
  why.set_what(std::string(4097, 'x'));
  EXPECT_EQ(refused_at<worker_report>(report.SerializeAsString()), "message shard_failed, field why.what");
}

struct wrong_trace {
  const char* where;
  std::function<void(trace_spans&)> make;
};

TEST(worker_codec, refuses_traces_of_nothing_that_can_be) {
  const std::vector<wrong_trace> wrong{
      {"rank", [](trace_spans& t) { t.rank = 65535; }},
      {"spans[0].what", [](trace_spans& t) { t.recorded.spans[0].what = static_cast<activity>(6); }},
      {"spans[0].stage", [](trace_spans& t) { t.recorded.spans[0].stage = static_cast<block_phase>(3); }},
      {"spans[0].waits_for", [](trace_spans& t) { t.recorded.spans[0].waits_for = -2; }},
      {"spans[0].begin_ns", [](trace_spans& t) { t.recorded.spans[0].begin_ns = -1; }},
      {"spans[0].length_ns", [](trace_spans& t) { t.recorded.spans[0].end_ns = t.recorded.spans[0].begin_ns; }},
      {"blocks[0].event", [](trace_spans& t) { t.recorded.blocks[0].event = static_cast<trace_block::event_kind>(2); }},
      {"blocks[0].phase", [](trace_spans& t) { t.recorded.blocks[0].key.phase = static_cast<block_phase>(3); }},
      {"blocks[0].source", [](trace_spans& t) { t.recorded.blocks[0].key.source = 65535; }},
      {"blocks[0].targets_first", [](trace_spans& t) { t.recorded.blocks[0].targets.first = -1; }},
      {"blocks[0].targets_last",
       [](trace_spans& t) {
         t.recorded.blocks[0].targets = {2, 1};
       }},
      {"blocks[0].at_ns", [](trace_spans& t) { t.recorded.blocks[0].at_ns = -1; }},
      {"memory[0].bytes", [](trace_spans& t) { t.recorded.memory[0].bytes = -1; }},
      {"memory[0].at_ns", [](trace_spans& t) { t.recorded.memory[0].at_ns = -1; }},
      {"dropped", [](trace_spans& t) { t.recorded.dropped = -1; }},
      {"spans", [](trace_spans& t) { t.recorded.spans.resize(trace_events_per_message, t.recorded.spans[0]); }},
  };
  for (const auto& [where, make] : wrong) {
    trace_spans trace;
    trace.recorded.spans = {{.begin_ns = 5, .end_ns = 6}};
    trace.recorded.blocks.resize(1);
    trace.recorded.memory.resize(1);
    ASSERT_EQ(refused_at<worker_report>(trace), "");
    make(trace);
    EXPECT_EQ(refused_at<worker_report>(trace), std::string("message trace_spans, field ") + where);
    EXPECT_EQ(refused_at<client_update>(trace), std::string("message trace_spans, field ") + where);
  }
}

TEST(worker_codec, keeps_the_largest_piece_of_a_trace_under_a_megabyte) {
  trace_block largest{trace_block::event_kind::arrived, {}, {65535, 65535}, INT64_MAX};
  largest.key = {.phase = block_phase::decode,
                 .question = UINT32_MAX,
                 .step = UINT32_MAX,
                 .layer = UINT16_MAX,
                 .source = 65534,
                 .part = UINT16_MAX};
  const trace_span span{activity::wait, block_phase::decode, UINT32_MAX, UINT16_MAX, 65534, 1, INT64_MAX};
  trace_spans trace{UINT64_MAX, 65534, {}};
  trace.recorded.blocks.assign(trace_events_per_message, largest);
  EXPECT_LT(encode(worker_report(trace)).size(), 1000000U);
  EXPECT_EQ(refused_at<worker_report>(trace), "");
  trace.recorded = {std::vector(trace_events_per_message, span), {}, {}, INT64_MAX};
  EXPECT_LT(encode(worker_report(trace)).size(), 1000000U);
}

TEST(worker_codec, carries_logits_that_are_no_numbers) {
  const worker_report sent = first_logits{1, 0, 0, {std::nanf(""), static_cast<float>(infinity), -1}};
  const auto values = std::get<first_logits>(decode_worker_report(encode(sent))).values;
  ASSERT_EQ(values.size(), 3U);
  EXPECT_TRUE(std::isnan(values[0]));
  EXPECT_EQ(values[1], static_cast<float>(infinity));
  EXPECT_EQ(values[2], -1);
}

}  // namespace
}  // namespace baton
