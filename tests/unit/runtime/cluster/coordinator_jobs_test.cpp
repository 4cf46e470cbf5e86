#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "runtime/cluster/coordinator_logic.hpp"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr peer_id worker_a = 1, worker_b = 2, relay = 3, alice = 10, bob = 11;

/// A store that outlives coordinators, as the journal does.
class lasting_store final : public job_store {
 public:
  std::uint64_t now = 1;
  bool full = false;
  bool unreadable = false;

  [[nodiscard]] std::uint64_t generation() const override { return now; }
  void expect_to_be_the_newest() const override {}
  job_id keep(const submit_job& asked, std::span<const std::int32_t> ids) override {
    if (full) throw fault(fault_code::out_of_memory, "no space left on device", "the journal");
    return jobs_.keep(asked, ids);
  }
  std::optional<stored_job> find(job_id id) override { return jobs_.find(id); }
  std::optional<stored_job> find(const std::string& request_id) override {
    if (unreadable) throw fault(fault_code::device, "disk I/O error", "the journal");
    return jobs_.find(request_id);
  }
  std::vector<std::int32_t> ids_of(job_id id) override { return jobs_.ids_of(id); }
  void began(job_id id, const begun_run& run) override {
    if (full) throw fault(fault_code::out_of_memory, "no space left on device", "the journal");
    jobs_.began(id, run);
  }
  void ended(job_id id, const std::optional<job_started>& started, const client_update& end) override {
    if (full) throw fault(fault_code::out_of_memory, "no space left on device", "the journal");
    jobs_.ended(id, started, end);
  }
  std::vector<stored_job> unfinished() override { return jobs_.unfinished(); }
  std::vector<job_summary> newest(std::size_t count_max) override { return jobs_.newest(count_max); }

 private:
  memory_store jobs_;
};

struct coordinator_jobs : testing::Test {
  served_model model{4096, 100, true, {.layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 8, .element_bytes = 2}};
  coordinator_limits limits{.silence_s = 1e9, .stuck_s = 1e9, .queue_max = 2, .running_max = 1};
  lasting_store store;
  std::optional<coordinator_logic> logic;
  double now = 100;
  std::int64_t memory = 1'000'000;
  std::vector<coordinator_action> actions;

  void start() {
    logic.emplace(model, limits, std::vector<std::pair<std::string, std::string>>{{"n", "d0"}, {"n", "d1"}}, &store);
  }
  void join() {
    logic->worker_joined(worker_a, {"n", "d0", "cpu", memory, "a", 101}, now);
    logic->worker_joined(worker_b, {"n", "d1", "cpu", memory, "b", 102}, now);
    logic->relay_joined(relay, {"n", 1 << 20, "r", 103}, now);
  }
  void begin() {
    start();
    join();
  }

  static submit_job request(const std::string& id, int ranks = 2) {
    submit_job r{.request_id = id, .options = {}, .document_tokens = 200, .query_tokens = 8};
    r.options.ranks = ranks;
    r.options.anchor_tokens = 20;
    r.options.passing_tokens = 5;
    return r;
  }
  void submit(peer_id client, const submit_job& asked) {
    logic->client_said(client, asked, now);
    logic->client_said(client, submit_ids{asked.request_id, 0, std::vector<std::int32_t>(208, 1)}, now);
    take();
  }
  void take() { actions = logic->take_actions(); }

  template <class Message>
  [[nodiscard]] std::vector<Message> told(peer_id client) const {
    std::vector<Message> all;
    for (const auto& action : actions) {
      const auto* to = std::get_if<to_client>(&action);
      if (to && to->client == client && std::holds_alternative<Message>(to->update))
        all.push_back(std::get<Message>(to->update));
    }
    return all;
  }
  /// The number by which workers know what was assigned last.
  [[nodiscard]] job_id run() const {
    job_id last = 0;
    for (const auto& action : actions) {
      const auto* to = std::get_if<to_relay>(&action);
      if (to && std::holds_alternative<reserve_log>(to->command)) last = std::get<reserve_log>(to->command).job;
    }
    return last;
  }
  [[nodiscard]] std::vector<job_state> states() const {
    std::vector<job_state> all;
    for (const auto& job : logic->status().jobs) all.push_back(job.state);
    return all;
  }
  /// Takes a run of two ranks, one on each device, from its room in the log to its end.
  void complete(job_id number) {
    logic->relay_said(relay, log_reserved{number}, now);
    logic->worker_said(worker_a, shard_ready{number, 0}, now);
    logic->worker_said(worker_b, shard_ready{number, 1}, now);
    logic->worker_said(worker_a, shard_finished{number, 0, {}}, now);
    logic->worker_said(worker_b, shard_finished{number, 1, {}}, now);
    logic->worker_said(worker_b, answer_token{number, 0, 0, 42}, now);
    logic->worker_said(worker_a, answer_finished{number, 0, 0, 1, 0.1, {}}, now);
    logic->worker_said(worker_b, answer_finished{number, 1, 0, 1, 0.1, {}}, now);
    take();
  }
};

TEST_F(coordinator_jobs, jobs_wait_in_order_and_start_as_others_end) {
  begin();
  submit(alice, request("a"));
  const job_id first = run();
  EXPECT_EQ(told<job_accepted>(alice).at(0).waiting, 0u);
  EXPECT_EQ(told<job_started>(alice).at(0).job, 1u);
  submit(alice, request("b"));
  EXPECT_EQ(told<job_accepted>(alice).at(0), (job_accepted{"b", 2, 0}));
  EXPECT_THAT(told<job_started>(alice), IsEmpty());
  submit(bob, request("c"));
  EXPECT_EQ(told<job_accepted>(bob).at(0), (job_accepted{"c", 3, 1}));
  EXPECT_THAT(states(), ElementsAre(job_state::starting, job_state::queued, job_state::queued));
  complete(first);
  EXPECT_EQ(told<job_finished>(alice).at(0).job, 1u);
  EXPECT_EQ(told<job_started>(alice).at(0).job, 2u);
  EXPECT_THAT(states(), ElementsAre(job_state::starting, job_state::queued, job_state::finished));
}

TEST_F(coordinator_jobs, a_full_queue_says_so_and_takes_again_when_there_is_room) {
  begin();
  for (const char* name : {"a", "b", "c"}) submit(alice, request(name));
  submit(bob, request("d"));
  const auto refused = told<job_refused>(bob);
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].request_id, "d");
  EXPECT_THAT(refused[0].why.what, HasSubstr("queue full: 2 jobs wait, limit 2"));
  logic->client_said(alice, cancel_job{2}, now);
  submit(bob, request("d"));
  EXPECT_EQ(told<job_accepted>(bob).at(0).job, 4u);
}

TEST_F(coordinator_jobs, the_same_request_is_the_same_job_whoever_asks_and_another_job_may_not_have_its_name) {
  begin();
  submit(alice, request("a"));
  const job_id number = run();
  submit(bob, request("a"));
  EXPECT_EQ(told<job_accepted>(bob).at(0).job, 1u);
  EXPECT_EQ(told<job_started>(bob).size(), 1u);
  EXPECT_EQ(logic->jobs(), 1u);
  submit(bob, request("a", 1));
  EXPECT_THAT(told<job_refused>(bob).at(0).why.what, HasSubstr("another job"));
  complete(number);
  EXPECT_EQ(told<job_finished>(alice).size(), 1u);
  EXPECT_EQ(told<job_finished>(bob).size(), 1u);
  submit(alice, request("a"));
  EXPECT_EQ(told<job_finished>(alice).at(0).answer_ids, std::vector{42}) << "also when it has ended";
}

TEST_F(coordinator_jobs, whoever_follows_is_told_what_was_told_so_far) {
  begin();
  submit(alice, request("a"));
  const job_id number = run();
  logic->relay_said(relay, log_reserved{number}, now);
  for (const int rank : {0, 1}) logic->worker_said(rank ? worker_b : worker_a, shard_ready{number, rank}, now);
  for (const int rank : {0, 1}) logic->worker_said(rank ? worker_b : worker_a, shard_finished{number, rank, {}}, now);
  logic->worker_said(worker_b, answer_token{number, 0, 0, 42}, now);
  take();
  logic->client_said(bob, follow_job{1}, now);
  take();
  EXPECT_EQ(told<job_started>(bob).size(), 1u);
  EXPECT_EQ(told<prefill_finished>(bob).size(), 1u);
  EXPECT_EQ(told<answer_token>(bob).at(0), (answer_token{1, 0, 0, 42}));
  logic->client_lost(bob, now);
  EXPECT_EQ(logic->jobs(), 1u) << "it is not bob's";
  logic->client_said(bob, follow_job{9}, now);
  take();
  EXPECT_EQ(told<job_unknown>(bob).at(0).job, 9u);
}

TEST_F(coordinator_jobs, a_job_goes_with_its_client_unless_it_is_detached_or_the_client_comes_back) {
  limits.orphan_s = 5;
  limits.running_max = 4;
  begin();
  auto detached = request("d");
  detached.detached = true;
  submit(alice, detached);
  submit(alice, request("a"));
  submit(bob, request("b"));
  logic->client_lost(alice, now);
  logic->client_lost(bob, now);
  logic->tick(now += 4);
  submit(alice + 10, request("a"));
  logic->tick(now += 2);
  take();
  EXPECT_THAT(states(), ElementsAre(job_state::starting, job_state::starting, job_state::cancelled));
  EXPECT_EQ(logic->status().jobs[2].id, 3u);
}

TEST_F(coordinator_jobs, a_new_coordinator_queues_again_what_the_old_one_had_accepted) {
  begin();
  auto detached = request("d");
  detached.detached = true;
  submit(alice, detached);
  submit(alice, request("a"));
  const job_id old_run = run();
  store.now = 2;
  start();
  EXPECT_EQ(logic->waiting(), 2u);
  logic->tick(now);
  take();
  EXPECT_THAT(actions, IsEmpty()) << "nobody has joined";
  join();
  take();
  EXPECT_EQ(run(), (job_id{2} << 32) + 1) << "the generation is in the run's number";
  EXPECT_NE(run(), old_run);
  const job_id number = run();
  complete(old_run);
  EXPECT_EQ(logic->status().jobs[0].state, job_state::starting) << "what an old run reports is nobody's";
  complete(number);
  EXPECT_EQ(store.find("d")->state, job_state::finished);
  // Its client has not come back.
  for (int i = 0; i < 400; ++i) logic->tick(now += 0.1);
  EXPECT_EQ(store.find("a")->state, job_state::cancelled);
}

TEST_F(coordinator_jobs, the_first_job_waits_for_all_declared_devices_but_not_for_ever) {
  start();
  logic->worker_joined(worker_a, {"n", "d0", "cpu", 0, "a", 101}, now);
  logic->relay_joined(relay, {"n", 1 << 20, "r", 103}, now);
  submit(alice, request("a"));
  EXPECT_THAT(told<job_started>(alice), IsEmpty());
  for (int i = 0; i < 110; ++i) logic->tick(now += 0.1);
  take();
  EXPECT_EQ(told<job_started>(alice).size(), 1u);
}

TEST_F(coordinator_jobs, who_was_there_once_and_is_gone_is_not_waited_for) {
  begin();
  logic->worker_lost(worker_b, "killed", now);
  submit(alice, request("a"));
  EXPECT_EQ(told<job_started>(alice).size(), 1u);
}

TEST_F(coordinator_jobs, run_beside_each_other_on_devices_of_their_own_or_shared_as_far_as_memory_goes) {
  limits.running_max = 9;
  limits.queue_max = 9;
  memory = 250;
  model.memory_of = [](const job_plan& plan) {
    std::vector<device_need> needs;
    for (const auto& shard : plan.shards) needs.push_back({shard.node, shard.device, 100});
    return needs;
  };
  begin();
  std::vector<std::string> places;
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    submit(alice, request(name, 1));
    for (const auto& started : told<job_started>(alice)) places.push_back(started.plan.shards[0].device);
  }
  EXPECT_THAT(places, ElementsAre("d0", "d1", "d0", "d1"));
  EXPECT_EQ(logic->waiting(), 1u) << "100 bytes do not fit beside 200 of 250";
  logic->client_said(alice, cancel_job{2}, now);
  take();
  EXPECT_EQ(told<job_started>(alice).at(0).plan.shards[0].device, "d1");
}

TEST_F(coordinator_jobs, small_ones_go_past_a_large_one_that_waits_for_room_but_not_for_ever) {
  limits.running_max = 3;
  limits.queue_max = 99;
  memory = 300;
  model.memory_of = [](const job_plan& plan) {
    std::vector<device_need> needs;
    for (const auto& shard : plan.shards) needs.push_back({shard.node, shard.device, plan.ranks() == 2 ? 250 : 100});
    return needs;
  };
  begin();
  submit(alice, request("first", 1));
  submit(alice, request("large", 2));
  EXPECT_EQ(logic->waiting(), 1u);
  job_id cancelled = 1;
  int passed = 0;
  for (int i = 0; i < 40; ++i) {
    submit(alice, request("small " + std::to_string(i), 1));
    if (told<job_started>(alice).empty()) break;
    ++passed;
    logic->client_said(alice, cancel_job{cancelled}, now);
    cancelled = static_cast<job_id>(passed + 2);
    take();
  }
  EXPECT_EQ(passed, 16);
  logic->client_said(alice, cancel_job{cancelled}, now);
  take();
  EXPECT_EQ(told<job_started>(alice).at(0).job, 2u) << "the large one is next";
}

TEST_F(coordinator_jobs, what_a_device_has_no_room_for_beside_others_waits_until_one_of_them_ends) {
  limits.running_max = 2;
  begin();
  submit(alice, request("a"));
  const job_id first = run();
  submit(alice, request("b"));
  const job_id second = run();
  ASSERT_NE(first, second);
  logic->relay_said(relay, log_reserved{second}, now);
  logic->worker_said(worker_a, shard_failed{second, 0, 0, {fault_code::out_of_memory, "no extent of 7", {}}}, now);
  logic->tick(now);
  take();
  EXPECT_THAT(told<job_failed>(alice), IsEmpty());
  EXPECT_THAT(states(), ElementsAre(job_state::starting, job_state::queued));
  complete(first);
  EXPECT_EQ(told<job_started>(alice).at(0).job, 2u);
  EXPECT_NE(run(), second) << "it is another run of it";
}

TEST_F(coordinator_jobs, what_cannot_be_kept_is_not_accepted) {
  begin();
  store.full = true;
  submit(alice, request("a"));
  EXPECT_THAT(told<job_accepted>(alice), IsEmpty());
  EXPECT_EQ(told<job_refused>(alice).at(0).why.what,
            "the job cannot be kept, and so is not taken: no space left on device");
  EXPECT_EQ(logic->jobs(), 0u);
}

TEST_F(coordinator_jobs, a_client_that_stops_reading_is_dropped_and_its_job_with_it) {
  limits.outbox = {.credit = 2, .stall_s = 10};
  begin();
  submit(alice, request("a"));  // accepted and started: that was its credit
  const job_id number = run();
  logic->worker_said(worker_a, shard_progress{number, 0, 1, 10, -1, 5}, now);
  for (int i = 0; i < 95; ++i) logic->tick(now += 0.1);
  EXPECT_EQ(logic->jobs(), 1u);
  for (int i = 0; i < 10; ++i) logic->tick(now += 0.1);
  take();
  EXPECT_EQ(logic->jobs(), 0u);
  const auto dismissed = std::ranges::count_if(actions, [](const auto& action) {
    const auto* gone = std::get_if<dismiss>(&action);
    return gone && gone->peer == alice;
  });
  EXPECT_EQ(dismissed, 1);
}

TEST_F(coordinator_jobs, a_client_that_gave_signs_of_life_and_then_none_is_gone) {
  begin();
  submit(alice, request("a"));
  submit(bob, request("b"));
  logic->client_said(alice, client_alive{}, now);
  for (int i = 0; i < 52; ++i) logic->tick(now += 0.1);
  EXPECT_THAT(states(), ElementsAre(job_state::starting, job_state::cancelled));
  EXPECT_EQ(logic->status().jobs[0].id, 2u) << "bob has promised nothing";
}

TEST_F(coordinator_jobs, status_says_who_is_there_and_what_everybody_does) {
  begin();
  submit(alice, request("a"));
  const job_id number = run();
  logic->relay_said(relay, log_reserved{number}, now);
  logic->relay_said(relay, relay_alive{4711}, now);
  for (const int rank : {0, 1}) logic->worker_said(rank ? worker_b : worker_a, shard_ready{number, rank}, now);
  logic->worker_said(worker_b, shard_progress{number, 1, 1, 10, 0, 5}, now);
  auto status = logic->status();
  EXPECT_EQ(status.epoch, 3u);
  EXPECT_EQ(status.generation, 1u);
  ASSERT_EQ(status.nodes.size(), 1u);
  EXPECT_EQ(status.nodes[0].pid, 103);
  EXPECT_EQ(status.nodes[0].relay_log_bytes, 4711);
  ASSERT_EQ(status.nodes[0].devices.size(), 2u);
  EXPECT_EQ(status.nodes[0].devices[1], (device_status{"d1", peer_state::busy, 102, 1, 1}));
  ASSERT_EQ(status.jobs.size(), 1u);
  EXPECT_EQ(status.jobs[0].state, job_state::prefilling);
  EXPECT_EQ(status.jobs[0].ranks.at(1), (rank_status{1, "n", "d1", 0, 1, rank_state::waiting, 0}));
  logic->worker_lost(worker_b, "killed", now);
  status = logic->status();
  EXPECT_EQ(status.epoch, 4u);
  EXPECT_EQ(status.nodes[0].devices[1], (device_status{"d1", peer_state::down, 0, 0, -1}));
}

TEST_F(coordinator_jobs, the_newer_worker_of_a_device_takes_the_place_of_the_older) {
  begin();
  take();
  logic->worker_joined(worker_b + 40, {"n", "d1", "cpu", 0, "b2", 202}, now);
  take();
  std::vector<std::string> said;
  std::vector<peer_id> dismissed;
  for (const auto& action : actions) {
    if (const auto* line = std::get_if<remark>(&action)) {
      said.push_back(line->what);
    } else {
      dismissed.push_back(std::get<dismiss>(action).peer);
    }
  }
  EXPECT_EQ(dismissed, std::vector<peer_id>{worker_b});
  EXPECT_EQ(said, (std::vector<std::string>{"the worker of n/d1 is gone: another process has taken its place",
                                            "the worker of n/d1 is there"}));
  EXPECT_EQ(logic->workers(), 2u);
}

TEST_F(coordinator_jobs, an_end_that_a_full_disk_does_not_take_is_told_and_kept_when_there_is_room) {
  begin();
  submit(alice, request("a"));
  ASSERT_EQ(told<job_accepted>(alice).size(), 1u);
  store.full = true;
  submit(bob, request("b"));
  ASSERT_EQ(told<job_refused>(bob).size(), 1u);
  EXPECT_THAT(told<job_refused>(bob)[0].why.what, HasSubstr("the job cannot be kept, and so is not taken"));
  logic->client_said(alice, cancel_job{1}, now);
  take();
  EXPECT_EQ(told<job_failed>(alice).size(), 1u) << "whoever asked need not wait for the disk";
  EXPECT_FALSE(store.find(1)->end);
  // Whoever asks now hears it too.
  logic->client_said(bob, follow_job{1}, now);
  take();
  EXPECT_EQ(told<job_failed>(bob).size(), 1u);
  logic->tick(now += 1);
  EXPECT_FALSE(store.find(1)->end);
  store.full = false;
  logic->tick(now += 1);
  EXPECT_TRUE(store.find(1)->end);
}

TEST_F(coordinator_jobs, a_store_that_cannot_be_read_is_told_to_whoever_asks) {
  begin();
  store.unreadable = true;
  submit(alice, request("a"));
  ASSERT_EQ(told<job_refused>(alice).size(), 1u);
  EXPECT_EQ(told<job_refused>(alice)[0].why.what, "disk I/O error");
  store.unreadable = false;
  submit(alice, request("a"));
  EXPECT_EQ(told<job_accepted>(alice).size(), 1u);
}

}  // namespace
}  // namespace baton
