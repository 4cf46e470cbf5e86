#include <algorithm>
#include <csignal>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/end_to_end/baton_process.hpp"
#include "tests/end_to_end/rehearsed_faults.hpp"
#include "tests/end_to_end/samples.hpp"
#include "tests/end_to_end/service_cluster.hpp"
#include "tests/support/small_disk.hpp"

/// A job that cannot be helped fails, and says what a user can do; and blocks that a disk has damaged are served again. Either way
/// another job, which runs beside it, ends as if nothing had happened.
namespace baton {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;

struct beside_others : testing::Test {
  const rehearsed_faults faults;
  const sample small = samples_of("archive-2k").at(1);
  const sample large = samples_of("archive-32k").at(0);
  /// In chunks so small that it takes some seconds.
  const std::string other_text = text_of(large.document).substr(0, 28'000);
  const std::vector<std::string> other_job{"--document", "-", "--question", large.question, "--ranks", "1", "--quiet"};
  std::unique_ptr<service_cluster> cluster;

  void start(const std::string& settings, service_shape shape = {}) {
    shape.environment = {faults.environment()};
    cluster = std::make_unique<service_cluster>("",
                                                settings.find("timeouts") == std::string::npos
                                                    ? settings + "timeouts: {silence: 20s, client: 60s}\n"
                                                    : settings,
                                                shape);
    cluster->start_all();
  }

  /// Small, over four ranks; `out` gets its result.
  [[nodiscard]] std::unique_ptr<baton_process> submit(const fs::path& out, const std::string& ranks = "4") const {
    return cluster->begin("submit", {"--document", small.document, "--question", small.question, "--ranks", ranks,
                                     "--json", out.string(), "--dump", out.string() + ".dump", "--quiet"});
  }

  [[nodiscard]] std::vector<running_process> workers() const {
    std::vector<running_process> all;
    for (const char* node : {"west", "east"}) {
      for (auto& process : cluster->processes_of(node)) {
        if (!process.arguments.empty() && process.arguments[0] == "worker") all.push_back(std::move(process));
      }
    }
    return all;
  }

  /// The worker that has stopped itself; -1 if none does.
  [[nodiscard]] int the_stopped() const {
    int pid = -1;
    EXPECT_TRUE(wait_for([&] {
      for (const auto& worker : workers()) {
        if (state_of(worker.pid) == 'T') pid = worker.pid;
      }
      return pid > 0;
    }));
    return pid;
  }

  [[nodiscard]] fs::path file(const std::string& name) const { return cluster->folder() / name; }

  /// The same job again, once nothing happens: the same bits.
  void expect_as_undisturbed(const fs::path& disturbed, const std::string& ranks = "4") const {
    const auto out = file("undisturbed.json");
    const auto ended = submit(out, ranks)->wait();
    ASSERT_EQ(ended.exit_code, 0) << ended.err;
    EXPECT_TRUE(text_of(disturbed.string() + ".dump") == text_of(out.string() + ".dump"));
    EXPECT_EQ(json_of(disturbed).at("answer_ids"), json_of(out).at("answer_ids"));
    for (std::size_t rank = 0; rank < json_of(out).at("ranks").size(); ++rank)
      EXPECT_EQ(json_of(disturbed).at("ranks")[rank].at("computed"), json_of(out).at("ranks")[rank].at("computed"));
  }
};

/// Runs beside what a test does, and must end as it does alone.
class another_job {
 public:
  another_job(const service_cluster& cluster, const std::vector<std::string>& words, const std::string& document)
      : cluster_(cluster), words_(words), document_(document), job_(cluster.begin("submit", words, document)) {
    EXPECT_TRUE(cluster.wait_for_state("1", "prefilling"));
  }
  [[nodiscard]] bool still_runs() const { return !is_gone(job_->pid()); }
  void expect_as_alone() {
    const auto result = job_->wait();
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(cluster_.ask("submit", words_, document_).out, result.out);
  }

 private:
  const service_cluster& cluster_;
  const std::vector<std::string> words_;
  const std::string document_;
  std::unique_ptr<baton_process> job_;
};

TEST_F(beside_others, a_job_whose_device_fails_everywhere_fails_with_the_fault) {
  start("recovery: {replacement: 1s}\n", {.job = "ranks: 4, chunk_tokens: 32"});
  another_job other(*cluster, other_job, other_text);
  const work_place at{.rank = 3, .layer = 2, .chunk = 1};
  faults.fail_at(at);
  const auto job = submit(file("job.json"));
  ASSERT_TRUE(wait_for([&] { return !faults.is_to_fail_at(at) || is_gone(job->pid()); }));
  faults.fail_at(at);
  const auto failed = job->wait();
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_THAT(failed.err,
              AllOf(HasSubstr("its device was lost and there is no other; start workers again or add devices"),
                    HasSubstr("a rehearsed fault"), HasSubstr("rank3.prefill0.layer2")));
  EXPECT_FALSE(faults.is_to_fail_at(at)) << "it was not tried elsewhere";
  EXPECT_TRUE(other.still_runs()) << "it was too short";
  other.expect_as_alone();
}

TEST_F(beside_others, a_job_whose_replays_are_used_up_fails_and_says_so) {
  start("recovery: {replays: 1, reserve: 2}\n", {.job = "ranks: 4, chunk_tokens: 32"});
  another_job other(*cluster, other_job, other_text);
  const work_place at{.rank = 3, .layer = 2, .chunk = 1};
  faults.stop_at(at);
  const auto job = submit(file("job.json"));
  const int first = the_stopped();
  faults.stop_at(at);
  kill(first, SIGKILL);
  ASSERT_TRUE(wait_for([&] { return is_gone(first); }));
  const int second = the_stopped();
  EXPECT_NE(first, second);
  kill(second, SIGKILL);
  const auto failed = job->wait();
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_THAT(failed.err, AllOf(HasSubstr("after 1 replays of the shard"), HasSubstr("rank ")));
  other.expect_as_alone();
}

TEST_F(beside_others, a_job_whose_replay_finds_no_memory_fails_and_says_what_would_help) {
  // Room for two of its ranks on each device, and for one more beside the keys and values of two, but not for two.
  start("recovery: {reserve: 0, replacement: 1s}\ntimeouts: {silence: 2500ms, client: 60s}\n", {.memory = "56MiB"});
  const work_place at{.rank = 3, .layer = 1};
  faults.stop_at(at);
  const auto job = cluster->begin("submit", {"--document", "-", "--question", large.question, "--quiet"},
                                  text_of(large.document).substr(0, 64'000));
  const int stopped = the_stopped();
  const auto other = file("other.json");
  const auto ended = submit(other, "1")->wait();
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  const auto failed = job->wait();
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_THAT(failed.err, AllOf(HasSubstr("its device was lost and no other has room for it"),
                                HasSubstr("raise recovery.reserve or the relays' logs, or add devices")));
  kill(stopped, SIGCONT);
  EXPECT_TRUE(cluster->wait_until_idle());
  expect_as_undisturbed(other, "1");
}

TEST_F(beside_others, a_job_whose_log_finds_a_full_disk_fails_with_the_systems_reason) {
  const temporary_directory folder;
  std::optional<small_disk> disk;
  try {
    disk.emplace(folder.path() / "log", "16m");
  } catch (const std::runtime_error& why) {
    GTEST_SKIP() << "NOT TESTED HERE: " << why.what();
  }
  start("", {.job = "ranks: 4, chunk_tokens: 32",
             .node = "relay: {log_memory: 1, log_disk: 1GiB, log_directory: \"" + (folder.path() / "log").string() +
                     "\"}"});
  // Its own log lies there already.
  auto words = other_job;
  words[5] = "2";
  another_job other(*cluster, words, other_text);
  disk->fill();
  const auto failed = submit(file("job.json"))->wait();
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_THAT(failed.err, AllOf(ContainsRegex("no room for [0-9]+ bytes"), HasSubstr("No space left on device"),
                                HasSubstr((folder.path() / "log").string())));
  EXPECT_TRUE(other.still_runs()) << "it was too short";
  disk->make_room();
  other.expect_as_alone();
  EXPECT_EQ(submit(file("job.json"))->wait().exit_code, 0);
}

// ---- a relay's disk damages what it keeps ----

/// Everything that a process keeps in files without a name in a folder becomes `noise`; how many bytes that were.
std::int64_t damage_nameless_files(int pid, const fs::path& folder, std::uint8_t noise = 0x5a) {
  std::int64_t damaged = 0;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd", ignored)) {
    const auto target = fs::read_symlink(entry.path(), ignored).string();
    if (!target.starts_with(folder.string()) || target.find("(deleted)") == std::string::npos) continue;
    const int fd = open(entry.path().c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) continue;
    const std::vector<std::uint8_t> all(fs::file_size(entry.path(), ignored), noise);
    damaged += pwrite(fd, all.data(), all.size(), 0);
    close(fd);
  }
  return damaged;
}

struct beside_others_damaged : beside_others {
  const temporary_directory disk;

  void SetUp() override {
    start("", {.devices = 2,
               .job = "ranks: 4, chunk_tokens: 128",
               .node = "relay: {log_memory: 1, log_disk: 1GiB, log_directory: \"" + disk.path().string() + "\"}"});
  }

  [[nodiscard]] int relay_of(const std::string& node) const {
    for (const auto& process : cluster->processes_of(node)) {
      if (!process.arguments.empty() && process.arguments[0] == "node") return process.pid;
    }
    return -1;
  }

  /// The last rank's worker stands before it has asked for a layer's blocks; the others need none of it and have given all they have.
  std::unique_ptr<baton_process> come_to_the_middle(const fs::path& out, int& stopped) const {
    faults.stop_at({.rank = 3, .layer = 1, .chunk = 0});
    auto job = submit(out);
    stopped = the_stopped();
    EXPECT_TRUE(cluster->wait_until([](const json& status) {
      return std::ranges::any_of(status.at("jobs"), [](const json& one) {
        return one.at("state") == "prefilling" && one.at("ranks").size() == 4 &&
               std::ranges::count(one.at("ranks"), "done", [](const json& rank) { return rank.at("state"); }) == 3;
      });
    }));
    // What is on its way to the other relay.
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    return job;
  }
};

TEST_F(beside_others_damaged, blocks_come_again_from_the_relay_that_has_a_copy_or_from_their_rank) {
  for (const bool copies_too : {false, true}) {
    SCOPED_TRACE(copies_too ? "also the copies" : "one relay's");
    int stopped = -1;
    const auto out = file("job.json");
    const auto job = come_to_the_middle(out, stopped);
    ASSERT_GT(stopped, 0);
    EXPECT_GT(damage_nameless_files(relay_of("east"), disk.path()), 10'000);
    if (copies_too) {
      EXPECT_GT(damage_nameless_files(relay_of("west"), disk.path()), 10'000);
    }
    kill(stopped, SIGCONT);
    const auto ended = job->wait();
    ASSERT_EQ(ended.exit_code, 0) << ended.err << cluster->coordinator_said();
    EXPECT_TRUE(json_of(out).at("replays").empty()) << "nobody computes again";
    expect_as_undisturbed(out);
  }
}

TEST_F(beside_others_damaged, a_block_that_is_damaged_again_fails_its_job_and_the_disk_is_named) {
  int stopped = -1;
  const auto job = come_to_the_middle(file("job.json"), stopped);
  ASSERT_GT(stopped, 0);
  EXPECT_GT(damage_nameless_files(relay_of("east"), disk.path()), 10'000);
  // The layer's blocks come again.
  faults.stop_at({.rank = 3, .layer = 2});
  kill(stopped, SIGCONT);
  ASSERT_TRUE(wait_for([&] { return state_of(stopped) != 'T'; }));
  ASSERT_EQ(the_stopped(), stopped);
  const auto other = file("other.json");
  const auto beside = submit(other, "1");
  // Whoever computes the rank again, on the same node, asks for them once more.
  EXPECT_GT(damage_nameless_files(relay_of("east"), disk.path()), 10'000);
  kill(stopped, SIGKILL);
  const auto failed = job->wait();
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_THAT(failed.err, AllOf(HasSubstr("does not match its checksum"), HasSubstr(disk.path().string())));
  const auto ended = beside->wait();
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_TRUE(cluster->wait_until_idle());
  expect_as_undisturbed(other, "1");
}

}  // namespace
}  // namespace baton
