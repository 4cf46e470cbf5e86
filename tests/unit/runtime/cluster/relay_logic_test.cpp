#include "runtime/cluster/relay_logic.hpp"

#include <map>
#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace baton {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

block_key key_of(job_id job, int layer, int source) {
  return {.job = job, .layer = static_cast<std::uint16_t>(layer), .source = static_cast<std::uint16_t>(source)};
}

send_block answer_to(const std::string& to, const block_key& key, rank_range targets) {
  return {to, message_kind::answer, key, targets};
}

/// Six ranks on three nodes, two each; rank 5's node has no relay that can be reached.
reserve_log six_ranks(job_id job) { return {job, 1000, {"here", "here", "there", "there", "far", ""}}; }

std::vector<send_block> sent(relay_logic& logic) {
  std::vector<send_block> blocks;
  for (const auto& action : logic.take_actions()) {
    if (const auto* s = std::get_if<send_block>(&action)) blocks.push_back(*s);
  }
  return blocks;
}

std::vector<relay_report> reported(relay_logic& logic) {
  std::vector<relay_report> reports;
  for (const auto& action : logic.take_actions()) {
    if (const auto* r = std::get_if<relay_report>(&action)) reports.push_back(*r);
  }
  return reports;
}

struct relay_logic_test : testing::Test {
  relay_logic logic{"here"};
  void SetUp() override {
    logic.log_reserved_for(six_ranks(1));
    static_cast<void>(logic.take_actions());
  }
};

TEST_F(relay_logic_test, answers_the_coordinator_as_the_log_decided) {
  logic.log_reserved_for(six_ranks(2));
  logic.log_refused_for(six_ranks(3), 77);
  logic.log_refused_for(six_ranks(4), fault(fault_code::out_of_memory, "full", "/disk"));
  EXPECT_THAT(reported(logic), ElementsAre(log_reserved{2}, log_refused{3, 1000, 77},
                                           log_failed{4, {fault_code::out_of_memory, "full", "/disk"}}));
  EXPECT_EQ(logic.judge(key_of(2, 0, 0)), block_verdict::take);
  EXPECT_EQ(logic.judge(key_of(3, 0, 0)), block_verdict::drop);
  EXPECT_EQ(logic.judge(key_of(4, 0, 0)), block_verdict::drop);
}

TEST_F(relay_logic_test, a_given_block_goes_once_to_each_other_node_among_the_targets) {
  logic.block_given("worker", key_of(1, 0, 0), {1, 6});
  EXPECT_THAT(sent(logic), ElementsAre(send_block{"there", message_kind::forward, key_of(1, 0, 0), {1, 6}},
                                       send_block{"far", message_kind::forward, key_of(1, 0, 0), {1, 6}}));
  logic.block_given("worker", key_of(1, 1, 0), {1, 3});
  EXPECT_THAT(sent(logic), ElementsAre(send_block{"there", message_kind::forward, key_of(1, 1, 0), {1, 3}}));
  logic.block_given("worker", key_of(1, 2, 0), {1, 2});
  EXPECT_THAT(sent(logic), IsEmpty()) << "its own node only";
  logic.block_given("worker", key_of(1, 3, 0), {6, 6});
  EXPECT_THAT(sent(logic), IsEmpty()) << "nobody";
}

TEST_F(relay_logic_test, targets_beyond_the_ranks_that_were_reserved_for_are_nobody) {
  logic.block_given("worker", key_of(1, 0, 4), {-3, 70'000});
  EXPECT_THAT(sent(logic), ElementsAre(send_block{"there", message_kind::forward, key_of(1, 0, 4), {-3, 70'000}},
                                       send_block{"far", message_kind::forward, key_of(1, 0, 4), {-3, 70'000}}));
  logic.log_reserved_for({2, 1000, {}});
  static_cast<void>(logic.take_actions());
  logic.block_given("worker", key_of(2, 0, 0), {1, 6});
  EXPECT_THAT(sent(logic), IsEmpty()) << "a job of one node";
  EXPECT_TRUE(logic.holds(key_of(2, 0, 0)));
}

TEST_F(relay_logic_test, never_sends_a_block_back_to_where_it_came_from) {
  logic.block_given("there", key_of(1, 0, 2), {3, 6});
  EXPECT_THAT(sent(logic), ElementsAre(send_block{"far", message_kind::forward, key_of(1, 0, 2), {3, 6}}));
}

TEST_F(relay_logic_test, a_forwarded_block_goes_no_further) {
  logic.block_forwarded(key_of(1, 0, 2), {3, 6});
  EXPECT_THAT(sent(logic), IsEmpty());
  EXPECT_TRUE(logic.holds(key_of(1, 0, 2)));
  EXPECT_EQ(logic.judge(key_of(1, 0, 2)), block_verdict::drop);
}

TEST_F(relay_logic_test, a_forwarded_block_of_its_own_rank_that_was_damaged_here_goes_to_all_others) {
  const auto key = key_of(1, 0, 0);
  logic.block_given("worker", key, {1, 6});
  static_cast<void>(logic.take_actions());
  EXPECT_TRUE(logic.block_was_damaged({"far", message_kind::forward, key, {1, 6}}));
  EXPECT_THAT(reported(logic), ElementsAre(block_damaged{1, 0, 0}));
  logic.block_forwarded(key, {1, 6});
  EXPECT_THAT(sent(logic), ElementsAre(send_block{"there", message_kind::forward, key, {1, 6}},
                                       send_block{"far", message_kind::forward, key, {1, 6}}));
  EXPECT_EQ(logic.judge(key), block_verdict::drop) << "what the rank gives again comes too late to go on from here";
}

TEST_F(relay_logic_test, a_duplicate_changes_nothing_whatever_its_attempt_and_way) {
  logic.block_given("worker", key_of(1, 0, 0), {1, 6});
  static_cast<void>(logic.take_actions());
  auto again = key_of(1, 0, 0);
  again.attempt = 3;
  EXPECT_EQ(logic.judge(again), block_verdict::drop);
  logic.block_given("another worker", again, {1, 6});
  logic.block_forwarded(again, {3, 6});
  EXPECT_THAT(logic.take_actions(), IsEmpty());
}

TEST_F(relay_logic_test, a_want_is_answered_at_once_and_as_often_as_it_comes) {
  logic.block_given("worker", key_of(1, 0, 0), {1, 2});
  static_cast<void>(logic.take_actions());
  logic.block_wanted("a", key_of(1, 0, 0));
  logic.block_wanted("a", key_of(1, 0, 0));
  EXPECT_THAT(sent(logic),
              ElementsAre(answer_to("a", key_of(1, 0, 0), {1, 2}), answer_to("a", key_of(1, 0, 0), {1, 2})));
}

TEST_F(relay_logic_test, wants_before_the_block_wait_for_it_one_for_each_process) {
  logic.block_wanted("a", key_of(1, 0, 2));
  logic.block_wanted("b", key_of(1, 0, 2));
  logic.block_wanted("a", key_of(1, 0, 2));
  logic.block_wanted("a", key_of(1, 1, 2));
  EXPECT_THAT(logic.take_actions(), IsEmpty());
  logic.block_forwarded(key_of(1, 0, 2), {3, 6});
  EXPECT_THAT(sent(logic),
              ElementsAre(answer_to("a", key_of(1, 0, 2), {3, 6}), answer_to("b", key_of(1, 0, 2), {3, 6})));
  logic.block_given("a", key_of(1, 1, 2), {3, 4});
  EXPECT_THAT(sent(logic), ElementsAre(send_block{"there", message_kind::forward, key_of(1, 1, 2), {3, 4}},
                                       answer_to("a", key_of(1, 1, 2), {3, 4})));
}

TEST_F(relay_logic_test, knows_nothing_of_jobs_that_were_released_or_never_admitted) {
  logic.block_wanted("a", key_of(1, 0, 0));
  logic.job_released(1);
  for (const job_id job : {job_id{1}, job_id{9}}) {
    EXPECT_EQ(logic.judge(key_of(job, 0, 0)), block_verdict::drop);
    logic.block_given("worker", key_of(job, 0, 0), {1, 6});
    logic.block_forwarded(key_of(job, 1, 0), {3, 6});
    logic.block_wanted("a", key_of(job, 0, 0));
    logic.job_released(job);
  }
  EXPECT_THAT(logic.take_actions(), IsEmpty());
}

block_key of_attempt(std::uint32_t attempt, block_key key) {
  key.attempt = attempt;
  return key;
}

TEST_F(relay_logic_test, a_fence_tells_what_is_held_and_keeps_old_attempts_out) {
  logic.block_given("worker", key_of(1, 0, 2), {3, 6});
  logic.block_given("worker", key_of(1, 1, 2), {3, 6});
  logic.block_forwarded(key_of(1, 0, 0), {1, 6});
  static_cast<void>(logic.take_actions());
  logic.job_fenced_by({1, 1, {0, 0, 1, 0, 0, 0}});
  EXPECT_THAT(reported(logic), ElementsAre(job_fenced{1, 1, {{0, {0}}, {2, {0, 1}}}}));
  // Nobody knows yet which blocks of rank 2 count.
  EXPECT_EQ(logic.judge(key_of(1, 2, 2)), block_verdict::later);
  EXPECT_EQ(logic.judge(of_attempt(1, key_of(1, 2, 2))), block_verdict::later);
  EXPECT_EQ(logic.judge(key_of(1, 2, 0)), block_verdict::take) << "another rank goes on";
  // Another relay holds layer 2.
  logic.blocks_placed_by({1, 1, {"here", "here", "far", "there", "there", "there"}, {{2, {0, 1, 2}}}, {}});
  EXPECT_EQ(logic.judge(key_of(1, 2, 2)), block_verdict::take) << "the holder's";
  EXPECT_EQ(logic.judge(of_attempt(1, key_of(1, 2, 2))), block_verdict::later) << "only if the holder is gone";
  EXPECT_EQ(logic.judge(key_of(1, 3, 2)), block_verdict::drop) << "too late";
  EXPECT_EQ(logic.judge(of_attempt(1, key_of(1, 3, 2))), block_verdict::take);
  EXPECT_EQ(logic.judge(of_attempt(1, key_of(1, 1, 2))), block_verdict::drop) << "held here";
}

TEST_F(relay_logic_test, of_two_earlier_attempts_only_the_holders_block_is_taken) {
  logic.job_fenced_by({1, 1, {0, 0, 2, 0, 0, 0}});
  logic.blocks_placed_by({1, 1, {"here", "here", "here", "there", "there", "there"}, {{2, {0}, 1}}, {}});
  EXPECT_EQ(logic.judge(key_of(1, 0, 2)), block_verdict::drop) << "attempt 0's, still under way from before";
  EXPECT_EQ(logic.judge(of_attempt(1, key_of(1, 0, 2))), block_verdict::take) << "the holder's";
  logic.block_forwarded(of_attempt(1, key_of(1, 0, 2)), {3, 6});
  static_cast<void>(logic.take_actions());
  logic.job_fenced_by({1, 2, {0, 0, 3, 0, 0, 0}});
  EXPECT_THAT(reported(logic), ElementsAre(job_fenced{1, 2, {{2, {0}, 1}}}));
}

TEST_F(relay_logic_test, what_others_need_is_sent_when_ranks_have_new_places) {
  logic.block_given("worker", key_of(1, 0, 0), {1, 6});
  static_cast<void>(logic.take_actions());
  logic.job_fenced_by({1, 1, {0, 1, 0, 0, 0, 0}});
  static_cast<void>(logic.take_actions());
  logic.blocks_placed_by(
      {1, 1, {"here", "new", "here", "there", "there", "far"}, {{1, {}}}, {{"new", {0, {0, 1}}}, {"far", {3, {0}}}}});
  EXPECT_THAT(sent(logic), ElementsAre(send_block{"new", message_kind::forward, key_of(1, 0, 0), {1, 6}}))
      << "only what is held";
  logic.block_given("worker", key_of(1, 1, 0), {1, 6});
  EXPECT_THAT(sent(logic), UnorderedElementsAre(send_block{"new", message_kind::forward, key_of(1, 1, 0), {1, 6}},
                                                send_block{"there", message_kind::forward, key_of(1, 1, 0), {1, 6}},
                                                send_block{"far", message_kind::forward, key_of(1, 1, 0), {1, 6}}));
}

TEST_F(relay_logic_test, an_earlier_round_changes_nothing) {
  logic.job_fenced_by({1, 2, {0, 0, 2, 0, 0, 0}});
  logic.job_fenced_by({1, 1, {0, 0, 1, 0, 0, 0}});
  EXPECT_THAT(reported(logic), ElementsAre(job_fenced{1, 2, {}}, job_fenced{1, 1, {}}));
  logic.blocks_placed_by({1, 1, {"here", "here", "here", "here", "here", "here"}, {{2, {0}}}, {}});
  EXPECT_EQ(logic.judge(of_attempt(2, key_of(1, 0, 2))), block_verdict::later);
  logic.job_fenced_by({9, 1, {0}});
  EXPECT_THAT(reported(logic), ElementsAre(job_fenced{9, 1, {}})) << "a job that is not known";
}

TEST_F(relay_logic_test, a_broken_log_is_told_once_and_ends_what_is_known_of_the_job) {
  logic.block_given("worker", key_of(1, 0, 0), {1, 2});
  logic.block_wanted("a", key_of(1, 1, 0));
  static_cast<void>(logic.take_actions());
  const fault why(fault_code::device, "writing failed", "/disk");
  logic.log_broke(1, why);
  EXPECT_EQ(logic.judge(key_of(1, 1, 0)), block_verdict::drop);
  logic.log_broke(1, why);
  logic.block_given("worker", key_of(1, 1, 0), {1, 6});
  logic.block_wanted("a", key_of(1, 0, 0));
  EXPECT_THAT(reported(logic), ElementsAre(log_failed{1, {fault_code::device, "writing failed", "/disk"}}));
  logic.log_broke(8, why);
  EXPECT_THAT(logic.take_actions(), IsEmpty());
}

TEST_F(relay_logic_test, remembers_so_many_wants_of_a_job_and_no_more) {
  for (std::size_t i = 0; i <= relay_logic::wants_max; ++i)
    logic.block_wanted(std::to_string(i), key_of(1, static_cast<int>(i % 100), 2));
  logic.block_wanted("late", key_of(1, 3, 2));
  for (int layer = 0; layer < 100; ++layer) logic.block_forwarded(key_of(1, layer, 2), {3, 6});
  EXPECT_EQ(sent(logic).size(), relay_logic::wants_max);
  logic.block_wanted("late", key_of(1, 200, 2));
  logic.block_forwarded(key_of(1, 200, 2), {3, 6});
  EXPECT_THAT(sent(logic), ElementsAre(answer_to("late", key_of(1, 200, 2), {3, 6}))) << "there is room again";
}

/// Several relays with their processes; what they say to each other lies in a bag, and is taken out in any order, some of it
/// twice. Processes ask until the bag is empty, so that every want meets its block before, after or never.
RC_GTEST_PROP(relay_logic_property, every_node_gets_each_block_once_and_every_want_its_answer, ()) {
  const int nodes = *rc::gen::inRange(1, 5);
  const int ranks = *rc::gen::inRange(1, 8);
  const int layers = *rc::gen::inRange(1, 4);
  std::vector<int> node_of;
  for (int rank = 0; rank < ranks; ++rank) node_of.push_back(*rc::gen::inRange(0, nodes));

  const auto relay_name = [](int node) { return "relay " + std::to_string(node); };
  std::vector<relay_logic> relays;
  reserve_log reservation{1, 1000, {}};
  for (const int node : node_of) reservation.relays.push_back(relay_name(node));
  for (int node = 0; node < nodes; ++node) {
    relays.emplace_back(relay_name(node));
    relays.back().log_reserved_for(reservation);
    static_cast<void>(relays.back().take_actions());
  }

  struct in_flight {
    int node;  // whose relay gets it
    message_kind kind;
    std::string from;
    block_key key;
    rank_range targets;
  };
  std::vector<in_flight> bag;
  for (int layer = 0; layer < layers; ++layer) {
    for (int source = 0; source < ranks; ++source) {
      bag.push_back({node_of[static_cast<std::size_t>(source)],
                     message_kind::put,
                     "rank " + std::to_string(source),
                     key_of(1, layer, source),
                     {source + 1, ranks}});
      for (int rank = source + 1; rank < ranks; ++rank) {
        bag.push_back({node_of[static_cast<std::size_t>(rank)],
                       message_kind::want,
                       "rank " + std::to_string(rank),
                       key_of(1, layer, source),
                       {}});
      }
    }
  }
  std::mt19937 random(*rc::gen::arbitrary<unsigned>());
  const bool released = random() % 4 == 0;  // in the middle, on every node

  std::map<std::pair<int, block_key>, int> forwards;                   // by the node that gets it
  std::map<std::pair<std::string, block_key>, int> answers, expected;  // by who asked
  std::set<std::pair<int, block_key>> there;
  std::map<std::pair<int, block_key>, std::set<std::string>> waiting;
  int moves = 0;
  while (!bag.empty()) {
    const std::size_t index = random() % bag.size();
    const auto m = bag[index];
    if (random() % 5 != 0) bag.erase(bag.begin() + static_cast<std::ptrdiff_t>(index));  // else twice
    auto& relay = relays[static_cast<std::size_t>(m.node)];
    const bool live = !(released && ++moves > 10);
    if (!live) relay.job_released(1);
    if (m.kind == message_kind::want) {
      relay.block_wanted(m.from, m.key);
      if (live && there.contains({m.node, m.key})) {
        ++expected[{m.from, m.key}];
      } else if (live) {
        waiting[{m.node, m.key}].insert(m.from);
      }
    } else {
      RC_ASSERT((relay.judge(m.key) == block_verdict::take) == (live && !there.contains({m.node, m.key})));
      m.kind == message_kind::put ? relay.block_given(m.from, m.key, m.targets)
                                  : relay.block_forwarded(m.key, m.targets);
      if (live && there.emplace(m.node, m.key).second) {
        for (const auto& who : waiting[{m.node, m.key}]) ++expected[{who, m.key}];
      }
    }
    for (const auto& action : sent(relay)) {
      if (action.kind == message_kind::answer) {
        ++answers[{action.to, action.key}];
        continue;
      }
      const int to = action.to.back() - '0';
      RC_ASSERT(to != m.node);
      ++forwards[{to, action.key}];
      bag.push_back({to, message_kind::forward, relay_name(m.node), action.key, action.targets});
    }
  }
  RC_ASSERT(answers == expected);
  for (const auto& [to, count] : forwards) RC_ASSERT(count == 1);
  if (released) return;
  for (int layer = 0; layer < layers; ++layer) {
    for (int source = 0; source < ranks; ++source) {
      const auto key = key_of(1, layer, source);
      const int home = node_of[static_cast<std::size_t>(source)];
      std::set<int> others;
      for (int rank = source + 1; rank < ranks; ++rank) {
        others.insert(node_of[static_cast<std::size_t>(rank)]);
        RC_ASSERT((answers[{"rank " + std::to_string(rank), key}]) >= 1);
      }
      others.erase(home);
      for (int node = 0; node < nodes; ++node) {
        RC_ASSERT(forwards.contains({node, key}) == others.contains(node));
        RC_ASSERT(relays[static_cast<std::size_t>(node)].holds(key) == (node == home || others.contains(node)));
      }
    }
  }
}

TEST_F(relay_logic_test, who_has_heard_a_later_coordinator_obeys_the_earlier_one_no_more_and_keeps_what_it_has_told) {
  EXPECT_THAT(logic.heeds(1).value(), ElementsAre(1));
  logic.log_reserved_for(six_ranks(3));
  EXPECT_THAT(logic.joins(), ElementsAre(3));
  // The earlier one goes on, although the relay has joined the later one.
  EXPECT_THAT(logic.heeds(1).value(), IsEmpty());
  logic.log_reserved_for(six_ranks(4));
  EXPECT_THAT(logic.heeds(2).value(), ElementsAre(4)) << "nobody has told the later one of it";
  EXPECT_FALSE(logic.heeds(1));
  EXPECT_EQ(logic.judge(key_of(3, 0, 0)), block_verdict::take);
  EXPECT_EQ(logic.judge(key_of(4, 0, 0)), block_verdict::drop);
}

TEST_F(relay_logic_test, tells_the_next_coordinator_which_blocks_are_still_damaged) {
  logic.log_reserved_for(six_ranks(3));
  const auto key = key_of(3, 0, 0);
  logic.block_given("w", key, {1, 6});
  static_cast<void>(logic.block_was_damaged({"w", message_kind::answer, key, {1, 6}}));
  static_cast<void>(logic.take_actions());
  logic.tells_damages_again();
  const auto told = logic.take_actions();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(std::get<relay_report>(told[0]), relay_report(block_damaged{3, 0, 0}));
  logic.block_forwarded(key, {1, 6});
  static_cast<void>(logic.take_actions());
  logic.tells_damages_again();
  EXPECT_THAT(logic.take_actions(), IsEmpty()) << "it is there again";
}

}  // namespace
}  // namespace baton
