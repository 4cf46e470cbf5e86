#include "runtime/cluster/worker_logic.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/routes.hpp"

namespace baton {
namespace {

job_plan plan_of_two() {
  plan_request request;
  request.document_tokens = 20;
  request.query_tokens = 2;
  request.options.strategy = "star";
  request.options.ranks = 2;
  return make_job_plan(request, std::vector<device_view>{{"n", "d", "cpu"}});
}

struct worker_logic_test : testing::Test {
  worker_logic logic{{"n", "d", "cpu", 1000}};

  template <class Kind>
  std::vector<Kind> reported() {
    std::vector<Kind> all;
    for (auto& action : actions) {
      if (auto* r = std::get_if<worker_report>(&action)) {
        if (auto* k = std::get_if<Kind>(r)) all.push_back(*k);
      }
    }
    return all;
  }
  template <class Kind>
  std::vector<Kind> commanded() {
    std::vector<Kind> all;
    for (auto& action : actions) {
      if (auto* c = std::get_if<device_command>(&action)) {
        if (auto* k = std::get_if<Kind>(c)) all.push_back(*k);
      }
    }
    return all;
  }
  void take() { actions = logic.take_actions(); }
  /// Rank 1 of 2, with all its ids.
  void give_shard(bool report_chosen_units) {
    logic.coordinator_said(assign_shard{5, 1, plan_of_two(), routes_of(2), report_chosen_units, false}, 1);
    logic.coordinator_said(shard_ids{5, 1, 0, std::vector<std::int32_t>(20)}, 1);
  }

  std::vector<worker_action> actions;
};

TEST_F(worker_logic_test, a_shard_is_prepared_with_all_its_ids_in_order_and_starts_when_told) {
  logic.coordinator_said(assign_shard{5, 1, plan_of_two(), routes_of(2), true, true});
  logic.coordinator_said(shard_ids{5, 1, 0, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}});
  logic.coordinator_said(shard_ids{5, 1, 12, {13, 14, 15, 16, 17, 18, 19, 20}});
  take();
  ASSERT_EQ(commanded<prepare_prefill>().size(), 1u);
  const auto shard = commanded<prepare_prefill>()[0];
  EXPECT_EQ(shard.job, 5u);
  EXPECT_EQ(shard.ids.size(), 20u);
  EXPECT_EQ(shard.ids[12], 13);
  EXPECT_TRUE(shard.keep_chosen_units);
  EXPECT_TRUE(shard.record_trace);
  EXPECT_EQ(shard.routes, routes_of(2));
  EXPECT_TRUE(reported<shard_ready>().empty());
  logic.device_said(shard_prepared{5, 1});
  take();
  EXPECT_EQ(reported<shard_ready>(), (std::vector{shard_ready{5, 1}}));
  logic.coordinator_said(start_shard{5, 1});
  take();
  ASSERT_EQ(commanded<start_prefill>().size(), 1u);
  EXPECT_EQ(commanded<start_prefill>()[0].rank, 1);
}

TEST_F(worker_logic_test, missing_and_misplaced_ids_fail_the_shard) {
  logic.coordinator_said(assign_shard{5, 1, plan_of_two(), routes_of(2), false});
  logic.coordinator_said(shard_ids{5, 1, 3, {1}});
  take();
  EXPECT_THAT(reported<shard_failed>().at(0).why.what, testing::HasSubstr("token ids at 3 came where 0 of 20"));
  logic.coordinator_said(assign_shard{5, 1, plan_of_two(), routes_of(2), false});
  logic.coordinator_said(shard_ids{5, 1, 0, {1}});
  logic.coordinator_said(start_shard{5, 1});
  take();
  EXPECT_THAT(reported<shard_failed>().at(0).why.what, testing::HasSubstr("started with 1 of 20"));
  EXPECT_TRUE(commanded<start_prefill>().empty());
}

TEST_F(worker_logic_test, a_release_forgets_ids_that_were_still_coming) {
  logic.coordinator_said(assign_shard{5, 1, plan_of_two(), routes_of(2), false});
  logic.coordinator_said(release_job{5});
  logic.coordinator_said(shard_ids{5, 1, 0, std::vector<std::int32_t>(20)});
  logic.coordinator_said(start_shard{5, 1});
  take();
  EXPECT_EQ(commanded<drop_job>().size(), 1u);
  EXPECT_TRUE(commanded<prepare_prefill>().empty());
  logic.device_said(job_dropped{5});
  take();
  EXPECT_EQ(reported<job_released>().size(), 1u);
}

TEST_F(worker_logic_test, what_the_device_says_becomes_reports) {
  give_shard(true);
  prefill_done done{5, 1, {}, {.bytes_sent = 100, .bytes_received = 7}, 2, {{1, 2, 3, 4}, {}}};
  done.timings.compute_s = 1.5;
  logic.device_said(done);
  take();
  ASSERT_EQ(reported<chosen_units>().size(), 1u);
  EXPECT_EQ(reported<chosen_units>()[0].kv_heads, 2);
  ASSERT_EQ(reported<shard_finished>().size(), 1u);
  EXPECT_EQ(reported<shard_finished>()[0].timings.bytes_sent, 100);
  EXPECT_DOUBLE_EQ(reported<shard_finished>()[0].timings.compute_s, 1.5);
  logic.device_said(answer_done{5, 1, 0, 3, 0.25, {}, {.bytes_sent = 130, .bytes_received = 17}});
  take();
  EXPECT_EQ(reported<answer_finished>()[0].timings.bytes_sent, 30);
  EXPECT_EQ(reported<answer_finished>()[0].timings.bytes_received, 10);
  logic.device_said(pass_failed{5, 1, 2, fault(fault_code::device, "broken", "kernel x")});
  take();
  EXPECT_EQ(reported<shard_failed>()[0].layer, 2);
  EXPECT_EQ(reported<shard_failed>()[0].why.where, "kernel x");
}

TEST_F(worker_logic_test, a_trace_goes_in_pieces_before_the_end_of_what_it_is_about) {
  const std::size_t spans = trace_events_per_message + 10;
  prefill_done done{5, 1, {}, {}, 2, {}, {}};
  for (std::size_t i = 0; i < spans; ++i)
    done.trace.spans.push_back({.layer = static_cast<std::uint16_t>(i), .end_ns = 1});
  done.trace.blocks.resize(7);
  done.trace.memory.resize(4);
  done.trace.dropped = 3;
  logic.device_said(done);
  take();
  const auto pieces = reported<trace_spans>();
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(pieces[0].recorded.spans.size(), trace_events_per_message);
  EXPECT_EQ(pieces[1].recorded.blocks.size(), 7u);
  rank_trace all;
  for (const auto& piece : pieces) {
    EXPECT_EQ(piece.job, 5u);
    EXPECT_EQ(piece.rank, 1);
    all.append(piece.recorded);
  }
  EXPECT_EQ(all, done.trace);
  EXPECT_TRUE(std::holds_alternative<shard_finished>(std::get<worker_report>(actions.back())));

  answer_done answered{5, 1, 0, 3, 0.25, {}, {}, {}};
  answered.trace.spans.resize(1);
  logic.device_said(answered);
  take();
  ASSERT_EQ(reported<trace_spans>().size(), 1u);
  EXPECT_TRUE(std::holds_alternative<answer_finished>(std::get<worker_report>(actions.back())));
}

TEST_F(worker_logic_test, where_nothing_was_recorded_no_trace_is_told) {
  logic.device_said(prefill_done{5, 1, {}, {}, 2, {}, {}});
  logic.device_said(answer_done{5, 1, 0, 3, 0.25, {}, {}, {}});
  take();
  EXPECT_TRUE(reported<trace_spans>().empty());
}

TEST_F(worker_logic_test, long_logits_go_in_pieces) {
  logits_ready ready{5, 1, 0, std::vector<float>(static_cast<std::size_t>(ids_per_message) + 10, 1.0f)};
  ready.logits.back() = 3;
  logic.device_said(ready);
  take();
  const auto pieces = reported<first_logits>();
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(pieces[1].first, ids_per_message);
  EXPECT_EQ(pieces[1].values.size(), 10u);
  EXPECT_EQ(pieces[1].values.back(), 3);
}

TEST_F(worker_logic_test, who_has_heard_a_later_coordinator_obeys_the_earlier_one_no_more_and_keeps_what_it_has_told) {
  logic.coordinator_said(assign_shard{7, 1, plan_of_two(), routes_of(2), false, false}, 1);
  EXPECT_THAT(logic.joins().jobs, testing::ElementsAre(7));
  // The earlier one goes on, although the worker has joined the later one.
  EXPECT_TRUE(logic.coordinator_said(assign_shard{8, 1, plan_of_two(), routes_of(2), false, false}, 1));
  take();
  EXPECT_TRUE(logic.coordinator_said(report_shards{7}, 2));
  take();
  ASSERT_EQ(commanded<drop_job>().size(), 1u);
  EXPECT_EQ(commanded<drop_job>()[0].job, 8u) << "nobody has told the later one of it";
  EXPECT_FALSE(logic.coordinator_said(release_job{7}, 1));
  take();
  EXPECT_TRUE(actions.empty());
  EXPECT_THAT(logic.joins().jobs, testing::ElementsAre(7));
}

TEST_F(worker_logic_test, what_it_holds_goes_on_without_a_coordinator_and_is_told_to_the_next_one) {
  give_shard(true);
  logic.device_said(shard_prepared{5, 1});
  logic.coordinator_said(start_shard{5, 1}, 1);
  const std::vector<pass_snapshot> at{{5, 1, 2, 40, -1, 17}};
  logic.passes_stand_at(at);
  take();
  EXPECT_THAT(logic.joins().jobs, testing::ElementsAre(5));
  logic.coordinator_said(report_shards{5}, 2);
  take();
  held_shard held{.rank = 1, .at = held_shard::stage::started, .layer = 2, .tokens_done = 40, .chunks = 17};
  EXPECT_THAT(reported<shards_held>(), testing::ElementsAre(shards_held{5, {held}}));

  prefill_done done{5, 1, {}, {.bytes_sent = 100}, 2, {{1, 2, 3, 4}, {}}};
  done.computed = {3, 3};
  logic.device_said(done);
  question asked;
  asked.repeat = 2;
  asked.forced_tokens = {70};
  logic.coordinator_said(ask_question{5, asked, true}, 2);
  logic.device_said(logits_ready{5, 1, 0, {1.0f, 2.0f}});
  logic.device_said(token_chosen{5, 1, 0, 1, 71, 2});
  logic.device_said(token_chosen{5, 1, 0, 1, 99, 1});  // of an earlier asking
  logic.device_said(answer_done{5, 1, 0, 2, 0.25, {}, {.bytes_sent = 130}, {}, 2});
  take();
  EXPECT_THAT(logic.joins().jobs, testing::ElementsAre(5));
  logic.coordinator_said(report_results{5}, 3);
  take();
  held.at = held_shard::stage::prefilled;
  held.asked = true;
  held.repeat = 2;
  held.tokens = {70, 71};
  ASSERT_FALSE(actions.empty());
  EXPECT_EQ(std::get<worker_report>(actions[0]), worker_report(shards_held{5, {held}})) << "what follows is new";
  EXPECT_EQ(reported<chosen_units>().size(), 1u);
  EXPECT_EQ(reported<shard_finished>().at(0).timings.computed, done.computed);
  EXPECT_THAT(reported<answer_token>(),
              testing::ElementsAre(answer_token{5, 0, 0, 70, 2}, answer_token{5, 0, 1, 71, 2}));
  EXPECT_EQ(reported<first_logits>().size(), 1u);
  EXPECT_EQ(reported<answer_finished>().at(0).timings.bytes_sent, 30);
  logic.coordinator_said(release_job{5}, 3);
  logic.coordinator_said(report_results{5}, 3);
  take();
  EXPECT_THAT(reported<shards_held>(), testing::ElementsAre(shards_held{5, {}}));
  EXPECT_TRUE(reported<shard_finished>().empty());
}

TEST_F(worker_logic_test, ids_that_an_earlier_coordinator_was_sending_come_no_more) {
  logic.coordinator_said(assign_shard{5, 1, plan_of_two(), routes_of(2)}, 1);
  logic.coordinator_said(shard_ids{5, 1, 0, std::vector<std::int32_t>(7)}, 1);
  EXPECT_THAT(logic.joins().jobs, testing::ElementsAre(5));
  logic.coordinator_said(report_shards{5}, 2);
  take();
  EXPECT_THAT(reported<shards_held>(), testing::ElementsAre(shards_held{5, {}}));
}

TEST_F(worker_logic_test, a_fault_without_a_coordinator_is_told_to_the_next_one) {
  give_shard(false);
  logic.device_said(pass_failed{5, 1, 2, fault(fault_code::device, "broken", "kernel x")});
  take();
  EXPECT_THAT(logic.joins().jobs, testing::ElementsAre(5));
  logic.coordinator_said(report_results{5}, 2);
  take();
  EXPECT_EQ(reported<shard_failed>().at(0).layer, 2);
}

}  // namespace
}  // namespace baton
