#include "runtime/relay/path_probe.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace baton {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;
using path = paths_probed::path;

const path_probe::time start{};

std::vector<path> ways_of(const std::vector<path_probe::attempt>& attempts) {
  std::vector<path> ways;
  for (const auto& a : attempts) ways.push_back(a.way);
  return ways;
}

TEST(path_probe, tries_each_way_until_it_is_answered_on_or_the_time_is_over) {
  path_probe probe;
  probe.begin({1, 1, {"b", "c"}, {"b", "c", "d"}, 1000}, start);
  EXPECT_THAT(ways_of(probe.due(start)), UnorderedElementsAre(path{"b", ""}, path{"b", "c"}, path{"b", "d"},
                                                              path{"c", ""}, path{"c", "b"}, path{"c", "d"}));
  EXPECT_THAT(probe.due(start + 299ms), IsEmpty());
  probe.answered(1, 1, {"b", ""});
  probe.answered(1, 1, {"c", "d"});
  probe.answered(1, 1, {"c", "nobody"});
  probe.answered(1, 2, {"c", ""});
  EXPECT_THAT(ways_of(probe.due(start + 300ms)),
              UnorderedElementsAre(path{"b", "c"}, path{"b", "d"}, path{"c", ""}, path{"c", "b"}));
  EXPECT_THAT(probe.take_results(start + 999ms), IsEmpty());
  EXPECT_THAT(probe.take_results(start + 1000ms), ElementsAre(paths_probed{1, 1, {{"b", ""}, {"c", "d"}}}));
  EXPECT_THAT(probe.take_results(start + 1000ms), IsEmpty());
  EXPECT_THAT(probe.due(start + 2s), IsEmpty());
}

TEST(path_probe, is_done_as_soon_as_all_ways_have_been_answered_on) {
  path_probe probe;
  probe.begin({1, 1, {"b"}, {}, 60'000}, start);
  probe.answered(1, 1, {"b", ""});
  EXPECT_THAT(probe.take_results(start), ElementsAre(paths_probed{1, 1, {{"b", ""}}}));
}

TEST(path_probe, a_later_round_takes_the_place_of_an_earlier_one_and_never_the_other_way) {
  path_probe probe;
  probe.begin({1, 2, {"b"}, {}, 1000}, start);
  probe.begin({1, 1, {"c"}, {}, 1000}, start);
  EXPECT_THAT(ways_of(probe.due(start)), ElementsAre(path{"b", ""}));
  probe.begin({1, 3, {"c"}, {}, 1000}, start);
  EXPECT_THAT(ways_of(probe.due(start)), ElementsAre(path{"c", ""}));
  probe.answered(1, 2, {"c", ""});
  EXPECT_THAT(probe.take_results(start + 1s), ElementsAre(paths_probed{1, 3, {}}));
}

TEST(path_probe, a_job_that_is_gone_is_not_asked_about) {
  path_probe probe;
  probe.begin({1, 1, {"b"}, {}, 1000}, start);
  probe.forget_job(1);
  EXPECT_THAT(probe.due(start), IsEmpty());
  EXPECT_THAT(probe.take_results(start + 10s), IsEmpty());
}

}  // namespace
}  // namespace baton
