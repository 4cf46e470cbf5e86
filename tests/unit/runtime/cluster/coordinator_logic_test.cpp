#include "runtime/cluster/coordinator_logic.hpp"

#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace baton {
namespace {

using testing::HasSubstr;

constexpr peer_id worker_a = 1;
constexpr peer_id worker_b = 2;
constexpr peer_id relay = 3;
constexpr peer_id client = 4;

struct coordinator_logic_test : testing::Test {
  served_model model{4096, 100, true, {.layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 8, .element_bytes = 2}};
  coordinator_logic logic{model, {.silence_s = 5, .replays_max = 0}};
  double now = 100;

  void SetUp() override {
    logic.worker_joined(worker_a, {"n", "d0", "cpu", 0}, now);
    logic.worker_joined(worker_b, {"n", "d1", "cpu", 0}, now);
    logic.relay_joined(relay, {"n", 1 << 20}, now);
  }

  submit_job request(const std::string& id = "r") const {
    submit_job r;
    r.request_id = id;
    r.options.ranks = 4;
    r.options.anchor_tokens = 20;
    r.options.passing_tokens = 5;
    r.document_tokens = 200;
    r.query_tokens = 8;
    r.stop_tokens = {99};
    return r;
  }

  void submit(const std::string& id = "r") {
    logic.client_said(client, request(id), now);
    std::vector<std::int32_t> ids(208);
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i % 90);
    logic.client_said(client, submit_ids{id, 0, {ids.begin(), ids.begin() + 100}}, now);
    logic.client_said(client, submit_ids{id, 100, {ids.begin() + 100, ids.end()}}, now);
  }

  /// Everything that the coordinator wants done, by kind.
  struct wanted {
    std::vector<to_worker> workers;
    std::vector<to_relay> relays;
    std::vector<to_client> clients;
    std::vector<peer_id> dismissed;

    template <class Message>
    [[nodiscard]] std::vector<Message> said_to_client() const {
      std::vector<Message> all;
      for (const auto& c : clients) {
        if (const auto* m = std::get_if<Message>(&c.update)) all.push_back(*m);
      }
      return all;
    }
    template <class Message>
    [[nodiscard]] std::vector<std::pair<peer_id, Message>> said_to_workers() const {
      std::vector<std::pair<peer_id, Message>> all;
      for (const auto& w : workers) {
        if (const auto* m = std::get_if<Message>(&w.command)) all.emplace_back(w.worker, *m);
      }
      return all;
    }
  };
  wanted take() {
    wanted all;
    for (auto& action : logic.take_actions()) {
      if (auto* w = std::get_if<to_worker>(&action)) all.workers.push_back(*w);
      if (auto* r = std::get_if<to_relay>(&action)) all.relays.push_back(*r);
      if (auto* c = std::get_if<to_client>(&action)) all.clients.push_back(*c);
      if (auto* d = std::get_if<dismiss>(&action)) all.dismissed.push_back(d->peer);
    }
    return all;
  }

  /// Brings the job to the point where all shards compute.
  void reach_prefill() {
    submit();
    take();
    logic.relay_said(relay, log_reserved{1}, now);
    for (int rank = 0; rank < 4; ++rank) shard_is_ready(rank);
  }
  void shard_is_ready(int rank) { logic.worker_said(rank < 2 ? worker_a : worker_b, shard_ready{1, rank}, now); }
  void everybody_lives() {
    logic.worker_said(worker_a, worker_alive{}, now);
    logic.worker_said(worker_b, worker_alive{}, now);
    logic.relay_said(relay, relay_alive{}, now);
  }
  void finish_shard(int rank) { logic.worker_said(rank < 2 ? worker_a : worker_b, shard_finished{1, rank, {}}, now); }
  void finish_answer(int rank) {
    logic.worker_said(rank < 2 ? worker_a : worker_b, answer_finished{1, rank, 0, 2, 0.1, {}}, now);
  }
};

TEST_F(coordinator_logic_test, a_job_is_accepted_once_its_ids_are_there_and_reserves_its_log_first) {
  submit();
  const auto all = take();
  ASSERT_EQ(all.said_to_client<job_accepted>().size(), 1u);
  ASSERT_EQ(all.said_to_client<job_started>().size(), 1u);
  EXPECT_EQ(all.said_to_client<job_started>()[0].plan.ranks(), 4);
  EXPECT_TRUE(all.workers.empty());
  ASSERT_EQ(all.relays.size(), 1u);
  EXPECT_EQ(std::get<reserve_log>(all.relays[0].command).bytes,
            relay_log_bytes(all.said_to_client<job_started>()[0].plan, model.shape));
}

TEST_F(coordinator_logic_test, every_rank_gets_its_shard_and_its_ids_and_nobody_starts_before_all_are_ready) {
  submit();
  take();
  logic.relay_said(relay, log_reserved{1}, now);
  for (int rank = 0; rank < 3; ++rank) shard_is_ready(rank);
  const auto all = take();
  const auto assigned = all.said_to_workers<assign_shard>();
  ASSERT_EQ(assigned.size(), 4u);
  EXPECT_EQ(assigned[0].first, worker_a);
  EXPECT_EQ(assigned[3].first, worker_b);
  const auto ids = all.said_to_workers<shard_ids>();
  ASSERT_EQ(ids.size(), 4u);
  EXPECT_EQ(ids[0].second.ids.size(), 50u);
  EXPECT_EQ(ids[1].second.ids.size(), 70u);
  EXPECT_TRUE(all.said_to_workers<start_shard>().empty());
  shard_is_ready(3);
  EXPECT_EQ(take().said_to_workers<start_shard>().size(), 4u);
}

TEST_F(coordinator_logic_test, shards_and_relays_learn_where_everybody_is_reached) {
  logic.worker_joined(worker_a, {"n", "d0", "cpu", 0, "address a", 11}, now);
  logic.worker_joined(worker_b, {"m", "d1", "cpu", 0, "address b", 12}, now);
  logic.relay_joined(relay, {"n", 1 << 20, "relay n", 13}, now);
  logic.relay_joined(relay + 10, {"m", 1 << 20, "relay m", 14}, now);
  submit();
  auto all = take();
  ASSERT_EQ(all.relays.size(), 2u);
  for (const auto& r : all.relays) {
    EXPECT_EQ(std::get<reserve_log>(r.command).relays,
              (std::vector<std::string>{"relay m", "relay m", "relay n", "relay n"}));
  }
  logic.relay_said(relay, log_reserved{1}, now);
  logic.relay_said(relay + 10, log_reserved{1}, now);
  all = take();
  const auto assigned = all.said_to_workers<assign_shard>();
  ASSERT_EQ(assigned.size(), 4u);
  EXPECT_EQ(assigned[0].second.routes.ranks.at(3).address, "address a");
  EXPECT_EQ(assigned[3].second.routes.ranks.at(0).address, "address b");
  EXPECT_EQ(assigned[0].second.routes.relay, "relay m");
  EXPECT_EQ(assigned[3].second.routes.relay, "relay n");
}

TEST_F(coordinator_logic_test, the_question_is_asked_when_the_last_shard_is_done_and_tokens_go_on_by_index) {
  reach_prefill();
  take();
  now = 103;
  for (const int rank : {3, 0, 1}) finish_shard(rank);
  EXPECT_TRUE(take().said_to_workers<ask_question>().empty());
  finish_shard(2);
  auto all = take();
  EXPECT_DOUBLE_EQ(all.said_to_client<prefill_finished>().at(0).prefill_s, 3);
  ASSERT_EQ(all.said_to_workers<ask_question>().size(), 2u);
  EXPECT_EQ(all.said_to_workers<ask_question>()[0].second.asked.stop_tokens, std::vector{99});
  logic.worker_said(worker_b, answer_token{1, 0, 0, 42}, 104);
  logic.worker_said(worker_b, answer_token{1, 0, 0, 42}, 104);
  logic.worker_said(worker_b, answer_token{1, 0, 2, 44}, 104);
  logic.worker_said(worker_b, answer_token{1, 0, 1, 43}, 106);
  EXPECT_EQ(take().said_to_client<answer_token>().size(), 2u);
  for (int rank = 0; rank < 4; ++rank) finish_answer(rank);
  all = take();
  const auto done = all.said_to_client<job_finished>();
  ASSERT_EQ(done.size(), 1u);
  EXPECT_EQ(done[0].answer_ids, (std::vector<std::int32_t>{42, 43}));
  EXPECT_DOUBLE_EQ(done[0].first_token_s, 1);
  EXPECT_DOUBLE_EQ(done[0].decode_s, 2);
  EXPECT_EQ(all.said_to_workers<release_job>().size(), 2u);
  ASSERT_EQ(all.relays.size(), 1u);
  EXPECT_TRUE(std::holds_alternative<release_log>(all.relays[0].command));
  EXPECT_EQ(logic.jobs(), 0u);
}

TEST_F(coordinator_logic_test, a_trace_is_asked_of_every_rank_and_goes_to_the_client_if_its_own_worker_tells_it) {
  auto traced = request();
  traced.report_trace = true;
  logic.client_said(client, traced, now);
  logic.client_said(client, submit_ids{"r", 0, std::vector<std::int32_t>(208, 1)}, now);
  take();
  logic.relay_said(relay, log_reserved{1}, now);
  const auto assigned = take().said_to_workers<assign_shard>();
  ASSERT_EQ(assigned.size(), 4u);
  for (const auto& [worker, shard] : assigned) EXPECT_TRUE(shard.report_trace);

  trace_spans piece{1, 0, {}};
  piece.recorded.dropped = 2;
  logic.worker_said(worker_a, piece, now);
  logic.worker_said(worker_b, piece, now);                   // rank 0 is not its own
  logic.worker_said(worker_a, trace_spans{1, -1, {}}, now);  // nobody's
  logic.worker_said(worker_a, trace_spans{77, 0, {}}, now);  // no job
  EXPECT_EQ(take().said_to_client<trace_spans>(), (std::vector{piece}));
}

TEST_F(coordinator_logic_test, a_dead_worker_fails_its_jobs_with_rank_device_and_layer) {
  reach_prefill();
  logic.worker_said(worker_b, shard_progress{1, 2, 1, 100, -1, 5}, now);
  take();
  logic.worker_lost(worker_b, "killed", now);
  const auto all = take();
  ASSERT_EQ(all.said_to_client<job_failed>().size(), 1u);
  const auto why = all.said_to_client<job_failed>()[0].why;
  EXPECT_EQ(why.code, fault_code::lost_peer);
  EXPECT_EQ(why.where, "rank 2, device n/d1, layer 1");
  EXPECT_THAT(why.what, HasSubstr("killed"));
  const auto released = all.said_to_workers<release_job>();
  ASSERT_EQ(released.size(), 1u);
  EXPECT_EQ(released[0].first, worker_a);
}

TEST_F(coordinator_logic_test, a_silent_worker_fails_its_jobs_and_is_told_to_end) {
  reach_prefill();
  take();
  for (; now < 104; now += 0.1) logic.tick(now);
  logic.worker_said(worker_a, shard_progress{1, 0, 0, 0, -1, 1}, now);
  logic.relay_said(relay, relay_alive{}, now);
  EXPECT_TRUE(take().said_to_client<job_failed>().empty());
  for (; now < 105.5; now += 0.1) logic.tick(now);
  const auto all = take();
  const auto failed = all.said_to_client<job_failed>();
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_THAT(failed[0].why.what, HasSubstr("silent for 5.0 s"));
  EXPECT_THAT(failed[0].why.where, HasSubstr("device n/d1"));
  EXPECT_EQ(all.dismissed, std::vector{worker_b});
  EXPECT_EQ(logic.workers(), 1u);
}

TEST_F(coordinator_logic_test, with_the_default_limits_a_silent_worker_is_given_up_within_a_second_and_a_half) {
  const coordinator_limits limits;
  coordinator_logic quick(model, limits);
  double heard = now;
  quick.worker_joined(worker_a, {"n", "d0", "cpu", 0}, now);
  quick.worker_joined(worker_b, {"n", "d1", "cpu", 0}, now);
  for (; quick.workers() == 2 && now < heard + 10; now += limits.tick_s) {
    quick.worker_said(worker_a, worker_alive{}, now);
    quick.tick(now);
  }
  EXPECT_EQ(quick.workers(), 1u);
  EXPECT_LE(now - heard, 1.5);
}

TEST_F(coordinator_logic_test, ranks_are_laid_over_devices_in_the_declared_order_whoever_joins_first) {
  coordinator_logic ordered(model, {}, {{"west", "d1"}, {"west", "d0"}, {"east", "d0"}});
  for (const auto& [id, node, device] : std::vector<std::tuple<peer_id, std::string, std::string>>{
           {1, "east", "d0"}, {2, "west", "d0"}, {3, "west", "d1"}, {4, "away", "d0"}}) {
    ordered.worker_joined(id, {node, device, "cpu", 0}, now);
  }
  for (const auto& [id, node] : std::vector<std::pair<peer_id, std::string>>{{11, "east"}, {12, "west"}, {13, "away"}})
    ordered.relay_joined(id, {node, 1 << 20}, now);
  ordered.client_said(client, request(), now);
  ordered.client_said(client, submit_ids{"r", 0, std::vector<std::int32_t>(208)}, now);
  std::vector<std::string> places;
  for (const auto& action : ordered.take_actions()) {
    if (const auto* c = std::get_if<to_client>(&action)) {
      if (const auto* started = std::get_if<job_started>(&c->update))
        for (const auto& shard : started->plan.shards) places.push_back(shard.node + "/" + shard.device);
    }
  }
  EXPECT_EQ(places, (std::vector<std::string>{"west/d1", "west/d0", "east/d0", "away/d0"}));
}

TEST_F(coordinator_logic_test, a_silent_relay_fails_the_jobs_of_its_node) {
  reach_prefill();
  take();
  for (; now < 105.5; now += 0.1) {
    logic.worker_said(worker_a, worker_alive{}, now);
    logic.worker_said(worker_b, worker_alive{}, now);
    logic.tick(now);
  }
  const auto all = take();
  const auto why = all.said_to_client<job_failed>().at(0).why;
  EXPECT_THAT(why.what, HasSubstr("the relay of node n is gone: silent for 5.0 s"));
  EXPECT_EQ(why.where, "rank 0, device n/d0, layer 0");
  EXPECT_EQ(all.dismissed, (std::vector{worker_a, worker_b, relay}));
}

TEST_F(coordinator_logic_test, where_nobody_is_heard_it_takes_longer_to_give_all_up) {
  reach_prefill();
  take();
  for (; now < 124; now += 0.1) logic.tick(now);
  EXPECT_EQ(logic.workers(), 2u);
  everybody_lives();
  for (; now < 148; now += 0.1) logic.tick(now);
  EXPECT_EQ(logic.workers(), 2u);
  for (; now < 150; now += 0.1) logic.tick(now);
  EXPECT_EQ(logic.workers(), 0u);
  EXPECT_EQ(take().said_to_client<job_failed>().size(), 1u);
}

TEST_F(coordinator_logic_test, a_coordinator_that_was_stopped_itself_holds_nobody_else_to_be_silent) {
  reach_prefill();
  for (; now < 101; now += 0.1) logic.tick(now);
  now += 60;
  logic.tick(now);
  EXPECT_TRUE(take().said_to_client<job_failed>().empty());
  EXPECT_EQ(logic.workers(), 2u);
}

TEST_F(coordinator_logic_test, a_job_whose_ranks_all_wait_has_lost_a_block_and_a_slow_one_has_not) {
  reach_prefill();
  finish_shard(0);
  const auto pass_time = [&](double until, int computing) {
    for (; now < until; now += 0.1) {
      for (int rank = 1; rank < 4; ++rank) {
        logic.worker_said(rank < 2 ? worker_a : worker_b,
                          shard_progress{1, rank, 1, 0, rank == computing ? -1 : rank - 1, 7}, now);
      }
      logic.relay_said(relay, relay_alive{}, now);
      logic.tick(now);
    }
    return take().said_to_client<job_failed>();
  };
  EXPECT_TRUE(pass_time(200, 1).empty()) << "2 and 3 wait for what 1 has not made yet";
  EXPECT_TRUE(pass_time(229, 0).empty());
  const auto failed = pass_time(240, 0);
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].why.code, fault_code::deadline);
  EXPECT_THAT(failed[0].why.what, HasSubstr("a block of rank 0 is lost"));
  EXPECT_EQ(failed[0].why.where, "rank 1, layer 1");
}

TEST_F(coordinator_logic_test, how_a_worker_process_ended_is_told_with_its_job_or_as_trouble_at_the_start) {
  logic.relay_said(relay, worker_ended{"d9", "exit code 1"}, now);
  EXPECT_EQ(logic.trouble(), "the worker of n/d9 ended while it started: exit code 1");
  reach_prefill();
  take();
  logic.relay_said(relay, worker_ended{"d1", "killed by signal 9 (Killed)"}, now);
  const auto why = take().said_to_client<job_failed>().at(0).why;
  EXPECT_EQ(why.what, "the worker is gone (killed by signal 9 (Killed))");
  EXPECT_EQ(why.where, "rank 2, device n/d1, layer 0");
}

TEST_F(coordinator_logic_test, a_log_that_breaks_fails_its_job) {
  reach_prefill();
  take();
  logic.relay_said(relay, log_failed{1, {fault_code::out_of_memory, "no space left on device", "/tmp"}}, now);
  EXPECT_EQ(take().said_to_client<job_failed>().at(0).why.where, "/tmp (node n)");
}

TEST_F(coordinator_logic_test, a_failed_shard_ends_the_job_once) {
  reach_prefill();
  take();
  logic.worker_said(worker_a, shard_failed{1, 1, 0, {fault_code::out_of_memory, "too large", "the KV of rank 1"}}, now);
  logic.worker_said(worker_a, shard_failed{1, 0, 0, {fault_code::cancelled, "stopped", {}}}, now);
  const auto failed = take().said_to_client<job_failed>();
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].why.code, fault_code::out_of_memory);
  EXPECT_EQ(failed[0].why.where, "the KV of rank 1 (rank 1, device n/d0, layer 0)");
}

TEST_F(coordinator_logic_test, a_log_that_does_not_fit_fails_the_job_before_it_starts) {
  submit();
  take();
  logic.relay_said(relay, log_refused{1, 5000, 100}, now);
  const auto all = take();
  EXPECT_TRUE(all.said_to_workers<assign_shard>().empty());
  EXPECT_THAT(all.said_to_client<job_failed>().at(0).why.what, HasSubstr("100 bytes free, the job needs 5000"));
}

TEST_F(coordinator_logic_test, cancelling_and_losing_the_client_release_everything) {
  reach_prefill();
  take();
  logic.client_said(client + 1, cancel_job{7}, now);
  EXPECT_EQ(take().said_to_client<job_unknown>().at(0).job, 7u);
  EXPECT_EQ(logic.jobs(), 1u);
  logic.client_said(client, cancel_job{1}, now);
  EXPECT_EQ(take().said_to_client<job_failed>().at(0).why.code, fault_code::cancelled);
  EXPECT_EQ(logic.jobs(), 0u);
  submit("again");
  logic.client_lost(client, now);
  EXPECT_EQ(logic.jobs(), 0u);
}

TEST_F(coordinator_logic_test, nonsense_is_refused_with_its_reason) {
  auto empty = request();
  empty.document_tokens = 0;
  logic.client_said(client, empty, now);
  EXPECT_EQ(take().said_to_client<job_refused>().at(0).why.where, "document");
  logic.client_said(client, request(), now);
  logic.client_said(client, submit_ids{"r", 5, {1, 2}}, now);
  EXPECT_THAT(take().said_to_client<job_refused>().at(0).why.what, HasSubstr("a piece at 5"));
  logic.client_said(client, request(), now);
  logic.client_said(client, submit_ids{"r", 0, {100}}, now);
  EXPECT_THAT(take().said_to_client<job_refused>().at(0).why.what,
              HasSubstr("token id 100 is outside the vocabulary of 100"));
  auto impossible = request();
  impossible.options.anchor_tokens = 5;
  logic.client_said(client, impossible, now);
  logic.client_said(client, submit_ids{"r", 0, std::vector<std::int32_t>(208)}, now);
  EXPECT_THAT(take().said_to_client<job_refused>().at(0).why.what, HasSubstr("does not fit the anchor"));
  EXPECT_EQ(logic.jobs(), 0u);
}

TEST_F(coordinator_logic_test, reports_of_strangers_and_of_ended_jobs_change_nothing) {
  reach_prefill();
  take();
  logic.worker_said(worker_b, shard_finished{1, 0, {}}, now);
  logic.worker_said(77, shard_finished{1, 0, {}}, now);
  logic.worker_said(worker_a, shard_finished{1, 99, {}}, now);
  logic.worker_said(worker_a, shard_finished{9, 0, {}}, now);
  logic.relay_said(relay, log_reserved{9}, now);
  EXPECT_TRUE(take().clients.empty());
}

TEST_F(coordinator_logic_test, progress_goes_to_the_client_with_the_tick) {
  reach_prefill();
  take();
  logic.worker_said(worker_a, shard_progress{1, 1, 1, 55, 0, 9}, now);
  logic.tick(now);
  const auto progress = take().said_to_client<job_progress>();
  ASSERT_EQ(progress.size(), 1u);
  EXPECT_EQ(progress[0].ranks.at(1).tokens_done, 55);
  EXPECT_EQ(progress[0].ranks.at(1).waiting_for, 0);
  logic.tick(now);
  EXPECT_TRUE(take().clients.empty());
}

}  // namespace
}  // namespace baton
