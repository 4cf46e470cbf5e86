#include <algorithm>
#include <chrono>
#include <csignal>
#include <functional>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/end_to_end/baton_process.hpp"
#include "tests/end_to_end/many_processes.hpp"
#include "tests/end_to_end/samples.hpp"
#include "tests/support/reference_weights.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using nlohmann::json;
using testing::ContainsRegex;
using testing::HasSubstr;

// ---- the same bits ----

struct same_bits {
  std::string title;
  std::vector<std::string> options;
};
void PrintTo(const same_bits& p, std::ostream* out) { *out << p.title; }

class one_process_and_many : public testing::TestWithParam<same_bits> {};

TEST_P(one_process_and_many, give_the_same_logits_units_and_answer_to_the_bit) {
  std::filesystem::current_path(source);
  const temporary_directory folder;
  const auto s = samples_of("archive-2k").at(1);
  std::vector<std::string> dumps;
  std::vector<json> results;
  // Over the default transport, and over UCX.
  for (const auto& config :
       {std::string(quickstart), std::string(many_processes), config_with(folder.path(), "links: {transport: ucx}")}) {
    const auto dump = (folder.path() / "dump.safetensors").string();
    const auto out = (folder.path() / "out.json").string();
    std::vector<std::string> arguments{"run",      "--config", config, "--document", s.document, "--question",
                                       s.question, "--dump",   dump,   "--json",     out,        "--quiet"};
    arguments.insert(arguments.end(), GetParam().options.begin(), GetParam().options.end());
    const auto result = run_baton(arguments);
    ASSERT_EQ(result.exit_code, 0) << result.err;
    dumps.push_back(text_of(dump));
    results.push_back(json_of(out));
  }
  EXPECT_FALSE(dumps[0].empty());
  for (const std::size_t many : {1u, 2u}) {
    EXPECT_TRUE(dumps[0] == dumps[many]) << "the dumps differ";
    EXPECT_EQ(results[0].at("answer_ids"), results[many].at("answer_ids"));
    EXPECT_EQ(results[0].at("ranks").size(), results[many].at("ranks").size());
  }
}

INSTANTIATE_TEST_SUITE_P(
    all, one_process_and_many,
    testing::Values(same_bits{"full", {"--strategy", "full"}},
                    same_bits{"star", {"--strategy", "star", "--ranks", "5"}},
                    same_bits{"apb", {"--strategy", "apb", "--ranks", "8"}},
                    same_bits{"apb_fp32", {"--strategy", "apb", "--ranks", "8", "--precision", "fp32"}},
                    same_bits{"star_fp32", {"--strategy", "star", "--ranks", "4", "--precision", "fp32"}},
                    same_bits{"full_fp32", {"--strategy", "full", "--precision", "fp32"}},
                    same_bits{"uneven", {"--strategy", "apb", "--block-tokens", "700,100,901,347"}},
                    same_bits{"uneven_star", {"--strategy", "star", "--block-tokens", "301,1000,747"}},
                    same_bits{"query_key", {"--ranks", "6", "--compressor", "query_key"}},
                    same_bits{"recent", {"--ranks", "3", "--compressor", "recent", "--passing-tokens", "33"}},
                    same_bits{"random", {"--ranks", "7", "--compressor", "random", "--compressor-seed", "9"}},
                    same_bits{"no_anchor", {"--ranks", "4", "--anchor-tokens", "0", "--compressor", "retaining_heads"}},
                    same_bits{"nothing_passed", {"--ranks", "4", "--passing-tokens", "0"}},
                    same_bits{"sampled",
                              {"--ranks", "5", "--temperature", "1.5", "--seed", "3", "--max-new-tokens", "9"}}),
    [](const auto& param_info) { return param_info.param.title; });

// ---- deaths ----

/// A run over processes that is busy for some seconds, and that replays nothing.
struct many : testing::Test {
  const temporary_directory folder;
  std::unique_ptr<baton_process> run;
  std::string settings = "recovery: {replays: 0}";

  void SetUp() override {
    std::filesystem::current_path(source);
    const auto s = samples_of("archive-32k").at(0);
    std::string text;
    for (int i = 0; i < 3; ++i) text += text_of(s.document);
    run = std::make_unique<baton_process>(
        std::vector<std::string>{"run", "--config", config_with(folder.path(), settings), "--document", "-",
                                 "--question", s.question},
        text);
    for (int i = 0; i < 6000 && run->err_so_far().find("prefill") == std::string::npos; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    ASSERT_THAT(run->err_so_far(), HasSubstr("prefill"));
  }

  [[nodiscard]] int pid_of(const std::string& command, const std::string& node, const std::string& device = {}) const {
    return baton::pid_of(*run, command, node, device);
  }

  /// What the run says of its end, and how long that took.
  process_result end_after(const std::function<void()>& event) {
    const auto begun = std::chrono::steady_clock::now();
    event();
    while (run->err_so_far().find("baton: ") == std::string::npos &&
           std::chrono::steady_clock::now() - begun < std::chrono::seconds(60)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    const auto told = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    auto result = run->wait();
    RecordProperty("told_after_s", std::to_string(told));
    std::printf("told after %.2f s, ended after %.2f s\n", told,
                std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
    EXPECT_EQ(result.exit_code, 1);
    return result;
  }
};

/// In which nobody may be silent for long.
struct many_impatient : many {
  many_impatient() { settings += "\ntimeouts: {silence: 1200ms}"; }
};

TEST_F(many, processes_hold_a_run_as_the_configuration_says) {
  EXPECT_EQ(processes_of(*run, "node").size(), 2u);
  EXPECT_EQ(processes_of(*run, "worker").size(), 4u);
  EXPECT_EQ(processes_of(*run, "worker", "east").size(), 2u);
  const auto result = end_after([&] { run->send_signal(SIGINT); });
  EXPECT_THAT(result.err, HasSubstr("baton: stopped"));
}

TEST_F(many, a_killed_worker_ends_the_job_with_rank_node_device_and_layer) {
  const auto result = end_after([&] { kill(pid_of("worker", "east", "cpu0"), SIGKILL); });
  EXPECT_THAT(result.err, ContainsRegex("rank 4, device east/cpu0, layer [0-3]: the worker is gone"));
}

TEST_F(many_impatient, a_silent_worker_ends_the_job_with_rank_node_device_and_layer) {
  const auto result = end_after([&] { kill(pid_of("worker", "west", "cpu1"), SIGSTOP); });
  EXPECT_THAT(result.err, ContainsRegex("rank 2, device west/cpu1, layer [0-3]: the worker is gone .silent for 1.2 s"));
}

TEST_F(many, a_killed_node_agent_ends_the_job_with_its_node) {
  const auto result = end_after([&] { kill(pid_of("node", "west"), SIGKILL); });
  EXPECT_THAT(result.err, ContainsRegex("rank [0-3], device west/cpu[01], layer [0-3]: the worker is gone"));
}

TEST_F(many_impatient, a_silent_node_agent_ends_the_job_with_its_node) {
  const auto result = end_after([&] { kill(pid_of("node", "east"), SIGSTOP); });
  EXPECT_THAT(
      result.err,
      ContainsRegex("rank [4-7], device east/cpu[01], layer [0-3]: the worker is gone .the relay of node east is "
                    "gone: silent for 1.2 s"));
}

TEST_F(many, all_processes_end_when_the_run_is_killed) {
  run->send_signal(SIGKILL);
  EXPECT_EQ(run->wait().exit_code, 128 + SIGKILL);
}

TEST_F(many, even_stopped_processes_end_when_the_run_is_killed) {
  kill(pid_of("worker", "west", "cpu0"), SIGSTOP);
  run->send_signal(SIGKILL);
  EXPECT_EQ(run->wait().exit_code, 128 + SIGKILL);
}

TEST_F(many, workers_end_when_the_run_and_their_agent_are_killed_together) {
  kill(pid_of("node", "east"), SIGKILL);
  run->send_signal(SIGKILL);
  EXPECT_EQ(run->wait().exit_code, 128 + SIGKILL);
}

TEST(processes_at_the_start, a_worker_that_cannot_start_is_told_with_its_reason) {
  std::filesystem::current_path(source);
  const temporary_directory folder;
  std::ofstream(folder.path() / "cores.yaml") << "model: {directory: models/needle, prompt: needle}\n"
                                                 "processes: per_device\n"
                                                 "nodes:\n"
                                                 "  - name: far\n"
                                                 "    devices: [{name: a, threads: 1}, {name: b, cores: [1023]}]\n";
  const auto s = samples_of("archive-2k").at(0);
  const auto result = run_baton({"run", "--config", (folder.path() / "cores.yaml").string(), "--document", s.document,
                                 "--question", s.question, "--ranks", "2"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("the worker of far/b ended while it started"));
}

}  // namespace
}  // namespace baton
