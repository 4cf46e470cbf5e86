#include "runtime/transport/job_blocks.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;

const job_blocks::time start{};

block_key key_of(int layer, int source, std::uint32_t attempt = 0) {
  return {.job = 1,
          .layer = static_cast<std::uint16_t>(layer),
          .source = static_cast<std::uint16_t>(source),
          .attempt = attempt};
}

std::shared_ptr<const block> some_block() { return std::make_shared<block>(); }

/// Six ranks: 0, 2 and 3 are to be here, the others in two processes elsewhere.
struct job_blocks_test : testing::Test {
  job_blocks blocks{"here", {{{"here"}, {"there"}, {"here"}, {""}, {"far"}, {"there"}}, "relay"}};
  doorbell bell;
  void SetUp() override {
    for (const int rank : {0, 2, 3}) blocks.enter(rank, bell);
  }
};

TEST_F(job_blocks_test, knows_where_the_targets_live) {
  EXPECT_THAT(blocks.processes_of({0, 6}, 0), ElementsAre("far", "there"));
  EXPECT_THAT(blocks.processes_of({0, 6}, 4), ElementsAre("there"));
  EXPECT_THAT(blocks.processes_of({2, 4}, 1), IsEmpty());
  EXPECT_THAT(blocks.processes_of({-5, 100}, 1), ElementsAre("far", "there"));
  EXPECT_TRUE(blocks.concerns({3, 6}, 1));
  EXPECT_FALSE(blocks.concerns({3, 6}, 3)) << "the source gets nothing";
  EXPECT_FALSE(blocks.concerns({4, 6}, 1));
}

TEST_F(job_blocks_test, a_rank_joins_once_and_the_last_one_to_leave_is_told) {
  EXPECT_THROW(blocks.enter(2, bell), fault);
  EXPECT_FALSE(blocks.leave(0));
  EXPECT_FALSE(blocks.leave(2));
  blocks.enter(0, bell);
  EXPECT_FALSE(blocks.leave(3));
  EXPECT_TRUE(blocks.leave(0));
}

TEST_F(job_blocks_test, a_direct_block_is_there_once_for_each_target_here) {
  blocks.came_direct(key_of(0, 1), {0, 3}, some_block());
  EXPECT_TRUE(blocks.take_direct(0, key_of(0, 1)));
  EXPECT_FALSE(blocks.take_direct(0, key_of(0, 1)));
  EXPECT_TRUE(blocks.take_direct(2, key_of(0, 1)));
  EXPECT_FALSE(blocks.take_direct(3, key_of(0, 1))) << "no target";
}

TEST_F(job_blocks_test, a_direct_block_waits_for_a_rank_that_has_yet_to_join) {
  blocks.leave(2);
  blocks.came_direct(key_of(0, 1), {0, 6}, some_block());
  blocks.enter(2, bell);
  EXPECT_TRUE(blocks.take_direct(2, key_of(0, 1)));
}

TEST_F(job_blocks_test, direct_blocks_of_earlier_attempts_are_dropped_before_and_after_they_come) {
  blocks.came_direct(key_of(0, 1), {0, 6}, some_block());
  EXPECT_TRUE(blocks.move(1, {"far", 2}));
  EXPECT_FALSE(blocks.take_direct(0, key_of(0, 1))) << "had come";
  blocks.came_direct(key_of(1, 1, 1), {0, 6}, some_block());
  EXPECT_FALSE(blocks.take_direct(0, key_of(1, 1))) << "comes late";
  blocks.came_direct(key_of(1, 1, 2), {0, 6}, some_block());
  EXPECT_TRUE(blocks.take_direct(0, key_of(1, 1)));
  EXPECT_FALSE(blocks.move(1, {"there", 1}));
  EXPECT_EQ(blocks.place_of(1), (rank_place{"far", 2}));
}

TEST_F(job_blocks_test, of_two_attempts_the_later_one_is_kept) {
  const auto earlier = some_block();
  const auto later = some_block();
  blocks.came_direct(key_of(0, 1, 3), {0, 6}, later);
  blocks.came_direct(key_of(0, 1, 1), {0, 6}, earlier);
  EXPECT_EQ(blocks.take_direct(0, key_of(0, 1)), later);
  blocks.came_direct(key_of(1, 1, 1), {0, 6}, earlier);
  blocks.came_direct(key_of(1, 1, 3), {0, 6}, later);
  EXPECT_EQ(blocks.take_direct(0, key_of(1, 1)), later);
}

TEST_F(job_blocks_test, strangers_and_strange_targets_leave_nothing_behind) {
  blocks.came_direct(key_of(0, 77), {0, 6}, some_block());
  blocks.came_direct(key_of(0, 1), {6, 99}, some_block());
  blocks.came_direct(key_of(0, 1), {-4, 0}, some_block());
  for (const int rank : {0, 2, 3}) {
    EXPECT_FALSE(blocks.take_direct(rank, key_of(0, 77)));
    EXPECT_FALSE(blocks.take_direct(rank, key_of(0, 1)));
  }
}

TEST_F(job_blocks_test, the_relay_is_asked_once_for_all_and_again_each_second_until_it_answers) {
  EXPECT_TRUE(blocks.miss(2, key_of(0, 1), start));
  EXPECT_FALSE(blocks.miss(3, key_of(0, 1), start));
  EXPECT_FALSE(blocks.miss(2, key_of(0, 1), start + 500ms));
  EXPECT_THAT(blocks.due(start + 999ms), IsEmpty());
  EXPECT_THAT(blocks.due(start + 1s), ElementsAre(key_of(0, 1)));
  EXPECT_THAT(blocks.due(start + 1s), IsEmpty());
  EXPECT_THAT(blocks.due(start + 2s), ElementsAre(key_of(0, 1)));
  blocks.answered(key_of(0, 1), {2, 6}, some_block());
  EXPECT_THAT(blocks.due(start + 9s), IsEmpty());
}

TEST_F(job_blocks_test, a_relayed_block_is_held_until_all_its_targets_here_have_read_it) {
  ASSERT_TRUE(blocks.miss(3, key_of(0, 1), start));
  blocks.answered(key_of(0, 1), {2, 6}, some_block());
  EXPECT_TRUE(blocks.take_relayed(3, key_of(0, 1)));
  EXPECT_TRUE(blocks.take_relayed(2, key_of(0, 1))) << "it did not ask";
  EXPECT_FALSE(blocks.take_relayed(2, key_of(0, 1)));
  // Somebody who begins anew asks anew, and those who have read it are not waited for.
  EXPECT_TRUE(blocks.miss(2, key_of(0, 1), start));
  blocks.answered(key_of(0, 1), {2, 6}, some_block());
  EXPECT_TRUE(blocks.take_relayed(2, key_of(0, 1)));
  EXPECT_TRUE(blocks.miss(0, key_of(0, 1), start)) << "nothing was held for rank 3";
}

TEST_F(job_blocks_test, an_answer_that_nobody_waits_for_is_dropped) {
  blocks.answered(key_of(0, 1), {2, 6}, some_block());
  EXPECT_FALSE(blocks.take_relayed(2, key_of(0, 1)));
  ASSERT_TRUE(blocks.miss(2, key_of(0, 1), start));
  blocks.leave(2);
  EXPECT_THAT(blocks.due(start + 5s), IsEmpty());
  blocks.answered(key_of(0, 1), {2, 6}, some_block());
  EXPECT_FALSE(blocks.take_relayed(3, key_of(0, 1)));
}

TEST_F(job_blocks_test, an_answer_without_targets_is_for_those_who_asked) {
  ASSERT_TRUE(blocks.miss(3, key_of(0, 1), start));
  blocks.answered(key_of(0, 1), {}, some_block());
  EXPECT_TRUE(blocks.take_relayed(3, key_of(0, 1)));
  EXPECT_FALSE(blocks.take_relayed(2, key_of(0, 1)));
}

TEST_F(job_blocks_test, a_rank_that_leaves_is_not_waited_for) {
  ASSERT_TRUE(blocks.miss(2, key_of(0, 1), start));
  blocks.answered(key_of(0, 1), {2, 6}, some_block());
  EXPECT_TRUE(blocks.take_relayed(2, key_of(0, 1)));
  blocks.leave(3);
  blocks.enter(3, bell);
  EXPECT_FALSE(blocks.take_relayed(3, key_of(0, 1))) << "it was dropped";
}

TEST_F(job_blocks_test, what_a_rank_here_gives_away_need_not_be_asked_for) {
  EXPECT_FALSE(blocks.miss(2, key_of(0, 0), start)) << "it will come from rank 0";
  EXPECT_THAT(blocks.due(start + 1s), ElementsAre(key_of(0, 0))) << "but may take long";
  blocks.given_here(key_of(0, 0), {1, 6}, some_block());
  EXPECT_TRUE(blocks.take_relayed(2, key_of(0, 0)));
  EXPECT_TRUE(blocks.take_relayed(3, key_of(0, 0)));
  EXPECT_TRUE(blocks.miss(3, key_of(0, 0), start)) << "it does not come twice";
  EXPECT_FALSE(blocks.take_relayed(0, key_of(0, 0)));
  // A replacement may leave out what the relays have.
  ASSERT_TRUE(blocks.move(0, {"here", 1}));
  EXPECT_TRUE(blocks.miss(2, key_of(1, 0), start));
}

TEST_F(job_blocks_test, what_goes_elsewhere_only_is_not_held) {
  blocks.given_here(key_of(0, 0), {4, 6}, some_block());
  EXPECT_FALSE(blocks.take_relayed(2, key_of(0, 0)));
  EXPECT_THAT(blocks.due(start + 5s), IsEmpty());
}

TEST_F(job_blocks_test, whoever_something_has_come_for_is_woken) {
  const auto rings = [&] {
    const auto in_vain = std::chrono::steady_clock::now() + 1min;
    bell.wait(in_vain);
    return std::chrono::steady_clock::now() < in_vain;
  };
  blocks.came_direct(key_of(0, 1), {2, 3}, some_block());
  EXPECT_TRUE(rings());
  blocks.given_here(key_of(0, 0), {1, 6}, some_block());
  EXPECT_TRUE(rings());
  ASSERT_TRUE(blocks.miss(2, key_of(0, 1), start));
  blocks.answered(key_of(0, 1), {2, 6}, some_block());
  EXPECT_TRUE(rings());
}

}  // namespace
}  // namespace baton
