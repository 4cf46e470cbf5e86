#include "runtime/bench/projection.hpp"

#include <array>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

namespace baton {
namespace {

using ranks = std::vector<std::vector<layer_times>>;

TEST(projection, without_blocks_takes_as_long_as_its_slowest_rank) {
  const ranks alone{{{1, 2, 3}, {1, 2, 4}}, {{2, 2, 2}, {2, 2, 2}}};
  const auto projected = project_cluster(alone, std::array<std::int64_t, 2>{0, 0}, {1e9, 1});
  EXPECT_DOUBLE_EQ(projected.prefill_s, 13);
  EXPECT_EQ(projected.rank_exposed_s, (std::vector<double>{0, 0}));
  EXPECT_DOUBLE_EQ(projected.busy_max_over_mean(), 13 / 12.5);
}

TEST(projection, a_block_that_travels_while_the_reader_attends_to_its_own_costs_nothing) {
  const ranks two{{{1, 3, 1}}, {{1, 3, 1}}};
  const auto projected = project_cluster(two, std::array<std::int64_t, 2>{1'000, 0}, {1'000, 0.5});
  EXPECT_DOUBLE_EQ(projected.prefill_s, 5);  // there after 1 + 1 + 0.5, wanted after 4
  EXPECT_DOUBLE_EQ(projected.rank_exposed_s[1], 0);
}

TEST(projection, a_late_block_is_waited_for_and_later_layers_begin_later) {
  const ranks two{{{3, 0, 1}, {1, 0, 1}}, {{1, 1, 1}, {1, 1, 1}}};
  const auto projected = project_cluster(two, std::array<std::int64_t, 2>{1'000, 0}, {1'000, 0.25});
  // Layer 0: there after 4.25, rank 1 ready after 2: it goes on until 5.25. Layer 1: sent at 5, there at 6.25; ready at 7.25.
  EXPECT_DOUBLE_EQ(projected.rank_exposed_s[1], 2.25);
  EXPECT_DOUBLE_EQ(projected.prefill_s, 8.25);
  EXPECT_DOUBLE_EQ(projected.rank_busy_s[1], 6);
}

TEST(projection, blocks_leave_and_enter_a_rank_one_after_another) {
  const ranks three{{{1, 0, 0}}, {{1, 0, 0}}, {{1, 0, 0}}};
  const auto projected = project_cluster(three, std::array<std::int64_t, 3>{1'000, 1'000, 0}, {1'000, 0});
  // Rank 0 sends to 1 until 2 and to 2 until 3; rank 1 sends to 2 from 1 on, whose port is busy until 3.
  EXPECT_DOUBLE_EQ(projected.rank_exposed_s[1], 1);
  EXPECT_DOUBLE_EQ(projected.rank_exposed_s[2], 3);
}

}  // namespace
}  // namespace baton
