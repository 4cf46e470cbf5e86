#include "runtime/observe/cluster_text.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/observe/format.hpp"

namespace baton {
namespace {

using nlohmann::json;
using testing::HasSubstr;

cluster_status busy_cluster() {
  cluster_status all{.epoch = 5, .generation = 2, .coordinator_pid = 100, .layers = 4, .nodes = {}, .jobs = {}};
  all.nodes.push_back({"west",
                       peer_state::busy,
                       101,
                       3 << 20,
                       1 << 30,
                       {{"cpu0", peer_state::busy, 102, 7, 2}, {"cpu1", peer_state::idle, 103, 0, -1}}});
  all.nodes.push_back({"east", peer_state::down, 0, 0, 0, {{"cpu0", peer_state::down, 0, 0, -1}}});
  job_status running{.id = 7,
                     .state = job_state::prefilling,
                     .strategy = "apb",
                     .document_tokens = 32768,
                     .ranks = {},
                     .replays = {{1, "device east/cpu0: the worker is gone (killed)", 2, 1.5, 12, true}}};
  running.ranks.push_back({0, "west", "cpu0", 0, 3, rank_state::done, -1});
  running.ranks.push_back({1, "west", "cpu0", 1, 2, rank_state::computing, -1});
  running.ranks.push_back({2, "west", "cpu0", 0, 2, rank_state::waiting, 1});
  all.jobs.push_back(running);
  all.jobs.push_back(
      {.id = 8, .state = job_state::queued, .strategy = "full", .document_tokens = 100, .ranks = {}, .replays = {}});
  return all;
}

TEST(cluster_text, json_has_the_shape_that_programs_are_promised) {
  const auto expected = json::parse(R"json({
    "epoch": 5, "generation": 2, "coordinator": {"pid": 100},
    "nodes": [
      {"name": "west", "state": "busy", "pid": 101, "relay_log_bytes": 3145728, "devices": [
        {"name": "cpu0", "state": "busy", "worker_pid": 102, "job": 7, "layer": 2},
        {"name": "cpu1", "state": "idle", "worker_pid": 103, "job": null, "layer": null}]},
      {"name": "east", "state": "down", "pid": null, "relay_log_bytes": 0, "devices": [
        {"name": "cpu0", "state": "down", "worker_pid": null, "job": null, "layer": null}]}],
    "jobs": [
      {"id": 7, "state": "prefilling", "strategy": "apb", "ranks": [
        {"rank": 0, "node": "west", "device": "cpu0", "attempt": 0, "layer": 3, "state": "done"},
        {"rank": 1, "node": "west", "device": "cpu0", "attempt": 1, "layer": 2, "state": "computing"},
        {"rank": 2, "node": "west", "device": "cpu0", "attempt": 0, "layer": 2, "state": "waiting"}],
       "replays": [{"rank": 1, "cause": "device east/cpu0: the worker is gone (killed)", "layers": 2, "seconds": 1.5,
                    "detect_ms": 12, "replayed_on_other_class": true}]},
      {"id": 8, "state": "queued", "strategy": "full", "ranks": [], "replays": []}]})json");
  EXPECT_EQ(to_json(busy_cluster()), expected) << to_json(busy_cluster()).dump(2);
}

TEST(cluster_text, a_screen_shows_who_waits_for_whom) {
  std::string screen;
  for (const auto& line : cluster_screen(busy_cluster(), 80, 24)) screen += line + '\n';
  EXPECT_EQ(screen, R"(baton   generation 2   epoch 5   1 running, 1 waiting

DEVICE               STATE       PID     JOB  LAYER
west                 busy        101  log 3.0 MiB/1.0 GiB
west/cpu0            busy        102       7      3
west/cpu1            idle        103       -      -
east                 down          -
east/cpu0            down          -       -      -

   JOB STATE      STRATEGY RANKS     TOKENS
     7 prefilling apb          3     32,768 1 replayed
       0 west/cpu0 done                      1 west/cpu0 layer 3/4 (attempt 2)
       2 west/cpu0 3/4 waits 1
     8 queued     full         -        100
)");
}

TEST(cluster_text, a_screen_is_never_wider_or_higher_than_it_may_be) {
  auto large = busy_cluster();
  for (int rank = 3; rank < 200; ++rank)
    large.jobs[0].ranks.push_back({rank, "a-node-with-a-long-name", "cpu0", 0, 0, rank_state::waiting, rank - 1});
  for (const int columns : {20, 40, 80, 200}) {
    for (const int rows : {2, 10, 24, 500}) {
      const auto lines = cluster_screen(large, columns, rows);
      EXPECT_LE(lines.size(), static_cast<std::size_t>(rows));
      for (const auto& line : lines) EXPECT_LE(display_columns(line), columns) << line;
    }
  }
  EXPECT_THAT(cluster_screen(large, 80, 10).back(), HasSubstr("more lines"));
}

TEST(cluster_text, lists_jobs_for_people_and_programs) {
  const jobs_list list{{{9, job_state::failed, "apb", 8, 32768, true, "rank 1: lost"},
                        {8, job_state::finished, "full", 1, 100, false, ""}}};
  EXPECT_EQ(describe(list), R"(   JOB STATE      STRATEGY RANKS     TOKENS
     9 failed     apb          8     32,768 detached rank 1: lost
     8 finished   full         1        100
)");
  EXPECT_EQ(to_json(list).at(1).at("why"), nullptr);
  EXPECT_EQ(to_json(list).at(0).at("why"), "rank 1: lost");
}

}  // namespace
}  // namespace baton
