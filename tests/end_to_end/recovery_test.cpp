#include <cctype>
#include <chrono>
#include <csignal>
#include <functional>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/end_to_end/baton_process.hpp"
#include "tests/end_to_end/many_processes.hpp"
#include "tests/end_to_end/samples.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

/// What a run has left.
struct outcome {
  json result;
  std::string dump;  ///< first logits, every chosen unit, and checksums of every rank's keys and values in every layer
  std::string err;
};

/// Runs over processes that lose some of them, beside one that loses none: the same plan, so the same bits.
struct replay : testing::Test {
  const temporary_directory folder;
  const sample asked = samples_of("archive-32k").at(0);
  std::string document = text_of(asked.document).substr(0, 60'000);
  // Nobody is silent for so long on a busy machine, unless a test makes it so.
  std::string timeouts = "timeouts: {silence: 20s}";
  std::string settings = "recovery: {reserve: 3}";
  std::vector<std::string> options;

  void SetUp() override { std::filesystem::current_path(source); }

  /// `harm` is called once the run has come far enough.
  outcome run_with(const std::function<void(const baton_process&)>& harm) const {
    const auto dump = (folder.path() / "dump.safetensors").string();
    const auto out = (folder.path() / "out.json").string();
    std::vector<std::string> arguments{
        "run",          "--config", config_with(folder.path(), settings + "\n" + timeouts),
        "--document",   "-",        "--question",
        asked.question, "--dump",   dump,
        "--json",       out};
    arguments.insert(arguments.end(), options.begin(), options.end());
    baton_process run(arguments, document);
    if (harm) {
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
      while (!has_begun(run.err_so_far()) && std::chrono::steady_clock::now() < deadline)
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      EXPECT_TRUE(has_begun(run.err_so_far())) << run.err_so_far();
      harm(run);
    }
    const auto ended = run.wait();
    EXPECT_EQ(ended.exit_code, 0) << ended.err;
    if (ended.exit_code != 0) return {};
    return {json_of(out), text_of(dump), ended.err};
  }

  virtual bool has_begun(const std::string& err) const {
    // Any line of progress from here on.
    const auto at = err.find("prefill  ");
    return at != std::string::npos;
  }

  /// How far the prefill is, by the last line of progress.
  static int percent_of(const std::string& err) {
    int percent = 0;
    for (auto at = err.find("prefill "); at != std::string::npos; at = err.find("prefill ", at + 1)) {
      const auto number = err.find_first_not_of(' ', at + 8);
      if (number != std::string::npos && std::isdigit(static_cast<unsigned char>(err[number])) != 0)
        percent = std::stoi(err.substr(number));
    }
    return percent;
  }

  void expect_the_same(const outcome& disturbed) const {
    const auto undisturbed = run_with(nullptr);
    ASSERT_FALSE(undisturbed.dump.empty());
    EXPECT_NE(undisturbed.dump.find("kv_checksum.layer0.rank7"), std::string::npos);
    EXPECT_TRUE(disturbed.dump == undisturbed.dump) << "logits, chosen units or KV differ";
    EXPECT_EQ(disturbed.result.at("answer_ids"), undisturbed.result.at("answer_ids"));
    EXPECT_TRUE(undisturbed.result.at("replays").empty());
    // Who was not lost has computed nothing twice, and who was lost, all of it where it is now.
    const auto lost = replayed(disturbed);
    for (int h = 0; h < static_cast<int>(undisturbed.result.at("ranks").size()); ++h) {
      const auto index = static_cast<std::size_t>(h);
      const std::vector<std::int64_t> wanted = undisturbed.result.at("ranks")[index].at("computed");
      const std::vector<std::int64_t> computed = disturbed.result.at("ranks")[index].at("computed");
      ASSERT_EQ(wanted.size(), 4U);
      EXPECT_GE(std::ranges::min(wanted), 3);
      ASSERT_EQ(computed.size(), wanted.size());
      for (std::size_t layer = 0; layer < wanted.size(); ++layer) {
        const bool was_lost = std::ranges::find(lost, h) != lost.end();
        EXPECT_TRUE(computed[layer] == wanted[layer] || (was_lost && computed[layer] > wanted[layer]))
            << "rank " << h << ", layer " << layer << ": " << computed[layer] << " for " << wanted[layer];
      }
    }
  }

  static std::vector<int> replayed(const outcome& of) {
    std::vector<int> ranks;
    for (const auto& replay : of.result.at("replays")) ranks.push_back(replay.at("rank"));
    std::ranges::sort(ranks);
    return ranks;
  }
};

TEST_F(replay, of_a_killed_workers_ranks_gives_the_same_bits) {
  const auto disturbed =
      run_with([](const baton_process& run) { kill(pid_of(run, "worker", "east", "cpu0"), SIGKILL); });
  ASSERT_FALSE(disturbed.dump.empty());
  EXPECT_THAT(replayed(disturbed), ElementsAre(4, 5));
  EXPECT_THAT(disturbed.err, HasSubstr("rank 4 is computed again on"));
  for (const auto& one : disturbed.result.at("replays")) EXPECT_LT(one.at("detect_ms").get<double>(), 5000);
  expect_the_same(disturbed);
}

TEST_F(replay, of_a_killed_workers_ranks_gives_the_same_bits_in_fp32) {
  document = document.substr(0, 30'000);
  options = {"--precision", "fp32"};
  const auto disturbed =
      run_with([](const baton_process& run) { kill(pid_of(run, "worker", "west", "cpu1"), SIGKILL); });
  ASSERT_FALSE(disturbed.dump.empty());
  EXPECT_THAT(replayed(disturbed), ElementsAre(2, 3));
  expect_the_same(disturbed);
}

TEST_F(replay, of_a_silent_workers_ranks_gives_the_same_bits_even_if_it_wakes_up) {
  timeouts = "timeouts: {silence: 1200ms}";
  const auto disturbed = run_with([](const baton_process& run) {
    const int pid = pid_of(run, "worker", "west", "cpu1");
    kill(pid, SIGSTOP);
    std::this_thread::sleep_for(std::chrono::milliseconds(1800));
    kill(pid, SIGCONT);
  });
  ASSERT_FALSE(disturbed.dump.empty());
  EXPECT_THAT(replayed(disturbed), testing::IsSupersetOf({2, 3}));
  timeouts = "timeouts: {silence: 20s}";
  expect_the_same(disturbed);
}

TEST_F(replay, of_two_workers_that_die_together_gives_the_same_bits) {
  const auto disturbed = run_with([](const baton_process& run) {
    kill(pid_of(run, "worker", "west", "cpu0"), SIGKILL);
    kill(pid_of(run, "worker", "east", "cpu1"), SIGKILL);
  });
  ASSERT_FALSE(disturbed.dump.empty());
  // Where one death is known before the other, a rank may come to a worker that is dead already, and is replayed once more.
  const auto ranks = replayed(disturbed);
  EXPECT_THAT(std::set<int>(ranks.begin(), ranks.end()), ElementsAre(0, 1, 6, 7));
  expect_the_same(disturbed);
}

TEST_F(replay, of_a_dead_nodes_ranks_gives_the_same_bits) {
  const auto disturbed = run_with([](const baton_process& run) { kill(pid_of(run, "node", "west"), SIGKILL); });
  ASSERT_FALSE(disturbed.dump.empty());
  const auto ranks = replayed(disturbed);
  for (int rank = 0; rank < 4; ++rank) EXPECT_THAT(ranks, testing::Contains(rank));
  expect_the_same(disturbed);
}

TEST_F(replay, of_ranks_whose_replacement_dies_while_it_replays_gives_the_same_bits) {
  const auto disturbed = run_with([](const baton_process& run) {
    kill(pid_of(run, "worker", "east", "cpu0"), SIGKILL);
    const std::string told = "rank 4 is computed again on ";
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    std::string err;
    while ((err = run.err_so_far()).find(told) == std::string::npos && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const auto at = err.find(told);
    ASSERT_NE(at, std::string::npos) << err;
    const auto place = err.substr(at + told.size(), err.find(':', at) - at - told.size());
    const auto slash = place.find('/');
    kill(pid_of(run, "worker", place.substr(0, slash), place.substr(slash + 1)), SIGKILL);
  });
  ASSERT_FALSE(disturbed.dump.empty());
  EXPECT_THAT(replayed(disturbed), testing::IsSupersetOf({4, 4, 5}));
  expect_the_same(disturbed);
}

/// Every worker, and so every rank, at the beginning, in the middle and near the end of the prefill.
TEST_F(replay, full_of_every_workers_ranks_early_and_late_gives_the_same_bits) {
  const auto undisturbed = run_with(nullptr);
  ASSERT_FALSE(undisturbed.dump.empty());
  for (const char* node : {"west", "east"}) {
    for (const char* device : {"cpu0", "cpu1"}) {
      for (const int percent : {0, 40, 80}) {
        const auto disturbed = run_with([&](const baton_process& run) {
          const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
          while (percent_of(run.err_so_far()) < percent && std::chrono::steady_clock::now() < deadline)
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
          kill(pid_of(run, "worker", node, device), SIGKILL);
        });
        ASSERT_FALSE(disturbed.dump.empty());
        EXPECT_TRUE(disturbed.dump == undisturbed.dump) << node << '/' << device << " at " << percent << " %";
        EXPECT_EQ(disturbed.result.at("answer_ids"), undisturbed.result.at("answer_ids"));
        for (const int rank : replayed(disturbed)) {
          const auto place = undisturbed.result.at("ranks").at(static_cast<std::size_t>(rank));
          EXPECT_EQ(place.at("node").get<std::string>() + "/" + place.at("device").get<std::string>(),
                    std::string(node) + "/" + device)
              << "nobody else computes again";
        }
      }
    }
  }
}

/// In the answer, which a slow link draws out.
struct replay_of_an_answer : replay {
  replay_of_an_answer() {
    document = document.substr(0, 8'000);
    settings += "\nlinks: {delay: 30ms}";
    options = {"--temperature", "1.2", "--seed", "5", "--max-new-tokens", "8"};
  }
  bool has_begun(const std::string& err) const override { return err.find("prefill 100 %") != std::string::npos; }
};

TEST_F(replay_of_an_answer, goes_on_with_the_same_tokens) {
  const auto disturbed = run_with([](const baton_process& run) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    kill(pid_of(run, "worker", "west", "cpu1"), SIGKILL);
  });
  ASSERT_FALSE(disturbed.dump.empty());
  EXPECT_THAT(replayed(disturbed), ElementsAre(2, 3));
  expect_the_same(disturbed);
}

}  // namespace
}  // namespace baton
