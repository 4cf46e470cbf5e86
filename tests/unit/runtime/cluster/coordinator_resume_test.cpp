#include <algorithm>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/cluster/coordinator_logic.hpp"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;
using stage = held_shard::stage;

constexpr peer_id west = 1, east = 2, west_relay = 3, east_relay = 4, client = 7;

/// Outlives coordinators, as the journal does.
class lasting_store final : public job_store {
 public:
  std::uint64_t starts = 1;

  [[nodiscard]] std::uint64_t generation() const override { return starts; }
  void expect_to_be_the_newest() const override {}
  job_id keep(const submit_job& asked, std::span<const std::int32_t> ids) override { return jobs_.keep(asked, ids); }
  std::optional<stored_job> find(job_id id) override { return jobs_.find(id); }
  std::optional<stored_job> find(const std::string& request_id) override { return jobs_.find(request_id); }
  std::vector<std::int32_t> ids_of(job_id id) override { return jobs_.ids_of(id); }
  void began(job_id id, const begun_run& run) override { jobs_.began(id, run); }
  void ended(job_id id, const std::optional<job_started>& started, const client_update& end) override {
    jobs_.ended(id, started, end);
  }
  std::vector<stored_job> unfinished() override { return jobs_.unfinished(); }
  std::vector<job_summary> newest(std::size_t count_max) override { return jobs_.newest(count_max); }

 private:
  memory_store jobs_;
};

/// A job of two ranks of three layers, one on each of two nodes, that a coordinator has begun and left behind.
struct resume : testing::Test {
  served_model model{4096, 100, true, {.layers = 3, .heads = 4, .kv_heads = 2, .head_dim = 8, .element_bytes = 2}};
  lasting_store store;
  std::optional<coordinator_logic> logic;
  double now = 100;
  std::vector<coordinator_action> actions;
  job_id run = 0;

  void start() {
    logic.emplace(model, coordinator_limits{.silence_s = 1e9, .replays_max = 2, .replacement_s = 10, .take_up_s = 5},
                  std::vector<std::pair<std::string, std::string>>{{"west", "d"}, {"east", "d"}}, &store);
  }
  void SetUp() override {
    start();
    join({}, {}, {}, {});
    submit_job request{.request_id = "r", .options = {}, .document_tokens = 200, .query_tokens = 8, .detached = true};
    request.options.ranks = 2;
    request.options.anchor_tokens = 20;
    request.options.passing_tokens = 5;
    logic->client_said(client, request, now);
    logic->client_said(client, submit_ids{"r", 0, std::vector<std::int32_t>(208, 1)}, now);
    take();
    ASSERT_EQ(said_to_relays<reserve_log>().size(), 2u);
    run = said_to_relays<reserve_log>()[0].second.job;
    logic->relay_said(west_relay, log_reserved{run}, now);
    logic->relay_said(east_relay, log_reserved{run}, now);
    EXPECT_FALSE(store.find(1)->begun);
    logic->worker_said(west, shard_ready{run, 0}, now);
    logic->worker_said(east, shard_ready{run, 1}, now);
    take();
    ASSERT_EQ(said_to_workers<start_shard>().size(), 2u);
    ASSERT_TRUE(store.find(1)->begun) << "before anybody has heard that it begins";
    EXPECT_EQ(store.find(1)->begun->run, run);
  }
  /// The next coordinator, with the same numbers for whoever joins.
  void restart() {
    ++store.starts;
    start();
    take();
  }
  void west_joins(std::vector<job_id> runs) {
    logic->worker_joined(west, {"west", "d", "cpu", 0, "w", 11, 1, std::move(runs)}, now);
  }
  void east_joins(std::vector<job_id> runs) {
    logic->worker_joined(east, {"east", "d", "cpu", 0, "e", 12, 1, std::move(runs)}, now);
  }
  void west_relay_joins(std::vector<job_id> runs) {
    logic->relay_joined(west_relay, {"west", 1 << 20, "west relay", 13, std::move(runs)}, now);
  }
  void east_relay_joins(std::vector<job_id> runs) {
    logic->relay_joined(east_relay, {"east", 1 << 20, "east relay", 14, std::move(runs)}, now);
  }
  void join(std::vector<job_id> in_west, std::vector<job_id> in_east, std::vector<job_id> west_logs,
            std::vector<job_id> east_logs) {
    west_joins(std::move(in_west));
    east_joins(std::move(in_east));
    west_relay_joins(std::move(west_logs));
    east_relay_joins(std::move(east_logs));
  }
  void join_again() { join({run}, {run}, {run}, {run}); }
  /// This coordinator's first round of fences, and later ones.
  [[nodiscard]] std::uint64_t round(std::uint64_t number) const { return first_run_of(store.starts) + number; }
  void holds(peer_id worker, held_shard shard) {
    logic->worker_said(worker, shards_held{run, {std::move(shard)}}, now);
  }
  void tells_again(peer_id worker) { logic->worker_said(worker, shards_held{run, {}}, now); }
  void fenced(std::uint64_t round, std::vector<rank_layers> west_held, std::vector<rank_layers> east_held) {
    logic->relay_said(west_relay, job_fenced{run, round, std::move(west_held)}, now);
    logic->relay_said(east_relay, job_fenced{run, round, std::move(east_held)}, now);
    take();
  }

  void take() { actions = logic->take_actions(); }
  [[nodiscard]] std::vector<peer_id> dismissed() const {
    std::vector<peer_id> all;
    for (const auto& action : actions) {
      if (const auto* who = std::get_if<dismiss>(&action)) all.push_back(who->peer);
    }
    return all;
  }
  void pass(double seconds) {
    for (const double until = now + seconds; now < until; now += 0.1) logic->tick(now);
    take();
  }
  template <class Message>
  [[nodiscard]] std::vector<Message> said_to_client() const {
    std::vector<Message> all;
    for (const auto& action : actions) {
      const auto* to = std::get_if<to_client>(&action);
      if (to && std::holds_alternative<Message>(to->update)) all.push_back(std::get<Message>(to->update));
    }
    return all;
  }
  template <class Message>
  [[nodiscard]] std::vector<std::pair<peer_id, Message>> said_to_workers() const {
    std::vector<std::pair<peer_id, Message>> all;
    for (const auto& action : actions) {
      const auto* to = std::get_if<to_worker>(&action);
      if (to && std::holds_alternative<Message>(to->command))
        all.emplace_back(to->worker, std::get<Message>(to->command));
    }
    return all;
  }
  template <class Message>
  [[nodiscard]] std::vector<std::pair<peer_id, Message>> said_to_relays() const {
    std::vector<std::pair<peer_id, Message>> all;
    for (const auto& action : actions) {
      const auto* to = std::get_if<to_relay>(&action);
      if (to && std::holds_alternative<Message>(to->command))
        all.emplace_back(to->relay, std::get<Message>(to->command));
    }
    return all;
  }
};

TEST_F(resume, a_job_all_of_whose_ranks_are_held_goes_on_and_nobody_is_told_to_compute) {
  restart();
  join_again();
  take();
  EXPECT_THAT(said_to_workers<report_shards>(),
              ElementsAre(std::pair(west, report_shards{run}), std::pair(east, report_shards{run})));
  EXPECT_THAT(said_to_workers<release_job>(), IsEmpty());
  holds(west, {.rank = 0, .at = stage::prefilled, .layer = 2});
  take();
  EXPECT_THAT(actions, IsEmpty());
  holds(east, {.rank = 1, .at = stage::started, .layer = 1});
  take();
  EXPECT_THAT(said_to_workers<report_results>(),
              ElementsAre(std::pair(west, report_results{run}), std::pair(east, report_results{run})));
  EXPECT_THAT(said_to_relays<fence_job>(), ElementsAre(std::pair(west_relay, fence_job{run, round(1), {0, 0}}),
                                                       std::pair(east_relay, fence_job{run, round(1), {0, 0}})))
      << "a later round than any that they have heard";
  fenced(round(1), {{0, {0, 1, 2}, 0}}, {{0, {0, 1}, 0}});
  EXPECT_EQ(said_to_relays<place_blocks>().size(), 2u);
  EXPECT_THAT(said_to_workers<assign_shard>(), IsEmpty());
  EXPECT_THAT(said_to_workers<start_shard>(), IsEmpty());
  EXPECT_THAT(said_to_workers<rewire_rank>(), IsEmpty());
  // What is told in between was told before the worker heard that it is to tell it again.
  logic->worker_said(west, shard_finished{run, 0, {}}, now);
  logic->worker_said(east, shard_finished{run, 1, {}}, now);
  take();
  EXPECT_THAT(said_to_workers<ask_question>(), IsEmpty());
  tells_again(west);
  logic->worker_said(west, shard_finished{run, 0, {}}, now);
  tells_again(east);
  shard_timings timings;
  timings.total_s = 42;
  timings.computed = {6, 6, 6};
  logic->worker_said(east, shard_finished{run, 1, timings}, now);
  take();
  ASSERT_EQ(said_to_workers<ask_question>().size(), 2u);
  EXPECT_EQ(said_to_workers<ask_question>()[0].second.asked.repeat, 0u);
  logic->worker_said(east, answer_token{run, 0, 0, 9, 0}, now);
  logic->worker_said(west, answer_finished{run, 0, 0, 1, 0, {}, 0}, now);
  logic->worker_said(east, answer_finished{run, 1, 0, 1, 0, {}, 0}, now);
  const auto done = std::get<job_finished>(*store.find(1)->end);
  EXPECT_THAT(done.answer_ids, ElementsAre(9));
  EXPECT_EQ(done.ranks[1].prefill.computed, timings.computed);
  EXPECT_EQ(done.prefill_s, 42);
  EXPECT_THAT(done.replays, IsEmpty());
}

TEST_F(resume, a_rank_that_was_ready_and_had_not_heard_that_it_begins_begins) {
  restart();
  join_again();
  holds(west, {.rank = 0, .at = stage::started});
  holds(east, {.rank = 1, .at = stage::ready});
  tells_again(east);
  logic->worker_said(east, shard_ready{run, 1}, now);
  take();
  EXPECT_THAT(said_to_workers<start_shard>(), ElementsAre(std::pair(east, start_shard{run, 1})));
}

TEST_F(resume, an_answer_goes_on_where_it_is_and_the_longest_known_prefix_counts) {
  restart();
  logic->client_said(client, follow_job{1}, now);
  join_again();
  held_shard in_west{.rank = 0, .at = stage::prefilled, .asked = true, .repeat = 1, .tokens = {5, 6, 7}};
  held_shard in_east = in_west;
  in_east.rank = 1;
  in_east.tokens = {5, 6};
  holds(west, in_west);
  holds(east, in_east);
  take();
  EXPECT_THAT(said_to_client<job_started>().size(), 1u);
  EXPECT_THAT(said_to_client<answer_token>(),
              ElementsAre(answer_token{1, 0, 0, 5}, answer_token{1, 0, 1, 6}, answer_token{1, 0, 2, 7}));
  EXPECT_THAT(said_to_workers<ask_question>(), IsEmpty());
  for (const auto worker : {west, east}) {
    const int rank = worker == west ? 0 : 1;
    tells_again(worker);
    logic->worker_said(worker, shard_finished{run, rank, {}}, now);
    if (worker == east) logic->worker_said(worker, answer_token{run, 0, 3, 8, 1}, now);
    logic->worker_said(worker, answer_finished{run, rank, 0, 4, 0, {}, 1}, now);
  }
  take();
  EXPECT_THAT(said_to_client<prefill_finished>().size(), 1u);
  EXPECT_THAT(said_to_client<answer_token>(), ElementsAre(answer_token{1, 0, 3, 8, 1}));
  ASSERT_EQ(said_to_client<job_finished>().size(), 1u);
  EXPECT_THAT(said_to_client<job_finished>()[0].answer_ids, ElementsAre(5, 6, 7, 8));
}

TEST_F(resume, a_question_that_not_all_have_heard_is_asked_again_with_what_is_known) {
  restart();
  join_again();
  holds(west, {.rank = 0, .at = stage::prefilled, .asked = true, .repeat = 2, .tokens = {5}});
  holds(east, {.rank = 1, .at = stage::prefilled, .asked = true, .repeat = 1, .tokens = {5, 6}});
  take();
  for (const auto worker : {west, east}) {
    tells_again(worker);
    logic->worker_said(worker, shard_finished{run, worker == west ? 0 : 1, {}}, now);
  }
  take();
  ASSERT_EQ(said_to_workers<ask_question>().size(), 2u);
  const auto asked = said_to_workers<ask_question>()[0].second.asked;
  EXPECT_EQ(asked.repeat, 3u);
  EXPECT_THAT(asked.forced_tokens, ElementsAre(5))
      << "what came of an earlier asking after a later one had begun counts no more";
}

TEST_F(resume, a_rank_that_nobody_tells_of_is_lost_as_that_of_a_dead_worker_is) {
  restart();
  west_joins({run});
  west_relay_joins({run});
  east_relay_joins({run});
  holds(west, {.rank = 0, .at = stage::started, .layer = 1});
  pass(4);
  EXPECT_THAT(said_to_relays<fence_job>(), IsEmpty());
  pass(2);
  EXPECT_THAT(store.find(1)->begun->attempts, ElementsAre(0, 1)) << "kept before anybody acts on it";
  EXPECT_THAT(said_to_relays<fence_job>(), ElementsAre(std::pair(west_relay, fence_job{run, round(1), {0, 1}}),
                                                       std::pair(east_relay, fence_job{run, round(1), {0, 1}})));
  fenced(round(1), {{0, {0}, 0}}, {{0, {0}, 0}});
  ASSERT_EQ(said_to_workers<assign_shard>().size(), 1u);
  EXPECT_EQ(said_to_workers<assign_shard>()[0].second.rank, 1);
  EXPECT_EQ(said_to_workers<assign_shard>()[0].first, west);
  // Who comes after all is to come anew.
  east_joins({run});
  take();
  EXPECT_THAT(dismissed(), ElementsAre(east));
  EXPECT_EQ(logic->workers(), 1u);
}

TEST_F(resume, it_does_not_wait_longer_where_all_declared_devices_are_there) {
  restart();
  join({run}, {}, {run}, {});
  holds(west, {.rank = 0, .at = stage::started});
  take();
  EXPECT_EQ(said_to_relays<fence_job>().size(), 1u);
}

TEST_F(resume, who_has_been_asked_and_has_not_answered_in_time_is_to_come_anew) {
  restart();
  join_again();
  holds(west, {.rank = 0, .at = stage::started});
  pass(6);
  EXPECT_THAT(dismissed(), ElementsAre(east));
  holds(east, {.rank = 1, .at = stage::started});
  take();
  EXPECT_THAT(actions, IsEmpty());
}

TEST_F(resume, an_attempt_that_was_given_up_counts_no_more_and_its_worker_is_to_come_anew) {
  logic->worker_lost(east, "silent", now);
  EXPECT_THAT(store.find(1)->begun->attempts, ElementsAre(0, 1));
  restart();
  join_again();
  holds(west, {.rank = 0, .at = stage::started});
  holds(east, {.rank = 1, .attempt = 0, .at = stage::started});
  take();
  EXPECT_THAT(dismissed(), ElementsAre(east));
  EXPECT_THAT(store.find(1)->begun->attempts, ElementsAre(0, 2));
}

TEST_F(resume, ranks_whose_relay_has_not_kept_the_log_are_lost) {
  restart();
  join({run}, {run}, {run}, {});
  holds(west, {.rank = 0, .at = stage::started});
  holds(east, {.rank = 1, .at = stage::started});
  take();
  EXPECT_THAT(dismissed(), ElementsAre(east));
  EXPECT_THAT(said_to_relays<fence_job>(), ElementsAre(std::pair(west_relay, fence_job{run, round(1), {0, 1}})));
}

TEST_F(resume, what_a_replayed_rank_leaves_to_holders_is_settled_anew_and_all_hear_where_it_is) {
  restart();
  join_again();
  holds(west, {.rank = 0, .attempt = 2, .at = stage::started, .layer = 2, .held_layers = {0, 1}});
  holds(east, {.rank = 1, .at = stage::started, .layer = 1});
  take();
  fenced(round(1), {{0, {0}, 1}}, {{0, {0}, 1}});
  EXPECT_THAT(said_to_workers<give_blocks>(), ElementsAre(std::pair(west, give_blocks{run, 0, {1}})))
      << "nobody holds it any more";
  ASSERT_EQ(said_to_relays<place_blocks>().size(), 2u);
  EXPECT_THAT(said_to_relays<place_blocks>()[0].second.holders, ElementsAre(rank_layers{0, {0}, 1}));
  EXPECT_THAT(said_to_workers<rewire_rank>(), UnorderedElementsAre(std::pair(west, rewire_rank{run, 0, {"w", 2}}),
                                                                   std::pair(east, rewire_rank{run, 0, {"w", 2}})));
}

TEST_F(resume, a_job_of_which_nobody_holds_anything_begins_anew_as_another_run) {
  restart();
  join({}, {}, {run}, {run});
  take();
  EXPECT_THAT(said_to_relays<release_log>(),
              UnorderedElementsAre(std::pair(west_relay, release_log{run}), std::pair(east_relay, release_log{run})));
  ASSERT_EQ(said_to_relays<reserve_log>().size(), 2u);
  EXPECT_NE(said_to_relays<reserve_log>()[0].second.job, run);
}

TEST_F(resume, a_run_of_a_job_that_has_ended_or_that_was_never_begun_is_released) {
  logic->client_said(client, cancel_job{1}, now);
  restart();
  join({run, run + 1}, {}, {run, run + 1}, {});
  take();
  EXPECT_THAT(said_to_workers<release_job>(),
              ElementsAre(std::pair(west, release_job{run}), std::pair(west, release_job{run + 1})));
  EXPECT_THAT(said_to_relays<release_log>(),
              ElementsAre(std::pair(west_relay, release_log{run}), std::pair(west_relay, release_log{run + 1})));
}

TEST_F(resume, a_job_may_be_cancelled_before_it_is_taken_up) {
  restart();
  west_joins({run});
  logic->client_said(client, cancel_job{1}, now);
  take();
  EXPECT_EQ(store.find(1)->state, job_state::cancelled);
  EXPECT_THAT(said_to_workers<release_job>(), ElementsAre(std::pair(west, release_job{run})));
}

TEST_F(resume, a_block_that_is_still_damaged_is_seen_to) {
  restart();
  join_again();
  logic->relay_said(east_relay, block_damaged{run, 0, 1}, now);
  holds(west, {.rank = 0, .at = stage::prefilled});
  holds(east, {.rank = 1, .at = stage::started, .layer = 1});
  take();
  fenced(round(1), {{0, {0, 2}, 0}}, {{0, {0}, 0}});
  EXPECT_THAT(said_to_workers<give_blocks>(), ElementsAre(std::pair(west, give_blocks{run, 0, {1}})));
}

TEST_F(resume, whoever_follows_it_later_is_told_what_workers_have_told_again) {
  restart();
  join_again();
  holds(west, {.rank = 0, .at = stage::prefilled});
  holds(east, {.rank = 1, .at = stage::started});
  tells_again(west);
  logic->worker_said(west, chosen_units{run, 0, 2, 2, {1, 2}, 9}, now);
  logic->client_said(client, follow_job{1}, now);
  take();
  EXPECT_THAT(said_to_client<chosen_units>(), ElementsAre(chosen_units{1, 0, 2, 2, {1, 2}, 9}));
}

TEST_F(resume, new_jobs_wait_until_it_is_known_what_the_old_ones_take) {
  restart();
  join_again();
  submit_job request{.request_id = "s", .options = {}, .document_tokens = 200, .query_tokens = 8, .detached = true};
  request.options.ranks = 1;
  logic->client_said(client, request, now);
  logic->client_said(client, submit_ids{"s", 0, std::vector<std::int32_t>(208, 1)}, now);
  take();
  EXPECT_THAT(said_to_relays<reserve_log>(), IsEmpty());
  holds(west, {.rank = 0, .at = stage::started});
  holds(east, {.rank = 1, .at = stage::started});
  take();
  EXPECT_EQ(said_to_relays<reserve_log>().size(), 1u);
}

}  // namespace
}  // namespace baton
