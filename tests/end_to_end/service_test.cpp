#include <algorithm>
#include <chrono>
#include <csignal>
#include <functional>
#include <optional>
#include <stdexcept>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/end_to_end/baton_process.hpp"
#include "tests/end_to_end/rehearsed_faults.hpp"
#include "tests/end_to_end/samples.hpp"
#include "tests/end_to_end/service_cluster.hpp"
#include "tests/support/small_disk.hpp"

namespace baton {
namespace {

using nlohmann::json;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

struct service : testing::Test {
  const sample small = samples_of("archive-2k").at(1);
  const std::vector<std::string> small_job{"--document", small.document, "--question", small.question};
  /// Busy for some seconds.
  const sample large = samples_of("archive-32k").at(0);
  const std::string large_text = text_of(large.document).substr(0, 60'000);
  /// Busy for longer than anybody waits here.
  const std::string long_text = text_of(large.document) + text_of(large.document) + text_of(large.document);
  const std::vector<std::string> large_job{"--document", "-", "--question", large.question};

  static std::vector<std::string> with(std::vector<std::string> arguments, const std::vector<std::string>& more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  /// What a client has of a job that it has followed from its submission on.
  struct outcome {
    std::string out;
    std::string dump;
    json result;
  };
  std::vector<std::string> more;  ///< options of those jobs

  /// `harm` is called while the job waits or runs.
  [[nodiscard]] outcome outcome_of(service_cluster& cluster, const std::function<void()>& harm) const {
    const auto dump = (cluster.folder() / "dump.safetensors").string();
    const auto out = (cluster.folder() / "out.json").string();
    auto words = with(large_job, {"--dump", dump, "--json", out, "--quiet"});
    const auto client = cluster.begin("submit", with(words, more), large_text);
    harm();
    const auto ended = client->wait();
    EXPECT_EQ(ended.exit_code, 0) << ended.err;
    if (ended.exit_code != 0) return {};
    return {ended.out, text_of(dump), json_of(out)};
  }
  /// Chunks of each layer, by all attempts of the rank.
  static std::vector<std::int64_t> computed_by(const outcome& of, std::size_t rank) {
    return of.result.at("ranks").at(rank).at("computed");
  }
  static void expect_the_same_and_nothing_twice(const outcome& is, const outcome& expected) {
    EXPECT_EQ(is.out, expected.out);
    EXPECT_TRUE(is.dump == expected.dump) << "logits or chosen units differ";
    ASSERT_TRUE(is.result.is_object());
    EXPECT_EQ(is.result.at("answer_ids"), expected.result.at("answer_ids"));
    EXPECT_TRUE(is.result.at("replays").empty());
    for (std::size_t rank = 0; rank < expected.result.at("ranks").size(); ++rank) {
      EXPECT_FALSE(computed_by(expected, rank).empty());
      EXPECT_EQ(computed_by(is, rank), computed_by(expected, rank)) << "rank " << rank;
    }
  }
  static std::set<std::string> keys_of(const json& object) {
    std::set<std::string> keys;
    for (const auto& [key, value] : object.items()) keys.insert(key);
    return keys;
  }
};

TEST_F(service, a_job_over_coordinator_and_two_nodes_gives_the_bits_of_one_process) {
  service_cluster cluster;
  cluster.start_all();
  const auto dump = (cluster.folder() / "service.safetensors").string();
  const auto out = (cluster.folder() / "service.json").string();
  const auto submitted = cluster.ask("submit", with(small_job, {"--dump", dump, "--json", out}));
  ASSERT_EQ(submitted.exit_code, 0) << submitted.err;
  EXPECT_THAT(submitted.err, HasSubstr("prefill 100 %"));
  EXPECT_THAT(submitted.out, ContainsRegex("rank +tokens +compute"));
  EXPECT_THAT(submitted.out, HasSubstr("east/cpu0"));

  const auto expected_dump = (cluster.folder() / "run.safetensors").string();
  const auto expected_out = (cluster.folder() / "run.json").string();
  const auto run = run_baton(with(
      {"run", "--config", quickstart, "--ranks", "4", "--dump", expected_dump, "--json", expected_out}, small_job));
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(text_of(dump) == text_of(expected_dump)) << "logits or chosen units differ";
  EXPECT_EQ(json_of(out).at("answer_ids"), json_of(expected_out).at("answer_ids"));
  EXPECT_EQ(json_of(out).at("job"), 1);
  EXPECT_TRUE(json_of(out).at("replays").empty());
}

TEST_F(service, status_has_its_shape) {
  service_cluster cluster;
  cluster.start_all();
  const auto job = cluster.detach(large_job, long_text);
  ASSERT_TRUE(cluster.wait_for_state(job, "prefilling"));
  const auto status = cluster.status();
  EXPECT_EQ(keys_of(status), (std::set<std::string>{"epoch", "generation", "coordinator", "nodes", "jobs"}));
  EXPECT_EQ(status.at("coordinator").at("pid"), cluster.coordinator().pid());
  EXPECT_EQ(status.at("generation"), 1);
  EXPECT_GE(status.at("epoch"), 4);
  ASSERT_EQ(status.at("nodes").size(), 2u);
  const auto& node = status.at("nodes").at(0);
  EXPECT_EQ(keys_of(node), (std::set<std::string>{"name", "state", "pid", "relay_log_bytes", "devices"}));
  EXPECT_EQ(keys_of(node.at("devices").at(0)), (std::set<std::string>{"name", "state", "worker_pid", "job", "layer"}));
  const auto& one = status.at("jobs").at(0);
  EXPECT_EQ(keys_of(one), (std::set<std::string>{"id", "state", "strategy", "ranks", "replays"}));
  ASSERT_EQ(one.at("ranks").size(), 4u);
  EXPECT_EQ(keys_of(one.at("ranks").at(0)),
            (std::set<std::string>{"rank", "node", "device", "attempt", "layer", "state"}));
  const auto top = cluster.ask("top");
  EXPECT_EQ(top.exit_code, 0) << top.err;
  EXPECT_THAT(top.out, HasSubstr("east/cpu0"));
  EXPECT_THAT(cluster.ask("status").out, HasSubstr("prefilling"));
  // It takes effect within a chunk: the device is free again.
  EXPECT_EQ(cluster.ask("cancel", {job}).out, "job " + job + " is cancelled\n");
  const auto next = cluster.ask("submit", with(small_job, {"--quiet"}));
  EXPECT_EQ(next.exit_code, 0) << next.err;
  EXPECT_EQ(cluster.state_of(job), "cancelled");
  EXPECT_EQ(cluster.ask("cancel", {"77"}).exit_code, 2);
}

TEST_F(service, a_detached_job_goes_on_alone_and_whoever_waits_gets_its_result) {
  service_cluster cluster;
  cluster.start_all();
  const auto job = cluster.detach(with(small_job, {"--request-id", "mine"}));
  EXPECT_EQ(job, "1");
  EXPECT_EQ(cluster.detach(with(small_job, {"--request-id", "mine"})), job) << "the same request is the same job";
  const auto out = (cluster.folder() / "wait.json").string();
  for (int i = 0; i < 2; ++i) {
    const auto waited = cluster.ask("wait", {job, "--json", out, "--quiet"});
    ASSERT_EQ(waited.exit_code, 0) << waited.err;
    EXPECT_THAT(waited.out, HasSubstr(json_of(out).at("answer").get<std::string>()));
    EXPECT_EQ(json_of(out).at("ranks").size(), 4u);
  }
  const auto other = cluster.ask("submit", with(small_job, {"--json", out, "--quiet"}));
  ASSERT_EQ(other.exit_code, 0) << other.err;
  EXPECT_EQ(other.out, cluster.ask("wait", {job, "--quiet"}).out);
}

TEST_F(service, a_full_queue_is_said_and_jobs_run_beside_each_other) {
  service_cluster cluster("queue: 1, jobs: 2");
  cluster.start_all();
  std::vector<std::string> jobs;
  for (int i = 0; i < 3; ++i) jobs.push_back(cluster.detach(with(large_job, {"--ranks", "1"}), long_text));
  std::vector<std::string> devices;
  EXPECT_TRUE(cluster.wait_until([&](const json& status) {
    devices.clear();
    for (const auto& job : status.at("jobs")) {
      if (job.at("state") == "prefilling") devices.push_back(job.at("ranks").at(0).at("node").get<std::string>());
    }
    return devices.size() == 2;
  }));
  EXPECT_THAT(devices, UnorderedElementsAre("west", "east")) << "each has a device of its own";
  const auto refused = cluster.ask("submit", with(large_job, {"--ranks", "1"}), large_text);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("queue full: 1 jobs wait, limit 1"));
  for (const auto& job : jobs) EXPECT_EQ(cluster.ask("cancel", {job}).exit_code, 0);
  EXPECT_EQ(cluster.ask("submit", with(small_job, {"--quiet"})).exit_code, 0);
}

TEST_F(service, an_interrupted_client_cancels_its_job_and_one_that_is_killed_or_stopped_loses_it) {
  service_cluster cluster({}, "timeouts: {silence: 20s, client: 2s}");
  cluster.start_all();
  const auto interrupted = cluster.begin("submit", large_job, long_text);
  ASSERT_TRUE(cluster.wait_for_state("1", "prefilling"));
  interrupted->send_signal(SIGINT);
  const auto result = interrupted->wait();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("baton: stopped"));
  EXPECT_TRUE(cluster.wait_for_state("1", "cancelled"));
  const auto killed = cluster.begin("submit", large_job, long_text);
  ASSERT_TRUE(cluster.wait_for_state("2", "prefilling"));
  killed->send_signal(SIGKILL);
  killed->wait();
  EXPECT_TRUE(cluster.wait_for_state("2", "cancelled"));
  const auto stopped = cluster.begin("submit", large_job, long_text);
  ASSERT_TRUE(cluster.wait_for_state("3", "prefilling"));
  stopped->send_signal(SIGSTOP);
  EXPECT_TRUE(cluster.wait_for_state("3", "cancelled"));
  EXPECT_THAT(cluster.coordinator().err_so_far(), HasSubstr("is dropped: silent for 2 s"));
}

TEST_F(service, a_coordinator_that_is_killed_takes_up_its_jobs_again) {
  service_cluster cluster("jobs: 1");
  cluster.start_all();
  const auto running = cluster.detach(large_job, large_text);
  const auto waiting = cluster.detach(small_job);
  const auto attached = cluster.begin("submit", with(small_job, {"--quiet"}));
  ASSERT_TRUE(cluster.wait_for_state("3", "queued"));
  ASSERT_TRUE(cluster.wait_for_state(running, "prefilling"));
  cluster.kill_coordinator();
  cluster.start_coordinator();
  const auto out = (cluster.folder() / "wait.json").string();
  const auto waited = cluster.ask("wait", {running, "--json", out});
  ASSERT_EQ(waited.exit_code, 0) << waited.err;
  EXPECT_TRUE(json_of(out).at("replays").empty());
  const auto small_answer = cluster.ask("wait", {waiting, "--quiet"});
  EXPECT_EQ(small_answer.exit_code, 0) << small_answer.err;
  const auto result = attached->wait();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, small_answer.out);
  EXPECT_EQ(cluster.status().at("generation"), 2);
}

TEST_F(service,
       a_coordinator_that_is_killed_in_the_prefill_is_followed_by_one_that_takes_it_up_and_nothing_is_computed_twice) {
  service_cluster cluster;
  cluster.start_all();
  const auto undisturbed = outcome_of(cluster, [] {});
  const std::vector<int> workers{cluster.worker_of("west"), cluster.worker_of("east")};
  int layer_before = -1;
  const auto resumed = outcome_of(cluster, [&] {
    ASSERT_TRUE(cluster.wait_until([&](const json& status) {
      const auto& job = status.at("jobs").at(0);
      if (job.at("state") != "prefilling") return false;
      for (const auto& rank : job.at("ranks")) layer_before = std::max(layer_before, rank.at("layer").get<int>());
      return layer_before > 0;
    }));
    cluster.kill_coordinator();
    // Workers compute, and relays pass on, without one.
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    cluster.start_coordinator();
  });
  ASSERT_GT(layer_before, 0);
  EXPECT_THAT(cluster.coordinator_said(), HasSubstr("job 2 goes on: all its ranks are held"));
  expect_the_same_and_nothing_twice(resumed, undisturbed);
  EXPECT_EQ((std::vector<int>{cluster.worker_of("west"), cluster.worker_of("east")}), workers);
  EXPECT_EQ(cluster.status().at("generation"), 2);
}

TEST_F(service,
       a_coordinator_that_is_killed_in_the_answer_is_followed_by_one_that_takes_it_up_and_nothing_is_computed_twice) {
  service_cluster cluster;
  cluster.start_all();
  more = {"--max-new-tokens", "300", "--temperature", "100", "--seed", "7"};  // never at its end early
  const auto undisturbed = outcome_of(cluster, [] {});
  ASSERT_EQ(undisturbed.result.at("answer_ids").size(), 300u) << "long enough to be interrupted";
  const auto resumed = outcome_of(cluster, [&] {
    ASSERT_TRUE(cluster.wait_for_state("2", "answering"));
    cluster.kill_coordinator();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    cluster.start_coordinator();
  });
  EXPECT_THAT(cluster.coordinator_said(), HasSubstr("job 2 goes on: all its ranks are held"));
  expect_the_same_and_nothing_twice(resumed, undisturbed);
}

TEST_F(service, a_worker_that_dies_while_there_is_no_coordinator_is_replayed_alone_by_the_next_one) {
  service_cluster cluster;
  cluster.start_all();
  const auto undisturbed = outcome_of(cluster, [] {});
  const auto resumed = outcome_of(cluster, [&] {
    ASSERT_TRUE(cluster.wait_for_state("2", "prefilling"));
    const int victim = cluster.worker_of("east");
    cluster.kill_coordinator();
    kill(victim, SIGKILL);
    cluster.start_coordinator();
  });
  EXPECT_THAT(cluster.coordinator_said(), HasSubstr("job 2 goes on: 2 of its 4 ranks are held"));
  EXPECT_EQ(resumed.out, undisturbed.out);
  EXPECT_TRUE(resumed.dump == undisturbed.dump) << "logits or chosen units differ";
  ASSERT_EQ(resumed.result.at("replays").size(), 2u);
  for (std::size_t rank = 0; rank < 4; ++rank) {
    const bool lost = std::ranges::any_of(resumed.result.at("replays"),
                                          [&](const json& replay) { return replay.at("rank") == rank; });
    if (lost) continue;
    EXPECT_EQ(computed_by(resumed, rank), computed_by(undisturbed, rank)) << "rank " << rank;
  }
}

TEST_F(service, what_no_coordinator_takes_up_in_time_is_let_go_and_begins_anew) {
  service_cluster cluster({}, "recovery: {keep: 100ms}");
  cluster.start_all();
  const auto undisturbed = outcome_of(cluster, [] {});
  const auto anew = outcome_of(cluster, [&] {
    ASSERT_TRUE(cluster.wait_for_state("2", "prefilling"));
    cluster.kill_coordinator();
    for (const auto* node : {"west", "east"}) {
      for (int i = 0; i < 6000 && cluster.node_said(node).find("what was held for one is gone") == std::string::npos;
           ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      EXPECT_THAT(cluster.node_said(node), HasSubstr("what was held for one is gone"));
    }
    cluster.start_coordinator();
  });
  EXPECT_THAT(cluster.coordinator_said(), HasSubstr("job 2 begins anew: nobody holds any of its ranks"));
  expect_the_same_and_nothing_twice(anew, undisturbed);  // by workers that have forgotten what was before
}

TEST_F(service, a_killed_worker_is_started_again_and_its_ranks_are_replayed) {
  service_cluster cluster;
  cluster.start_all();
  const auto out = (cluster.folder() / "out.json").string();
  const auto client = cluster.begin("submit", with(large_job, {"--json", out, "--quiet"}), large_text);
  ASSERT_TRUE(cluster.wait_for_state("1", "prefilling"));
  const int before = cluster.worker_of("east");
  ASSERT_GT(before, 0);
  kill(before, SIGKILL);
  const auto result = client->wait();
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(json_of(out).at("replays").size(), 2u);
  EXPECT_TRUE(cluster.wait_until([&](const json& status) {
    const auto& device = status.at("nodes").at(1).at("devices").at(0);
    return device.at("state") == "idle" && device.at("worker_pid") != before;
  }));
  const auto undisturbed = cluster.ask("submit", with(large_job, {"--quiet"}), large_text);
  EXPECT_EQ(undisturbed.out, result.out);
}

TEST_F(service, a_node_that_is_killed_and_started_again_takes_part_again) {
  service_cluster cluster;
  cluster.start_all();
  cluster.kill_node("east");
  EXPECT_TRUE(cluster.wait_until([](const json& status) { return status.at("nodes").at(1).at("state") == "down"; }));
  const auto alone = cluster.ask("submit", with(small_job, {"--quiet"}));
  EXPECT_EQ(alone.exit_code, 0) << alone.err;
  cluster.start_node("east");
  EXPECT_TRUE(cluster.wait_until(
      [](const json& status) { return status.at("nodes").at(1).at("devices").at(0).at("state") == "idle"; }));
  const auto together = cluster.ask("submit", small_job);
  EXPECT_EQ(together.exit_code, 0) << together.err;
  EXPECT_THAT(together.out, HasSubstr("east/cpu0"));
}

TEST_F(service, a_worker_whose_agent_dies_while_it_starts_ends_as_well) {
  service_cluster cluster;
  cluster.start_coordinator();
  cluster.start_node("east");
  int worker = -1;
  int agent = -1;
  ASSERT_TRUE(wait_for([&] {
    for (const auto& process : cluster.processes_of("east")) {
      if (!process.arguments.empty()) (process.arguments[0] == "worker" ? worker : agent) = process.pid;
    }
    return worker > 0 && agent > 0;
  }));
  // Before it has looked for its agent, as a rule.
  kill(worker, SIGSTOP);
  ASSERT_TRUE(wait_for([&] { return state_of(worker) == 'T'; }));
  kill(agent, SIGKILL);
  ASSERT_TRUE(wait_for([&] { return is_gone(agent); }));
  kill(worker, SIGCONT);
  EXPECT_TRUE(wait_for([&] { return is_gone(worker); }, 20)) << "it would fight with its successor for the device";
}

TEST_F(service, a_coordinator_that_is_stopped_goes_on_and_one_that_is_killed_then_is_followed_by_the_next) {
  service_cluster cluster({}, "timeouts: {silence: 1200ms, client: 30s}");
  cluster.start_all();
  const auto first = cluster.begin("submit", with(large_job, {"--quiet"}), large_text);
  ASSERT_TRUE(cluster.wait_for_state("1", "prefilling"));
  kill(cluster.coordinator().pid(), SIGSTOP);
  std::this_thread::sleep_for(std::chrono::milliseconds(2500));
  const auto second = cluster.ask("coordinator");
  EXPECT_THAT(second.err, HasSubstr("another coordinator has this journal")) << "stopped is not gone";
  kill(cluster.coordinator().pid(), SIGCONT);
  const auto result = first->wait();
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto again = cluster.begin("submit", with(large_job, {"--quiet"}), large_text);
  ASSERT_TRUE(cluster.wait_for_state("2", "prefilling"));
  kill(cluster.coordinator().pid(), SIGSTOP);
  cluster.kill_coordinator();
  cluster.start_coordinator();
  const auto same = again->wait();
  EXPECT_EQ(same.exit_code, 0) << same.err;
  EXPECT_EQ(same.out, result.out);
}

TEST_F(service, a_full_disk_under_the_journal_refuses_what_is_new_and_forgets_nothing) {
  service_cluster cluster;
  std::optional<small_disk> disk;
  try {
    disk.emplace(cluster.folder() / "journal", "4m");
  } catch (const std::runtime_error& why) {
    GTEST_SKIP() << "NOT TESTED HERE: " << why.what();
  }
  cluster.start_all();
  const auto running = cluster.begin("submit", with(large_job, {"--quiet"}), large_text);
  ASSERT_TRUE(cluster.wait_for_state("1", "prefilling"));
  disk->fill();
  const auto refused = cluster.ask("submit", with(small_job, {"--quiet"}));
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("the job cannot be kept, and so is not taken"));
  EXPECT_THAT(refused.err, HasSubstr("No space left on device"));
  const auto result = running->wait();
  ASSERT_EQ(result.exit_code, 0) << result.err;
  disk->make_room();
  EXPECT_EQ(cluster.ask("submit", with(small_job, {"--quiet"})).exit_code, 0);
  cluster.kill_coordinator();
  cluster.start_coordinator();
  EXPECT_EQ(cluster.state_of("1"), "finished");
  EXPECT_EQ(cluster.ask("wait", {"1", "--quiet"}).out, result.out);
}

TEST_F(service, one_journal_has_one_coordinator) {
  service_cluster cluster;
  cluster.start_coordinator();
  const auto second = cluster.ask("coordinator");
  EXPECT_EQ(second.exit_code, 2);
  EXPECT_THAT(second.err, HasSubstr("another coordinator has this journal (process " +
                                    std::to_string(cluster.coordinator().pid())));
}

TEST(service_without_a_cluster, whoever_asks_is_told_so) {
  const service_cluster cluster;
  const auto result = cluster.ask("status");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("no coordinator let this process in within"));
}

TEST(service_configuration, that_is_not_enough_is_refused_with_the_key) {
  std::filesystem::current_path(source);
  const auto result = run_baton({"coordinator", "--config", "configs/processes.yaml"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("memory of device west/cpu0"));
}

}  // namespace
}  // namespace baton
