#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/cluster/coordinator_logic.hpp"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr peer_id west0 = 1, west1 = 2, east0 = 3, east1 = 4, west_relay = 5, east_relay = 6, client = 7;

/// A job of four ranks of three layers, one on each of two nodes' two devices, that has come as far as its prefill.
struct recovery : testing::Test {
  served_model model{4096, 100, true, {.layers = 3, .heads = 4, .kv_heads = 2, .head_dim = 8, .element_bytes = 2}};
  coordinator_logic logic;
  double now = 100;
  std::uint64_t chunks = 9;
  std::vector<coordinator_action> actions;

  explicit recovery(const coordinator_limits& how = {.silence_s = 5, .replays_max = 2, .replacement_s = 10})
      : logic(model, how) {}
  void SetUp() override {
    logic.worker_joined(west0, {"west", "d0", "cpu", 0, "w0", 1}, now);
    logic.worker_joined(west1, {"west", "d1", "cpu", 0, "w1", 2}, now);
    logic.worker_joined(east0, {"east", "d0", "cpu", 0, "e0", 3}, now);
    logic.worker_joined(east1, {"east", "d1", "cpu", 0, "e1", 4}, now);
    logic.relay_joined(west_relay, {"west", 1 << 20, "west relay", 5}, now);
    logic.relay_joined(east_relay, {"east", 1 << 20, "east relay", 6}, now);
    submit_job request{.request_id = "r", .options = {}, .document_tokens = 200, .query_tokens = 8};
    request.options.ranks = 4;
    request.options.anchor_tokens = 20;
    request.options.passing_tokens = 5;
    logic.client_said(client, request, now);
    logic.client_said(client, submit_ids{"r", 0, std::vector<std::int32_t>(208, 1)}, now);
    logic.relay_said(west_relay, log_reserved{1}, now);
    logic.relay_said(east_relay, log_reserved{1}, now);
    take();
    plan = said_to_client<job_started>().at(0).plan;
    ASSERT_EQ(plan.shards[0].node + plan.shards[0].device, "eastd0") << "by name: ranks 0 and 1 are in the east";
    for (int rank = 0; rank < 4; ++rank) logic.worker_said(worker_of(rank), shard_ready{1, rank}, now);
    take();
    ASSERT_EQ(said_to_workers<start_shard>().size(), 4u);
  }

  static peer_id worker_of(int rank) { return std::vector{east0, east1, west0, west1}[static_cast<std::size_t>(rank)]; }
  job_plan plan;

  void take() { actions = logic.take_actions(); }

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
  [[nodiscard]] std::vector<peer_id> dismissed() const {
    std::vector<peer_id> all;
    for (const auto& action : actions) {
      if (const auto* who = std::get_if<dismiss>(&action)) all.push_back(who->peer);
    }
    return all;
  }

  void progress(int rank, int layer) {
    logic.worker_said(worker_of(rank), shard_progress{1, rank, layer, 0, -1, 9}, now);
  }
  void finish_prefill(peer_id worker, int rank) { logic.worker_said(worker, shard_finished{1, rank, {}}, now); }
  void fenced(std::uint32_t round, std::vector<rank_layers> west_held, std::vector<rank_layers> east_held) {
    logic.relay_said(west_relay, job_fenced{1, round, std::move(west_held)}, now);
    logic.relay_said(east_relay, job_fenced{1, round, std::move(east_held)}, now);
    take();
  }
};

TEST_F(recovery, a_lost_rank_is_fenced_at_every_relay_before_it_has_a_new_place) {
  progress(1, 2);
  now = 101;
  logic.worker_lost(east1, "killed", now);
  take();
  EXPECT_THAT(said_to_relays<fence_job>(), ElementsAre(std::pair(west_relay, fence_job{1, 1, {0, 1, 0, 0}}),
                                                       std::pair(east_relay, fence_job{1, 1, {0, 1, 0, 0}})));
  EXPECT_THAT(said_to_workers<assign_shard>(), IsEmpty());
  EXPECT_THAT(said_to_client<job_failed>(), IsEmpty());
  logic.relay_said(west_relay, job_fenced{1, 1, {}}, now);
  take();
  EXPECT_THAT(actions, IsEmpty());

  logic.relay_said(east_relay, job_fenced{1, 1, {{0, {0, 1, 2}}, {1, {0, 1}}}}, now);
  take();
  const auto moved = said_to_client<shard_moved>();
  ASSERT_EQ(moved.size(), 1u);
  EXPECT_EQ(moved[0], (shard_moved{1, 1, 1, "east", "d0", "device east/d1: the worker is gone (killed)"}));
  const auto assigned = said_to_workers<assign_shard>();
  ASSERT_EQ(assigned.size(), 1u);
  EXPECT_EQ(assigned[0].first, east0);
  EXPECT_EQ(assigned[0].second.rank, 1);
  EXPECT_THAT(assigned[0].second.held_layers, ElementsAre(0, 1));
  EXPECT_EQ(assigned[0].second.routes.ranks.at(1), (rank_place{"e0", 1}));
  EXPECT_EQ(assigned[0].second.routes.relay, "east relay");
  ASSERT_EQ(said_to_workers<shard_ids>().size(), 1u);
  EXPECT_EQ(said_to_workers<shard_ids>()[0].second.ids.size(), 70u);
  // Everybody learns the new place, and nobody starts again.
  EXPECT_EQ(said_to_workers<rewire_rank>(), (std::vector<std::pair<peer_id, rewire_rank>>{
                                                {west0, {1, 1, {"e0", 1}}},
                                                {west1, {1, 1, {"e0", 1}}},
                                                {east0, {1, 1, {"e0", 1}}},
                                            }));
  EXPECT_THAT(said_to_workers<start_shard>(), IsEmpty());
  logic.worker_said(east0, shard_ready{1, 1}, now);
  take();
  EXPECT_THAT(said_to_workers<start_shard>(), ElementsAre(std::pair(east0, start_shard{1, 1})));
}

TEST_F(recovery, relays_learn_whose_blocks_count_and_send_what_the_new_place_lacks) {
  logic.worker_lost(west0, "killed", now);
  take();
  // The west has lost nothing but has not got all of rank 0 yet, whose relay sees to that; of rank 2, the east holds a block that
  // it was forwarded and nobody else has.
  fenced(1, {{0, {0}}, {1, {0, 1}}}, {{0, {0, 1}}, {1, {0, 1}}, {2, {0}}});
  const auto placed = said_to_relays<place_blocks>();
  ASSERT_EQ(placed.size(), 2u);
  EXPECT_EQ(placed[0].first, west_relay);
  EXPECT_THAT(placed[0].second.relays, ElementsAre("east relay", "east relay", "west relay", "west relay"));
  EXPECT_THAT(placed[0].second.holders, ElementsAre(rank_layers{2, {0}}));
  EXPECT_THAT(placed[0].second.forwardings, IsEmpty());
  EXPECT_THAT(placed[1].second.forwardings, ElementsAre(place_blocks::forwarding{"west relay", {0, {1}}},
                                                        place_blocks::forwarding{"west relay", {2, {0}}}));
}

TEST_F(recovery, the_least_loaded_device_of_the_same_class_takes_a_lost_rank) {
  logic.worker_joined(8, {"east", "d7", "another cpu", 0, "e7", 8}, now);
  logic.worker_joined(9, {"west", "d7", "cpu", 0, "w7", 9}, now);
  logic.worker_lost(east0, "killed", now);
  fenced(1, {}, {});
  EXPECT_EQ(said_to_workers<assign_shard>().at(0).first, 9u);
}

TEST_F(recovery, a_node_without_the_jobs_log_makes_room_first) {
  logic.worker_joined(8, {"north", "d0", "cpu", 0, "n0", 8}, now);
  logic.relay_joined(9, {"north", 1 << 20, "north relay", 9}, now);
  for (const peer_id worker : {west0, west1, east1}) logic.worker_lost(worker, "killed", now);
  logic.worker_lost(east0, "killed", now);
  take();
  fenced(4, {{2, {0}}}, {{0, {0}}});
  const auto reserved = said_to_relays<reserve_log>();
  ASSERT_EQ(reserved.size(), 1u);
  EXPECT_EQ(reserved[0].first, 9u);
  EXPECT_THAT(said_to_workers<assign_shard>(), IsEmpty());
  logic.relay_said(9, log_reserved{1}, now);
  take();
  EXPECT_EQ(said_to_relays<fence_job>().size(), 3u) << "the new one is fenced as well";
  logic.relay_said(9, job_fenced{1, 5, {}}, now);
  fenced(5, {{2, {0}}}, {{0, {0}}});
  EXPECT_EQ(said_to_workers<assign_shard>().size(), 4u);
  const auto placed = said_to_relays<place_blocks>();
  ASSERT_EQ(placed.size(), 3u);
  EXPECT_THAT(placed[0].second.forwardings, ElementsAre(place_blocks::forwarding{"north relay", {2, {0}}}));
  EXPECT_THAT(placed[1].second.forwardings, ElementsAre(place_blocks::forwarding{"north relay", {0, {0}}}));
}

TEST_F(recovery, a_second_death_begins_a_new_round_and_late_answers_of_the_first_fall) {
  logic.worker_lost(east1, "killed", now);
  logic.worker_lost(west1, "killed", now);
  take();
  EXPECT_THAT(said_to_relays<fence_job>().back().second.attempts, ElementsAre(0, 1, 0, 1));
  fenced(1, {}, {});
  EXPECT_THAT(said_to_workers<assign_shard>(), IsEmpty());
  fenced(2, {}, {});
  EXPECT_EQ(said_to_workers<assign_shard>().size(), 2u);
}

TEST_F(recovery, the_replacement_may_die_too_but_not_for_ever) {
  for (std::uint32_t round = 1; round <= 2; ++round) {
    const peer_id host = round == 1 ? east1 : east0;
    logic.worker_lost(host, "killed", now);
    fenced(round, {}, {});
    ASSERT_THAT(said_to_client<job_failed>(), IsEmpty());
  }
  // Ranks 0 and 1 are in the west by now; rank 1 has been replayed twice.
  const auto assigned = said_to_workers<assign_shard>();
  ASSERT_EQ(assigned.size(), 2u);
  logic.worker_lost(assigned[1].first, "killed", now);
  take();
  const auto failed = said_to_client<job_failed>();
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].why.code, fault_code::lost_peer);
  EXPECT_EQ(failed[0].why.what, "the worker is gone (killed), after 2 replays of the shard");
  EXPECT_EQ(logic.jobs(), 0u);
}

TEST_F(recovery, a_dead_relay_takes_its_node_with_it_and_the_others_go_on) {
  logic.relay_lost(west_relay, "killed by signal 9", now);
  take();
  EXPECT_THAT(dismissed(), ElementsAre(west0, west1));
  logic.relay_said(east_relay, job_fenced{1, 3, {{0, {0}}, {2, {0}}}}, now);
  take();
  EXPECT_EQ(said_to_workers<assign_shard>().size(), 2u);
  EXPECT_THAT(said_to_client<job_failed>(), IsEmpty());
  EXPECT_THAT(said_to_client<shard_moved>().at(0).cause,
              HasSubstr("the relay of node west is gone: killed by signal 9"));
}

TEST_F(recovery, a_rank_without_a_device_waits_for_one_to_join_and_then_gives_up) {
  for (const peer_id worker : {west0, west1, east0, east1}) logic.worker_lost(worker, "killed", now);
  take();
  fenced(4, {}, {});
  EXPECT_THAT(said_to_workers<assign_shard>(), IsEmpty());
  const auto others_live = [&](double until) {
    for (; now < until; now += 0.5) {
      logic.relay_said(west_relay, relay_alive{}, now);
      logic.relay_said(east_relay, relay_alive{}, now);
      logic.tick(now);
    }
    take();
  };
  others_live(105);
  EXPECT_THAT(said_to_client<job_failed>(), IsEmpty());
  logic.worker_joined(8, {"west", "d0", "cpu", 0, "w0'", 8}, now);
  take();
  EXPECT_EQ(said_to_workers<assign_shard>().size(), 4u);
  logic.worker_lost(8, "killed", now);
  fenced(5, {}, {});
  others_live(120);
  const auto failed = said_to_client<job_failed>();
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_THAT(failed[0].why.what, HasSubstr("there is no other; start workers again or add devices"));
}

TEST_F(recovery, a_device_without_room_is_passed_over) {
  logic.worker_lost(west1, "killed", now);
  fenced(1, {}, {});
  ASSERT_EQ(said_to_workers<assign_shard>().at(0).first, west0);
  logic.worker_said(west0, shard_failed{1, 3, 0, {fault_code::out_of_memory, "too large", "the KV of rank 3"}}, now);
  take();
  fenced(2, {}, {});
  EXPECT_THAT(said_to_client<job_failed>(), IsEmpty());
  EXPECT_EQ(said_to_workers<assign_shard>().at(0).first, east0);
}

TEST_F(recovery, a_question_that_lost_a_rank_is_asked_again_with_the_tokens_that_are_known) {
  for (int rank = 0; rank < 4; ++rank) finish_prefill(worker_of(rank), rank);
  logic.worker_said(west1, first_logits{1, 0, 0, {1, 2, 3}}, now);
  logic.worker_said(west1, answer_token{1, 0, 0, 42}, now);
  logic.worker_said(west1, answer_token{1, 0, 1, 43}, now);
  take();
  EXPECT_EQ(said_to_client<prefill_finished>().size(), 1u);
  logic.worker_lost(east1, "killed", now);
  fenced(1, {{1, {0, 1, 2}}}, {{1, {0, 1, 2}}});
  EXPECT_THAT(said_to_workers<assign_shard>().at(0).second.held_layers, ElementsAre(0, 1, 2));
  logic.worker_said(east0, shard_ready{1, 1}, now);
  finish_prefill(east0, 1);
  take();
  EXPECT_THAT(said_to_client<prefill_finished>(), IsEmpty()) << "told already";
  const auto asked = said_to_workers<ask_question>();
  ASSERT_EQ(asked.size(), 3u);
  EXPECT_EQ(asked[0].second.asked.repeat, 1u);
  EXPECT_THAT(asked[0].second.asked.forced_tokens, ElementsAre(42, 43));
  logic.worker_said(west1, first_logits{1, 0, 0, {1, 2, 3}}, now);
  logic.worker_said(west1, answer_token{1, 0, 2, 45}, now);  // of the first asking: this report was long on its way
  logic.worker_said(west1, answer_finished{1, 3, 0, 3, 0.1, {}}, now);
  logic.worker_said(west1, answer_token{1, 0, 2, 44, 1}, now);
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_THAT(said_to_client<job_finished>(), IsEmpty());
    logic.worker_said(rank == 1 ? east0 : worker_of(rank), answer_finished{1, rank, 0, 3, 0.1, {}, 1}, now);
    take();
  }
  EXPECT_THAT(said_to_client<first_logits>(), IsEmpty()) << "told already";
  const auto finished = said_to_client<job_finished>();
  ASSERT_EQ(finished.size(), 1u);
  EXPECT_THAT(finished[0].answer_ids, ElementsAre(42, 43, 44));
  ASSERT_EQ(finished[0].replays.size(), 1u);
  EXPECT_EQ(finished[0].replays[0].rank, 1);
  EXPECT_EQ(finished[0].replays[0].layers, 3);
}

TEST_F(recovery, who_is_lost_when_the_answer_is_there_is_not_needed_any_more) {
  for (int rank = 0; rank < 4; ++rank) finish_prefill(worker_of(rank), rank);
  logic.worker_said(west1, answer_token{1, 0, 0, 42}, now);
  logic.worker_said(west1, answer_finished{1, 3, 0, 1, 0.1, {}}, now);
  logic.worker_lost(east0, "killed", now);
  take();
  EXPECT_EQ(said_to_client<job_finished>().size(), 1u);
}

TEST_F(recovery, a_replay_is_told_with_what_it_took) {
  progress(1, 1);
  now = 100.5;
  logic.worker_lost(east1, "killed", now);
  fenced(1, {}, {});
  logic.worker_said(east0, shard_ready{1, 1}, now);
  now = 102;
  logic.worker_said(east0, shard_progress{1, 1, 1, 0, -1, 9}, now);
  now = 103;
  logic.worker_said(east0, shard_progress{1, 1, 2, 0, -1, 9}, now);
  now = 110;
  for (int rank = 0; rank < 4; ++rank) finish_prefill(rank == 1 ? east0 : worker_of(rank), rank);
  for (int rank = 0; rank < 4; ++rank)
    logic.worker_said(rank == 1 ? east0 : worker_of(rank), answer_finished{1, rank, 0, 0, 0, {}}, now);
  take();
  const auto replays = said_to_client<job_finished>().at(0).replays;
  ASSERT_EQ(replays.size(), 1u);
  EXPECT_EQ(replays[0].layers, 2);
  EXPECT_DOUBLE_EQ(replays[0].seconds, 2.5);
  EXPECT_DOUBLE_EQ(replays[0].detect_ms, 500);
  EXPECT_FALSE(replays[0].on_other_class);
}

TEST_F(recovery, a_device_that_fails_in_a_living_worker_is_replaced_by_another) {
  progress(1, 2);
  logic.worker_said(east1, shard_failed{1, 1, 2, {fault_code::device, "it broke", "matmul"}}, now);
  take();
  EXPECT_THAT(said_to_client<job_failed>(), IsEmpty());
  EXPECT_THAT(said_to_workers<release_job>(), ElementsAre(std::pair(east1, release_job{1})))
      << "nothing of the old attempt stays there";
  EXPECT_EQ(said_to_relays<fence_job>().size(), 2u);
  fenced(1, {}, {{1, {0, 1}}});
  const auto assigned = said_to_workers<assign_shard>();
  ASSERT_EQ(assigned.size(), 1u);
  EXPECT_NE(assigned[0].first, east1);
  EXPECT_EQ(said_to_client<shard_moved>().at(0).cause, "device east/d1: its device failed (matmul: it broke)");
  // Whatever fails next: that worker gets no rank of this job again.
  for (const peer_id other : {east0, west0}) {
    logic.worker_lost(other, "killed", now);
    take();
    fenced(other == east0 ? 2 : 3, {}, {});
    EXPECT_THAT(said_to_workers<assign_shard>(), testing::Not(IsEmpty()));
    for (const auto& [worker, command] : said_to_workers<assign_shard>()) EXPECT_NE(worker, east1);
  }
}

TEST_F(recovery, a_device_that_fails_while_the_others_are_down_waits_for_one_and_then_fails_its_job_with_the_reason) {
  for (const peer_id other : {west0, west1, east0}) logic.worker_lost(other, "killed", now);
  fenced(3, {}, {});
  logic.worker_said(east1, shard_failed{1, 1, 2, {fault_code::device, "it broke", "matmul"}}, now);
  fenced(4, {}, {});
  const double begun = now;
  while (said_to_client<job_failed>().empty() && now < begun + 20) {
    now += 0.5;
    logic.relay_said(west_relay, relay_alive{}, now);
    logic.relay_said(east_relay, relay_alive{}, now);
    logic.worker_said(east1, worker_alive{}, now);
    logic.tick(now);
    take();
    EXPECT_THAT(said_to_workers<assign_shard>(), IsEmpty());
  }
  EXPECT_GT(now, begun + 10);
  const auto failed = said_to_client<job_failed>();
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_THAT(failed[0].why.what, HasSubstr("there is no other; start workers again or add devices"));
}

TEST_F(recovery, of_a_damaged_block_takes_the_copy_of_another_relay_or_asks_its_rank) {
  logic.relay_said(east_relay, block_damaged{1, 1, 2}, now);
  logic.relay_said(east_relay, block_damaged{1, 70, 2}, now);
  take();
  EXPECT_EQ(said_to_relays<fence_job>().size(), 2u);
  fenced(1, {{1, {0, 1}}}, {{1, {0, 1}}});
  EXPECT_THAT(said_to_workers<give_blocks>(), ElementsAre(std::pair(east1, give_blocks{1, 1, {2}})));
  EXPECT_THAT(said_to_workers<assign_shard>(), IsEmpty()) << "nobody computes again";

  logic.relay_said(west_relay, block_damaged{1, 1, 0}, now);
  fenced(2, {{1, {1, 2}}}, {{1, {0, 1, 2}}});
  EXPECT_THAT(said_to_workers<give_blocks>(), IsEmpty());
  for (const auto& [to, command] : said_to_relays<place_blocks>()) {
    if (to == east_relay) {
      ASSERT_EQ(command.forwardings.size(), 1u);
      EXPECT_EQ(command.forwardings[0], (place_blocks::forwarding{"west relay", {1, {0}}}));
    } else {
      EXPECT_THAT(command.forwardings, IsEmpty());
    }
  }
}

TEST_F(recovery, a_rank_is_asked_for_a_damaged_block_after_all_when_whoever_had_a_copy_dies_before_it_was_sent) {
  logic.relay_said(east_relay, block_damaged{1, 1, 0}, now);
  fenced(1, {{1, {0}}}, {});
  EXPECT_THAT(said_to_workers<give_blocks>(), IsEmpty());
  logic.relay_lost(west_relay, "killed", now);  // with its ranks: two losses, and its own
  logic.relay_said(east_relay, job_fenced{1, 4, {}}, now);
  take();
  EXPECT_THAT(said_to_workers<give_blocks>(), ElementsAre(std::pair(east1, give_blocks{1, 1, {0}})));
}

TEST_F(recovery, a_copy_of_a_damaged_block_that_is_damaged_as_well_is_not_waited_for) {
  logic.relay_said(east_relay, block_damaged{1, 1, 0}, now);
  take();
  logic.relay_said(west_relay, job_fenced{1, 1, {{1, {0}}}}, now);
  logic.relay_said(west_relay, block_damaged{1, 1, 0}, now);
  logic.relay_said(east_relay, job_fenced{1, 1, {}}, now);
  fenced(2, {}, {});
  EXPECT_THAT(said_to_workers<give_blocks>(), ElementsAre(std::pair(east1, give_blocks{1, 1, {0}})));
}

/// Three ranks, one on each of three nodes: east, north, west.
struct recovery_on_three_nodes : recovery {
  using recovery::recovery;
  static constexpr peer_id north0 = 8, north_relay = 9;
  void SetUp() override {
    const std::vector<std::pair<peer_id, std::string>> workers{{east0, "east"}, {north0, "north"}, {west0, "west"}};
    const std::vector<std::pair<peer_id, std::string>> relays{
        {east_relay, "east"}, {north_relay, "north"}, {west_relay, "west"}};
    for (const auto& [id, node] : workers) logic.worker_joined(id, {node, "d0", "cpu", 0, node + "0", 1}, now);
    for (const auto& [id, node] : relays) logic.relay_joined(id, {node, 1 << 20, node + " relay", 2}, now);
    submit_job request{.request_id = "r", .options = {}, .document_tokens = 200, .query_tokens = 8};
    request.options.ranks = 3;
    request.options.anchor_tokens = 20;
    request.options.passing_tokens = 5;
    logic.client_said(client, request, now);
    logic.client_said(client, submit_ids{"r", 0, std::vector<std::int32_t>(208, 1)}, now);
    for (const auto& [id, node] : relays) logic.relay_said(id, log_reserved{1}, now);
    for (int rank = 0; rank < 3; ++rank)
      logic.worker_said(workers[static_cast<std::size_t>(rank)].first, shard_ready{1, rank}, now);
    take();
    ASSERT_EQ(said_to_workers<start_shard>().size(), 3u);
  }
};

TEST_F(recovery_on_three_nodes, another_holder_of_a_damaged_block_sends_it_when_the_first_dies_over_it) {
  logic.relay_said(north_relay, block_damaged{1, 0, 1}, now);
  logic.relay_said(east_relay, job_fenced{1, 1, {{0, {1}}}}, now);
  logic.relay_said(north_relay, job_fenced{1, 1, {}}, now);
  logic.relay_said(west_relay, job_fenced{1, 1, {{0, {1}}}}, now);
  take();
  const auto forwarded_to_north = [&] {
    std::vector<peer_id> by;
    for (const auto& [relay, command] : said_to_relays<place_blocks>()) {
      for (const auto& forwarding : command.forwardings) {
        if (forwarding == place_blocks::forwarding{"north relay", {0, {1}}}) by.push_back(relay);
      }
    }
    return by;
  };
  EXPECT_THAT(forwarded_to_north(), ElementsAre(west_relay));
  // Its rank goes on in the east, so that no place of the north's is a new one.
  logic.relay_lost(west_relay, "killed", now);
  logic.relay_said(east_relay, job_fenced{1, 3, {{0, {1}}}}, now);
  logic.relay_said(north_relay, job_fenced{1, 3, {}}, now);
  take();
  EXPECT_THAT(forwarded_to_north(), ElementsAre(east_relay));
}

/// As `recovery`, with a short patience for nodes that do not reach each other.
struct recovery_of_the_cut_off : recovery {
  recovery_of_the_cut_off()
      : recovery({.silence_s = 1e9, .stuck_s = 30, .cut_off_s = 10, .replays_max = 2, .replacement_s = 10}) {}
  void waits(int rank, int for_rank) {
    logic.worker_said(worker_of(rank), shard_progress{1, rank, 1, 0, for_rank, 9}, now);
  }
  void pass(double seconds) {
    for (const double until = now + seconds; now < until; now += 0.1) logic.tick(now);
    take();
  }
};

TEST_F(recovery_of_the_cut_off, moves_the_higher_ranks_node_to_where_the_others_are) {
  progress(0, 1);
  progress(1, 1);
  finish_prefill(east0, 0);
  finish_prefill(east1, 1);
  waits(2, 1);  // the west does not get what the east has
  waits(3, 1);
  pass(9);
  EXPECT_THAT(said_to_relays<fence_job>(), IsEmpty()) << "a link that is slow is not cut";
  pass(2);
  std::set<peer_id> released;
  for (const auto& [worker, command] : said_to_workers<release_job>()) released.insert(worker);
  EXPECT_EQ(released, (std::set<peer_id>{west0, west1}));
  EXPECT_THAT(said_to_client<job_failed>(), IsEmpty());
  logic.relay_said(west_relay, job_fenced{1, 2, {}}, now);
  logic.relay_said(east_relay, job_fenced{1, 2, {{0, {0, 1, 2}}, {1, {0, 1, 2}}}}, now);
  take();
  std::set<peer_id> places;
  for (const auto& [worker, command] : said_to_workers<assign_shard>()) places.insert(worker);
  EXPECT_EQ(places, (std::set<peer_id>{east0, east1}));
  EXPECT_THAT(said_to_client<shard_moved>().at(0).cause,
              HasSubstr("nodes west and east do not seem to reach each other"));
}

TEST_F(recovery_of_the_cut_off, leaves_alone_who_waits_for_a_rank_that_computes) {
  waits(2, 0);
  waits(3, 0);
  for (int i = 0; i < 40; ++i) {
    progress(0, 0);
    progress(1, 0);
    pass(1);
    EXPECT_THAT(said_to_relays<fence_job>(), IsEmpty());
  }
}

TEST_F(recovery_of_the_cut_off, moves_while_others_compute_when_a_relay_says_that_it_has_no_way) {
  progress(0, 2);
  waits(2, 0);  // the east's rank 0 has gone on, and its block does not come
  const auto pass_while_rank_1_computes = [&](double seconds) {
    for (const double until = now + seconds; now < until; now += 0.1) {
      logic.worker_said(east1, shard_progress{1, 1, 0, 0, -1, ++chunks}, now);
      logic.tick(now);
    }
    take();
  };
  pass_while_rank_1_computes(9.8);
  EXPECT_THAT(said_to_relays<probe_paths>(), IsEmpty());
  pass_while_rank_1_computes(1);
  EXPECT_THAT(said_to_relays<probe_paths>(),
              ElementsAre(std::pair(west_relay, probe_paths{1, 1, {"east relay"}, {"east relay"}, 3333})));
  logic.relay_said(west_relay, paths_probed{1, 1, {}}, now);
  pass_while_rank_1_computes(0.2);
  EXPECT_EQ(said_to_workers<release_job>().size(), 2u) << "both of the west";
  EXPECT_THAT(said_to_relays<fence_job>(), testing::Not(IsEmpty()));
}

TEST_F(recovery_of_the_cut_off, fails_a_job_whose_block_is_lost_on_a_link_that_is_there_while_others_compute) {
  progress(0, 2);
  waits(2, 0);
  for (const double until = now + 31; now < until; now += 0.1) {
    logic.worker_said(east1, shard_progress{1, 1, 0, 0, -1, ++chunks}, now);
    logic.tick(now);
    take();
    for (const auto& [relay, asked] : said_to_relays<probe_paths>())
      logic.relay_said(relay, paths_probed{1, asked.round, {{"east relay", {}}}}, now);
    EXPECT_THAT(said_to_relays<fence_job>(), IsEmpty());
    if (!said_to_client<job_failed>().empty()) break;
  }
  const auto failed = said_to_client<job_failed>();
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].why.code, fault_code::deadline);
  EXPECT_THAT(failed[0].why.what, HasSubstr("a block that rank 0 has made"));
  EXPECT_GT(now, 130) << "not before timeouts.exchange";
}

TEST_F(recovery_of_the_cut_off, whoever_waits_for_a_rank_that_is_itself_waiting_or_computing_has_time) {
  waits(2, 1);  // which waits for rank 0, which computes one long chunk
  waits(1, 0);
  waits(3, 2);
  progress(0, 0);
  pass(100);
  EXPECT_THAT(said_to_client<job_failed>(), IsEmpty());
  EXPECT_THAT(said_to_relays<fence_job>(), IsEmpty());
}

/// A rank on each of three nodes: 0 in the east, 1 in the north, 2 in the west.
struct detours_on_three_nodes : recovery_on_three_nodes {
  detours_on_three_nodes()
      : recovery_on_three_nodes(
            {.silence_s = 1e9, .stuck_s = 30, .cut_off_s = 10, .replays_max = 2, .replacement_s = 10}) {}

  void SetUp() override {
    recovery_on_three_nodes::SetUp();
    // All is done but for rank 2, which waits for what rank 1 has made.
    logic.worker_said(east0, shard_finished{1, 0, {}}, now);
    logic.worker_said(north0, shard_finished{1, 1, {}}, now);
    logic.worker_said(west0, shard_progress{1, 2, 1, 0, 1, 9}, now);
  }
  void pass(double seconds) {
    for (const double until = now + seconds; now < until; now += 0.1) logic.tick(now);
    take();
  }
  void probed(std::uint32_t round, std::vector<paths_probed::path> reached) {
    logic.relay_said(west_relay, paths_probed{1, round, std::move(reached)}, now);
    take();
  }
  const detour through_the_east{"north relay", "west relay", "east relay"};
};

TEST_F(detours_on_three_nodes, nodes_that_do_not_reach_each_other_exchange_through_one_that_reaches_both) {
  pass(9);
  EXPECT_THAT(said_to_relays<probe_paths>(), IsEmpty());
  pass(2);
  const probe_paths asked{1, 1, {"east relay", "north relay"}, {"east relay", "north relay"}, 3333};
  EXPECT_THAT(said_to_relays<probe_paths>(), ElementsAre(std::pair(west_relay, asked)));
  probed(1, {{"east relay", {}}, {"north relay", "east relay"}});
  const detour_job led{1, {through_the_east}};
  EXPECT_THAT(said_to_relays<detour_job>(),
              testing::UnorderedElementsAre(std::pair(east_relay, led), std::pair(north_relay, led),
                                            std::pair(west_relay, led)));
  EXPECT_THAT(said_to_workers<rewire_rank>(),
              testing::UnorderedElementsAre(std::pair(west0, rewire_rank{1, 1, {"north0", 0, "east relay"}}),
                                            std::pair(north0, rewire_rank{1, 2, {"west0", 0, "east relay"}})));
  // It goes on: nobody moves, then or later.
  logic.worker_said(west0, shard_progress{1, 2, 2, 0, -1, 10}, now);
  pass(9);
  EXPECT_THAT(said_to_relays<fence_job>(), IsEmpty());
  EXPECT_THAT(said_to_client<job_failed>(), IsEmpty());
}

TEST_F(detours_on_three_nodes, whoever_is_placed_later_hears_of_the_detour_with_its_shard) {
  pass(11);
  probed(1, {{"east relay", {}}, {"north relay", "east relay"}});
  logic.worker_joined(20, {"west", "d1", "cpu", 0, "west1", 1}, now);
  logic.worker_lost(west0, "killed", now);
  for (const peer_id relay : {east_relay, north_relay, west_relay}) logic.relay_said(relay, job_fenced{1, 1, {}}, now);
  take();
  const auto assigned = said_to_workers<assign_shard>();
  ASSERT_EQ(assigned.size(), 1u);
  ASSERT_EQ(assigned[0].first, 20u);
  EXPECT_EQ(assigned[0].second.routes.ranks.at(0), (rank_place{"east0", 0}));
  EXPECT_EQ(assigned[0].second.routes.ranks.at(1), (rank_place{"north0", 0, "east relay"}));
  EXPECT_THAT(said_to_workers<rewire_rank>(),
              testing::UnorderedElementsAre(std::pair(peer_id{20}, rewire_rank{1, 2, {"west1", 1}}),
                                            std::pair(east0, rewire_rank{1, 2, {"west1", 1}}),
                                            std::pair(north0, rewire_rank{1, 2, {"west1", 1, "east relay"}})));
}

TEST_F(detours_on_three_nodes, without_a_third_that_reaches_both_the_higher_ranks_move) {
  pass(11);
  probed(1, {{"east relay", {}}});
  EXPECT_THAT(said_to_relays<detour_job>(), IsEmpty());
  pass(0.2);
  const auto released = said_to_workers<release_job>();
  ASSERT_EQ(released.size(), 1u);
  EXPECT_EQ(released[0].first, west0);
}

TEST_F(detours_on_three_nodes, a_relay_that_does_not_say_whom_it_reaches_has_a_deadline) {
  pass(11);
  EXPECT_EQ(said_to_relays<probe_paths>().size(), 1u);
  pass(5);
  EXPECT_THAT(said_to_workers<release_job>(), IsEmpty());
  pass(2);
  EXPECT_EQ(said_to_workers<release_job>().size(), 1u);
  // What it says after that comes too late.
  probed(1, {{"north relay", "east relay"}});
  EXPECT_THAT(said_to_relays<detour_job>(), IsEmpty());
}

TEST_F(detours_on_three_nodes, a_detour_that_does_not_help_is_followed_by_moving_before_the_job_fails) {
  pass(11);
  probed(1, {{"east relay", {}}, {"north relay", "east relay"}});
  pass(9);
  EXPECT_THAT(said_to_workers<release_job>(), IsEmpty());
  pass(2);
  EXPECT_EQ(said_to_workers<release_job>().size(), 1u);
  EXPECT_THAT(said_to_client<job_failed>(), IsEmpty());
}

TEST_F(detours_on_three_nodes, who_reach_each_other_after_all_are_left_alone_for_a_while) {
  pass(11);
  probed(1, {{"east relay", {}}, {"north relay", {}}, {"north relay", "east relay"}});
  EXPECT_THAT(said_to_relays<detour_job>(), IsEmpty());
  pass(9);
  EXPECT_THAT(said_to_workers<release_job>(), IsEmpty());
}

TEST_F(detours_on_three_nodes, when_the_one_in_between_dies_another_is_looked_for_at_once) {
  constexpr peer_id south_relay = 30, far_relay = 31;
  logic.relay_joined(south_relay, {"south", 1 << 20, "south relay", 2}, now);
  logic.relay_joined(far_relay, {"far", 1 << 20, "far relay", 2}, now);
  pass(11);
  probed(1, {{"east relay", {}}, {"north relay", "south relay"}});
  EXPECT_THAT(said_to_relays<detour_job>()[0].second.detours,
              ElementsAre(detour{"north relay", "west relay", "south relay"}));
  logic.relay_lost(south_relay, "killed", now);
  take();
  // Meanwhile nobody is told to wait for a relay that is gone.
  for (const auto& [relay, command] : said_to_relays<detour_job>()) EXPECT_THAT(command.detours, IsEmpty());
  const auto asked = said_to_relays<probe_paths>();
  ASSERT_EQ(asked.size(), 1u);
  EXPECT_EQ(asked[0].first, north_relay);
  EXPECT_THAT(asked[0].second.via, testing::Contains("far relay"));
  EXPECT_THAT(asked[0].second.via, testing::Not(testing::Contains("south relay")));
  logic.relay_said(north_relay,
                   paths_probed{1, asked[0].second.round, {{"east relay", {}}, {"west relay", "far relay"}}}, now);
  take();
  EXPECT_THAT(said_to_relays<detour_job>()[0].second.detours,
              ElementsAre(detour{"north relay", "west relay", "far relay"}));
  EXPECT_THAT(said_to_relays<fence_job>(), IsEmpty());
}

/// A device that computes, as its worker says, and ends no chunk.
struct recovery_of_the_hung : recovery {
  recovery_of_the_hung()
      : recovery({.silence_s = 1e9, .stuck_s = 30, .hung_s = 300, .replays_max = 2, .replacement_s = 10}) {}
  void pass(double seconds, bool west0_moves) {
    for (const double until = now + seconds; now < until; now += 0.1) {
      logic.worker_said(east0, shard_progress{1, 0, 0, 0, -1, 9}, now);
      logic.worker_said(east1, shard_progress{1, 1, 0, 0, 0, 9}, now);
      logic.worker_said(west0, shard_progress{1, 2, 0, 0, -1, west0_moves ? ++chunks : chunks}, now);
      logic.worker_said(west1, shard_progress{1, 3, 0, 0, 0, 9}, now);
      logic.tick(now);
    }
    take();
  }
};

TEST_F(recovery_of_the_hung, gives_up_the_worker_whose_chunk_never_ends_and_nobody_who_is_slow_or_waits) {
  pass(299, true);
  EXPECT_THAT(dismissed(), IsEmpty()) << "a chunk may take minutes";
  pass(2, true);
  EXPECT_THAT(dismissed(), ElementsAre(east0));
  EXPECT_THAT(said_to_relays<fence_job>().at(0).second.attempts, ElementsAre(1, 0, 0, 0));
  fenced(1, {}, {});
  EXPECT_THAT(said_to_client<shard_moved>().at(0).cause, HasSubstr("its device hangs"));
  EXPECT_EQ(said_to_workers<assign_shard>().at(0).second.rank, 0);
}

TEST_F(recovery_of_the_hung, a_rank_whose_device_computes_for_another_is_not_hung) {
  // Rank 1 has its turn on the device of rank 0, which does not compute as long.
  logic.worker_lost(east1, "killed", now);
  fenced(1, {}, {});
  const peer_id both = said_to_workers<assign_shard>().at(0).first;
  logic.worker_said(both, shard_ready{1, 1}, now);
  take();
  const int other = both == east0 ? 0 : both == west0 ? 2 : 3;
  for (const double until = now + 700; now < until; now += 0.5) {
    for (const int rank : {0, 1, 2, 3}) {
      const peer_id worker = rank == 1 ? both : worker_of(rank);
      logic.worker_said(worker, shard_progress{1, rank, 0, 0, -1, rank == other ? 9 : ++chunks}, now);
    }
    logic.tick(now);
  }
  take();
  EXPECT_THAT(dismissed(), IsEmpty());
}

}  // namespace
}  // namespace baton
