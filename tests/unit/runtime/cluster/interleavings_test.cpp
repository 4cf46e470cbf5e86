#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/simulated_cluster.hpp"

namespace baton {
namespace {

/// Interleavings of a cluster under `options`, from a fresh seed on; what the first broken promise says, or nothing.
std::string first_broken_promise(const simulation_options& options, int count) {
  const char* given = std::getenv("BATON_SEED");
  const std::uint64_t first = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::printf("BATON_SEED=%llu\n", static_cast<unsigned long long>(first));
  std::int64_t steps = 0;
  int deaths = 0;
  int replays = 0;
  const auto begun = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) {
    simulated_cluster cluster(first + static_cast<std::uint64_t>(i), options);
    try {
      cluster.run();
    } catch (const std::exception& why) {
      return std::string(why.what()) + "; BATON_SEED=" + std::to_string(first + static_cast<std::uint64_t>(i));
    }
    steps += cluster.steps();
    deaths += cluster.deaths();
    replays += cluster.replays();
  }
  std::printf("%d interleavings, %lld steps, %d deaths, %d replays in %.1f s\n", count, static_cast<long long>(steps),
              deaths, replays, std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
  return {};
}

TEST(interleavings, of_jobs_without_deaths_keep_every_promise) {
  EXPECT_EQ(first_broken_promise({.deaths_max = 0}, 100), "");
}

TEST(interleavings, of_deaths_and_restarts_keep_every_promise) {
  EXPECT_EQ(first_broken_promise({.deaths_max = 2}, 400), "");
  EXPECT_EQ(first_broken_promise({.nodes = 3, .devices = 1, .ranks = 3, .jobs = 1, .deaths_max = 4}, 400), "");
}

struct planted : testing::TestWithParam<planted_bug> {};

TEST_P(planted, bug_is_found) {
  const auto promise = first_broken_promise({.deaths_max = 3, .bug = GetParam()}, 2000);
  EXPECT_NE(promise, "");
  std::printf("found: %s\n", promise.c_str());
}

INSTANTIATE_TEST_SUITE_P(all, planted,
                         testing::Values(planted_bug::attempts_not_fenced, planted_bug::holders_ignored,
                                         planted_bug::places_not_told, planted_bug::nothing_forwarded,
                                         planted_bug::tokens_forgotten, planted_bug::askings_not_numbered),
                         [](const auto& param_info) {
                           return "number_" + std::to_string(static_cast<int>(param_info.param));
                         });

}  // namespace
}  // namespace baton
