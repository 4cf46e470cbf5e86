#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/simulated_cluster.hpp"

namespace baton {
namespace {

/// Under sanitizers an interleaving takes a hundred times as long, and there are fewer: what they look for is in every one.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int share = 10;
#else
constexpr int share = 1;
#endif

struct totals {
  std::int64_t replays = 0;
  std::int64_t carried = 0;  ///< messages that went through a third node's relay
};

/// Interleavings of a cluster under `options`, from a fresh seed on; what the first broken promise says, or nothing.
std::string first_broken_promise(const simulation_options& options, int count, totals* sum = nullptr) {
  const char* given = std::getenv("BATON_SEED");
  const std::uint64_t first = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::printf("BATON_SEED=%llu\n", static_cast<unsigned long long>(first));
  std::int64_t states = 0;
  int deaths = 0;
  int restarts = 0;
  int replays = 0;
  int taken_up = 0;
  const auto begun = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) {
    simulated_cluster cluster(first + static_cast<std::uint64_t>(i), options);
    try {
      cluster.run();
    } catch (const std::exception& why) {
      return std::string(why.what()) + "; BATON_SEED=" + std::to_string(first + static_cast<std::uint64_t>(i));
    }
    states += cluster.events();
    restarts += cluster.restarts();
    deaths += cluster.deaths();
    replays += cluster.replays();
    if (sum) {
      sum->replays += cluster.replays();
      sum->carried += cluster.carried();
    }
    taken_up += cluster.taken_up();
  }
  std::printf(
      "%d interleavings, %lld states, %d deaths, %d restarts of the coordinator, %d jobs taken up, %d replays in %.1f "
      "s\n",
      count, static_cast<long long>(states), deaths, restarts, taken_up, replays,
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
  // With so few that chance must not have it that no job was under way.
  if (options.restarts_max > 0 && count >= 40 && taken_up == 0)
    return "a coordinator takes up what the one before has begun";
  return {};
}

TEST(interleavings, of_jobs_without_deaths_keep_every_promise) {
  EXPECT_EQ(first_broken_promise({.deaths_max = 0}, 100 / share), "");
}

TEST(interleavings, of_deaths_and_restarts_keep_every_promise) {
  EXPECT_EQ(first_broken_promise({.deaths_max = 2}, 400 / share), "");
  EXPECT_EQ(first_broken_promise({.nodes = 3, .devices = 1, .ranks = 3, .jobs = 1, .deaths_max = 4}, 400 / share), "");
}

TEST(interleavings, of_deaths_and_a_coordinators_restart_keep_every_promise) {
  EXPECT_EQ(first_broken_promise({.deaths_max = 2, .restarts_max = 1}, 600 / share), "");
  EXPECT_EQ(
      first_broken_promise({.devices = 1, .ranks = 3, .jobs = 1, .deaths_max = 2, .restarts_max = 3}, 600 / share), "");
}

/// No worker dies, and so no layer of any rank is computed twice, wherever coordinators die: the cluster itself counts.
TEST(interleavings, of_coordinators_that_die_beside_living_workers_compute_nothing_twice) {
  EXPECT_EQ(first_broken_promise({.deaths_max = 0, .restarts_max = 3}, 600 / share), "");
  EXPECT_EQ(
      first_broken_promise({.devices = 1, .ranks = 3, .jobs = 1, .deaths_max = 0, .restarts_max = 6}, 600 / share), "");
}

TEST(interleavings, of_workers_that_come_too_late_or_wait_too_long_for_a_coordinator_keep_every_promise) {
  EXPECT_EQ(first_broken_promise({.deaths_max = 1, .restarts_max = 2, .impatient = true}, 400 / share), "");
  EXPECT_EQ(first_broken_promise({.deaths_max = 1, .restarts_max = 2, .given_up_max = 2}, 400 / share), "");
}

TEST(interleavings, of_devices_that_fail_in_living_workers_keep_every_promise) {
  // With one device more than may fail, none of them twice.
  EXPECT_EQ(first_broken_promise({.ranks = 4, .deaths_max = 0, .device_faults_max = 2}, 400 / share), "");
  EXPECT_EQ(first_broken_promise({.nodes = 3, .deaths_max = 1, .restarts_max = 1, .device_faults_max = 1}, 400 / share),
            "");
}

TEST(interleavings, of_blocks_that_are_damaged_in_relays_logs_keep_every_promise) {
  EXPECT_EQ(first_broken_promise({.deaths_max = 0, .damages_max = 1}, 400 / share), "");
}

TEST(interleavings, of_blocks_that_are_damaged_beside_deaths_keep_every_promise) {
  EXPECT_EQ(first_broken_promise({.deaths_max = 2, .restarts_max = 1, .damages_max = 3}, 800 / share), "");
  EXPECT_EQ(first_broken_promise({.nodes = 3, .ranks = 5, .jobs = 1, .deaths_max = 4, .damages_max = 3}, 800 / share),
            "");
}

TEST(interleavings, of_a_link_that_is_cut_go_through_a_third_node_and_nobody_computes_again) {
  totals sum;
  EXPECT_EQ(first_broken_promise(
                {.nodes = 3, .devices = 1, .ranks = 3, .jobs = 1, .deaths_max = 0, .cuts_max = 1, .cut_off_s = 0.4},
                300 / share, &sum),
            "");
  EXPECT_EQ(
      first_broken_promise({.nodes = 4, .ranks = 6, .deaths_max = 0, .cuts_max = 2, .cut_off_s = 2}, 200 / share, &sum),
      "");
  EXPECT_EQ(sum.replays, 0) << "a third node reaches both";
  EXPECT_GT(sum.carried, 0);
}

TEST(interleavings, of_links_that_are_cut_beside_deaths_and_restarts_keep_every_promise) {
  totals sum;
  EXPECT_EQ(first_broken_promise({.nodes = 3,
                                  .devices = 1,
                                  .ranks = 3,
                                  .jobs = 1,
                                  .deaths_max = 2,
                                  .restarts_max = 1,
                                  .cuts_max = 3,
                                  .probes_get_lost = true,
                                  .cut_off_s = 0.3},
                                 400 / share, &sum),
            "");
  EXPECT_EQ(first_broken_promise({.nodes = 4,
                                  .ranks = 6,
                                  .deaths_max = 3,
                                  .damages_max = 2,
                                  .cuts_max = 3,
                                  .probes_get_lost = true,
                                  .cut_off_s = 0.3},
                                 300 / share, &sum),
            "");
  EXPECT_GT(sum.carried, 0);
}

/// Three ranks on two nodes, and one schedule of messages: what may fail at which of its instants.
constexpr simulation_options three_ranks{.devices = 1, .ranks = 3, .layers = 2, .jobs = 1};

/// Runs the schedule of `seed` with faults at every instant: one of `first` at each, and each of `second` at every `stride`-th one after.
std::string first_broken_promise_at_any_instant(std::uint64_t seed, const std::vector<int>& first,
                                                const std::vector<int>& second, int stride,
                                                simulation_options options = three_ranks, totals* sum = nullptr) {
  options.faults.emplace();
  std::int64_t runs = 0;
  std::int64_t states = 0;
  std::int64_t replays = 0;
  const auto begun = std::chrono::steady_clock::now();
  std::string promise;
  /// How many events it took; -1: a promise is broken.
  const auto events_with = [&](const std::vector<planned_fault>& faults) -> std::int64_t {
    options.faults = faults;
    simulated_cluster cluster(seed, options);
    try {
      cluster.run();
    } catch (const std::exception& why) {
      promise = std::string(why.what()) + "; seed " + std::to_string(seed);
      for (const auto& f : faults) promise += ", fault " + std::to_string(f.victim) + " at " + std::to_string(f.at);
      return -1;
    }
    ++runs;
    states += cluster.events();
    replays += cluster.replays();
    if (sum) {
      sum->replays += cluster.replays();
      sum->carried += cluster.carried();
    }
    return cluster.events();
  };
  const auto undisturbed = events_with({});
  for (std::int64_t at = 0; at < undisturbed && promise.empty(); ++at) {
    for (const int victim : first) {
      const auto events = events_with({{at, victim}});
      for (std::int64_t later = at + 1 + at % stride; later < events && promise.empty(); later += stride) {
        for (const int other : second) {
          if (events_with({{at, victim}, {later, other}}) < 0) break;
        }
      }
      if (!promise.empty()) break;
    }
  }
  std::printf("%lld interleavings, %lld states, %lld replays in %.1f s\n", static_cast<long long>(runs),
              static_cast<long long>(states), static_cast<long long>(replays),
              std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
  return promise;
}

// Victims of two nodes of one device each: worker, relay (and so its node's worker), and the other node's.
const std::vector<int> anybody{0, 1, 2, 3};
const std::vector<int> coordinator{planned_fault::coordinator_killed, planned_fault::coordinator_superseded};

TEST(interleavings, with_one_fault_at_every_instant_keep_every_promise) {
  for (std::uint64_t seed = 1; seed <= (share == 1 ? 3 : 1); ++seed) {
    EXPECT_EQ(first_broken_promise_at_any_instant(seed, anybody, {}, 1), "");
    EXPECT_EQ(first_broken_promise_at_any_instant(seed, coordinator, {}, 1), "");
  }
}

TEST(interleavings, with_a_death_and_a_restart_at_instants_that_cover_each_other_keep_every_promise) {
  EXPECT_EQ(first_broken_promise_at_any_instant(4, coordinator, anybody, 23 * share), "");
  EXPECT_EQ(first_broken_promise_at_any_instant(4, anybody, coordinator, 23 * share), "");
}

/// A rank on each of three nodes, and the links between them.
constexpr simulation_options three_nodes{
    .nodes = 3, .devices = 1, .ranks = 3, .layers = 2, .jobs = 1, .cut_off_s = 0.4};
const std::vector<int> any_link{planned_fault::link_cut, planned_fault::link_cut - 1, planned_fault::link_cut - 2};

TEST(interleavings, with_a_link_that_is_cut_at_every_instant_cost_no_replay) {
  totals sum;
  for (std::uint64_t seed = 1; seed <= (share == 1 ? 2 : 1); ++seed)
    EXPECT_EQ(first_broken_promise_at_any_instant(seed, any_link, {}, 1, three_nodes, &sum), "");
  EXPECT_EQ(sum.replays, 0);
  EXPECT_GT(sum.carried, 0);
}

TEST(interleavings, with_a_link_that_is_cut_and_a_death_at_instants_that_cover_each_other_keep_every_promise) {
  // Of three nodes of one device each: three workers, and three relays with their workers. So the one in between dies too.
  const std::vector<int> everybody{0, 1, 2, 3, 4, 5};
  totals sum;
  EXPECT_EQ(
      first_broken_promise_at_any_instant(7, {planned_fault::link_cut - 1}, everybody, 83 * share, three_nodes, &sum),
      "");
  EXPECT_EQ(
      first_broken_promise_at_any_instant(7, everybody, {planned_fault::link_cut - 1}, 131 * share, three_nodes, &sum),
      "");
  EXPECT_GT(sum.carried, 0);
}

TEST(interleavings, full_with_two_faults_at_every_two_instants_keep_every_promise) {
  EXPECT_EQ(first_broken_promise_at_any_instant(5, coordinator, anybody, 1), "");
  EXPECT_EQ(first_broken_promise_at_any_instant(5, anybody, coordinator, 1), "");
  EXPECT_EQ(first_broken_promise_at_any_instant(5, anybody, anybody, 3), "");
}

TEST(interleavings, full_of_links_that_are_cut_beside_deaths_and_restarts_keep_every_promise) {
  EXPECT_EQ(first_broken_promise({.nodes = 3,
                                  .devices = 1,
                                  .ranks = 3,
                                  .jobs = 1,
                                  .deaths_max = 2,
                                  .restarts_max = 1,
                                  .cuts_max = 3,
                                  .probes_get_lost = true,
                                  .cut_off_s = 0.3},
                                 50'000),
            "");
  EXPECT_EQ(first_broken_promise(
                {.nodes = 4, .ranks = 6, .deaths_max = 3, .damages_max = 2, .cuts_max = 3, .cut_off_s = 0.5}, 20'000),
            "");
}

TEST(interleavings, full_of_many_deaths_and_restarts_keep_every_promise) {
  EXPECT_EQ(first_broken_promise({.deaths_max = 2, .restarts_max = 1}, 100'000), "");
  EXPECT_EQ(first_broken_promise({.devices = 1, .ranks = 3, .jobs = 1, .deaths_max = 2, .restarts_max = 1}, 100'000),
            "");
}

TEST(interleavings, full_of_blocks_that_are_damaged_beside_deaths_keep_every_promise) {
  EXPECT_EQ(first_broken_promise({.deaths_max = 2, .restarts_max = 1, .damages_max = 1}, 50'000), "");
  EXPECT_EQ(first_broken_promise({.nodes = 3, .ranks = 5, .jobs = 1, .deaths_max = 4, .damages_max = 3}, 50'000), "");
}

struct planted : testing::TestWithParam<planted_bug> {};

TEST_P(planted, bug_is_found) {
  const auto promise = first_broken_promise({.deaths_max = 3, .restarts_max = 1, .bug = GetParam()}, 40'000);
  EXPECT_NE(promise, "");
  std::printf("found: %s\n", promise.c_str());
}

INSTANTIATE_TEST_SUITE_P(
    all, planted,
    testing::Values(planted_bug::attempts_not_fenced, planted_bug::holders_ignored, planted_bug::places_not_told,
                    planted_bug::nothing_forwarded, planted_bug::tokens_forgotten, planted_bug::askings_not_numbered,
                    planted_bug::not_gathered_again, planted_bug::told_before_kept, planted_bug::no_generations,
                    planted_bug::journal_not_fenced, planted_bug::attempts_not_kept, planted_bug::askings_forgotten,
                    planted_bug::places_not_told_again),
    [](const auto& param_info) { return "number_" + std::to_string(static_cast<int>(param_info.param)); });

}  // namespace
}  // namespace baton
