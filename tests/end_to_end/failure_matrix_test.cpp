#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/end_to_end/baton_process.hpp"
#include "tests/end_to_end/rehearsed_faults.hpp"
#include "tests/end_to_end/samples.hpp"
#include "tests/end_to_end/service_cluster.hpp"

/// Workers that fail at an exact place of a rank's work (BATON_FAULT, runtime/device/rehearsed_fault.hpp). The place only stops the
/// process; that it stands still, who it is, and what becomes of it is taken from the system.
namespace baton {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::IsSupersetOf;

constexpr int ranks = 8;
constexpr int devices = 4;
constexpr int layers = 4;
/// Of a rank's work in a layer, at least: it is projected, attended to and fed forward in two or more each.
constexpr int chunks = 6;

enum class harm : std::uint8_t {
  killed,
  stopped,              ///< for good
  stopped_for_a_while,  ///< it goes on when its ranks are computed elsewhere, and gives what nobody wants any more
  device_failed,        ///< the worker lives on
  two_killed,           ///< on two devices, at once
  replacement_killed,   ///< as well, while it replays
  agent_killed,         ///< with its relay; the workers see it
  node_torn_down,       ///< all of its processes at once
};

const char* name_of(harm how) {
  switch (how) {
    case harm::killed: return "killed";
    case harm::stopped: return "stopped";
    case harm::stopped_for_a_while: return "stopped for a while";
    case harm::device_failed: return "with a failed device";
    case harm::two_killed: return "killed with another";
    case harm::replacement_killed: return "killed, and its replacement";
    case harm::agent_killed: return "without its agent";
    case harm::node_torn_down: return "on a node that is torn down";
  }
  return "?";
}

struct cell {
  harm how = harm::killed;
  work_place at;
  bool sampled = false;

  [[nodiscard]] std::string text() const {
    return at.text() + " " + name_of(how) + (sampled ? ", sampled" : ", greedy");
  }
};

/// What a process has open.
std::vector<std::string> descriptors_of(int pid) {
  std::vector<std::string> all;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd", ignored)) {
    all.push_back(std::filesystem::read_symlink(entry.path(), ignored).string());
  }
  return all;
}

/// A cluster that stays, of two nodes with two devices each, whose workers fail at given places, job after job.
class hurt_cluster {
 public:
  explicit hurt_cluster(const std::string& precision, std::uint64_t seed)
      : random_(seed),
        cluster_({}, "timeouts: {silence: 2500ms, client: 60s}\nrecovery: {reserve: 3, replays: 5}",
                 {.devices = 2,
                  .model = "precision: " + precision,
                  .job = "ranks: 8, chunk_tokens: 128, max_new_tokens: 8",
                  // What outlives a death has been on a disk.
                  .node = "relay: {log_memory: 1, log_disk: 1GiB, log_directory: \"" + logs_.path().string() + "\"}",
                  .environment = {faults_.environment()}}) {
    cluster_.start_all();
    for (const bool sampled : {false, true}) undisturbed_[sampled] = end_of(*submit(sampled));
    calm_descriptors_ = descriptors_of(cluster_.coordinator().pid()).size();
  }

  /// Everybody's answer to one question, with nobody hurt.
  [[nodiscard]] bool is_up() const { return !undisturbed_[0].dump.empty() && !undisturbed_[1].dump.empty(); }

  /// After all that has happened: neither a connection nor a file of anybody who is gone.
  void expect_nothing_left() const {
    // Those of clients go within a while.
    EXPECT_TRUE(wait_for([&] { return descriptors_of(cluster_.coordinator().pid()).size() <= calm_descriptors_ + 4; }))
        << descriptors_of(cluster_.coordinator().pid()).size() << " descriptors, " << calm_descriptors_ << " before";
    EXPECT_TRUE(std::filesystem::is_empty(logs_.path()));
    for (const char* node : {"west", "east"}) {
      for (const auto& process : cluster_.processes_of(node)) {
        for (const auto& target : descriptors_of(process.pid))
          EXPECT_FALSE(target.starts_with(logs_.path().string()))
              << process.arguments.at(0) << " on " << node << " has " << target;
      }
    }
  }

  int any_below(int end) { return static_cast<int>(random_() % static_cast<std::uint64_t>(end)); }

  [[nodiscard]] int answer_tokens(bool sampled) const {
    return static_cast<int>(undisturbed_[sampled].result.at("answer_ids").size());
  }

  /// Runs one job in which this happens, and checks all that is promised.
  void run(const cell& c) {
    SCOPED_TRACE(c.text());
    const auto begun = std::chrono::steady_clock::now();
    const bool fails = c.how == harm::device_failed;
    fails ? faults_.fail_at(c.at) : faults_.stop_at(c.at);
    work_place second = c.at;
    if (c.how == harm::two_killed) {
      if (c.at.stage == "prefill0") second.chunk = 0;                // nobody is waited for so far
      second.rank = (c.at.rank + 2 + any_below(ranks - 2)) % ranks;  // on another device
      if (second.rank / 2 == c.at.rank / 2) second.rank = (second.rank + 2) % ranks;
      faults_.stop_at(second);
    }
    const auto workers = workers_now();
    auto client = submit(c.sampled);
    outcome disturbed;
    std::set<int> lost;
    if (fails) {
      ASSERT_TRUE(wait_for([&] { return !faults_.is_to_fail_at(c.at) || is_gone(client->pid()); }))
          << "this place was never come to";
      disturbed = end_of(*client);
      EXPECT_FALSE(faults_.is_to_fail_at(c.at)) << "this place was never come to";
      for (const auto& worker : workers) EXPECT_FALSE(is_gone(worker.pid)) << worker.pid;
    } else {
      const auto victim = the_stopped(*client, {});
      ASSERT_TRUE(victim) << "this place was never come to";
      lost = ranks_on(*victim);
      disturbed = hurt(c, *victim, second, *client, lost);
    }
    EXPECT_FALSE(disturbed.dump.empty()) << cluster_.coordinator_said();
    if (disturbed.dump.empty()) return;
    expect_the_same(c, disturbed, lost);
    make_whole();
    std::printf("%-70s %5.1f s, %zu replays\n", c.text().c_str(),
                std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count(),
                disturbed.result.at("replays").size());
    std::fflush(stdout);
  }

 private:
  struct outcome {
    json result;
    std::string
        dump;  ///< first logits, every chosen unit, and checksums of every rank's keys and values in every layer
  };

  // ---- processes ----

  [[nodiscard]] std::vector<running_process> workers_now() const {
    std::vector<running_process> all;
    for (const char* node : {"west", "east"}) {
      for (auto& process : cluster_.processes_of(node)) {
        if (!process.arguments.empty() && process.arguments[0] == "worker") all.push_back(std::move(process));
      }
    }
    return all;
  }

  /// The worker that has stopped itself, and is not one of those; nobody if the job ends before.
  [[nodiscard]] std::optional<running_process> the_stopped(const baton_process& client,
                                                           const std::set<int>& known) const {
    std::optional<running_process> found;
    wait_for([&] {
      for (const auto& worker : workers_now()) {
        if (state_of(worker.pid) == 'T' && !known.contains(worker.pid)) found = worker;
      }
      return found || is_gone(client.pid());
    });
    return found;
  }

  /// Ranks of the running job that are where this worker is.
  [[nodiscard]] std::set<int> ranks_on(const running_process& worker) const {
    std::set<int> all;
    const auto status = cluster_.status();
    for (const auto& job : status.at("jobs")) {
      if (job.at("state") != "prefilling" && job.at("state") != "answering") continue;
      for (const auto& rank : job.at("ranks")) {
        if (rank.at("node") == worker.option("--node") && rank.at("device") == worker.option("--device"))
          all.insert(rank.at("rank").get<int>());
      }
    }
    return all;
  }

  // ---- one job ----

  [[nodiscard]] std::string dump_file() const { return (cluster_.folder() / "dump.safetensors").string(); }
  [[nodiscard]] std::string result_file() const { return (cluster_.folder() / "result.json").string(); }

  [[nodiscard]] std::unique_ptr<baton_process> submit(bool sampled) const {
    std::vector<std::string> words{"--document", asked_.document, "--question",  asked_.question, "--dump",
                                   dump_file(),  "--json",        result_file(), "--quiet"};
    if (sampled) words.insert(words.end(), {"--temperature", "1.2", "--seed", "5"});
    return cluster_.begin("submit", words);
  }

  [[nodiscard]] outcome end_of(baton_process& client) const {
    const auto ended = client.wait();
    EXPECT_EQ(ended.exit_code, 0) << ended.err;
    if (ended.exit_code != 0) return {};
    return {json_of(result_file()), text_of(dump_file())};
  }

  outcome hurt(const cell& c, const running_process& victim, const work_place& second, baton_process& client,
               std::set<int>& lost) {
    const auto is_killed = [&](const running_process& process) {
      kill(process.pid, SIGKILL);
      EXPECT_TRUE(wait_for([&] { return is_gone(process.pid); })) << process.pid;
      to_renew_.insert(process.option("--node"));
    };
    const auto node = victim.option("--node");
    switch (c.how) {
      case harm::killed: is_killed(victim); break;
      case harm::two_killed: {
        const auto other = the_stopped(client, {victim.pid});
        if (!other) {
          ADD_FAILURE() << second.text() << " was never come to";
          break;
        }
        lost.merge(ranks_on(*other));
        kill(victim.pid, SIGKILL);  // at once
        is_killed(*other);
        is_killed(victim);
        break;
      }
      case harm::replacement_killed: {
        const work_place again{c.at.rank, "prefill0", any_below(c.at.stage == "prefill0" ? c.at.layer + 1 : layers), 0};
        faults_.stop_at(again);
        is_killed(victim);
        const auto replacement = the_stopped(client, {victim.pid});
        if (!replacement) {
          ADD_FAILURE() << again.text() << " was never come to by a replacement";
          break;
        }
        EXPECT_NE(replacement->pid, victim.pid);
        lost.merge(ranks_on(*replacement));
        is_killed(*replacement);
        break;
      }
      case harm::agent_killed:
        lost = ranks_of(node);
        for (const auto& process : cluster_.processes_of(node)) {
          if (!process.arguments.empty() && process.arguments[0] == "node") kill(process.pid, SIGKILL);
        }
        kill(victim.pid, SIGCONT);
        cluster_.kill_node(node);
        break;
      case harm::node_torn_down:
        lost = ranks_of(node);
        cluster_.tear_down_node(node);
        break;
      case harm::stopped_for_a_while:
        EXPECT_TRUE(cluster_.wait_until([&](const json& status) {
          return is_gone(client.pid()) || std::ranges::any_of(status.at("jobs"), [&](const json& job) {
                   const auto& all = job.at("ranks");
                   return job.at("state") == "prefilling" &&
                          all.at(static_cast<std::size_t>(c.at.rank)).at("attempt") > 0;
                 });
        }));
        kill(victim.pid, SIGCONT);
        break;
      case harm::stopped:
      case harm::device_failed: break;
    }
    auto disturbed = end_of(client);
    if (c.how == harm::stopped) {
      EXPECT_EQ(state_of(victim.pid), 'T');
      kill(victim.pid, SIGCONT);
    }
    return disturbed;
  }

  [[nodiscard]] std::set<int> ranks_of(const std::string& node) const {
    std::set<int> all;
    for (const auto& process : cluster_.processes_of(node)) {
      if (!process.arguments.empty() && process.arguments[0] == "worker") all.merge(ranks_on(process));
    }
    return all;
  }

  /// The answer and every bit of the undisturbed run; only lost ranks computed anything again.
  void expect_the_same(const cell& c, const outcome& disturbed, const std::set<int>& lost) const {
    EXPECT_TRUE(lost.contains(c.at.rank) || c.how == harm::device_failed) << "another process has stopped itself";
    const auto& undisturbed = undisturbed_[c.sampled];
    EXPECT_NE(undisturbed.dump.find("kv_checksum.layer0.rank7"), std::string::npos);
    EXPECT_TRUE(disturbed.dump == undisturbed.dump) << "logits, chosen units or KV differ";
    EXPECT_EQ(disturbed.result.at("answer_ids"), undisturbed.result.at("answer_ids"));
    std::map<int, int> replays;
    for (const auto& replay : disturbed.result.at("replays")) {
      ++replays[replay.at("rank").get<int>()];
      // Whoever lost none of its processes may have been taken for silent on a busy machine, and for nothing else.
      const auto cause = replay.at("cause").get<std::string>();
      EXPECT_TRUE(lost.contains(replay.at("rank").get<int>()) || c.how == harm::device_failed ||
                  cause.find("silent") != std::string::npos)
          << replay;
      if (c.how == harm::device_failed) {
        EXPECT_THAT(cause, testing::AnyOf(HasSubstr("rehearsed"), HasSubstr("silent")));
      }
      const bool in_prefill = c.at.stage == "prefill0" && replay.at("rank") == c.at.rank;
      EXPECT_LE(replay.at("layers").get<int>(), in_prefill ? c.at.layer + 1 : layers) << replay;
    }
    for (const int rank : lost) EXPECT_TRUE(replays.contains(rank)) << "rank " << rank << " was lost, and not replayed";
    EXPECT_TRUE(replays.contains(c.at.rank)) << disturbed.result.at("replays");
    for (int rank = 0; rank < ranks; ++rank) {
      const auto index = static_cast<std::size_t>(rank);
      const std::vector<std::int64_t> wanted = undisturbed.result.at("ranks")[index].at("computed");
      const std::vector<std::int64_t> computed = disturbed.result.at("ranks")[index].at("computed");
      ASSERT_EQ(wanted.size(), static_cast<std::size_t>(layers));
      ASSERT_EQ(computed.size(), wanted.size());
      for (std::size_t layer = 0; layer < wanted.size(); ++layer) {
        EXPECT_GE(wanted[layer], chunks);
        // A shard that came once to a worker that had none of it has been computed there once.
        const bool once = !replays.contains(rank) || replays.at(rank) == 1;
        EXPECT_TRUE(computed[layer] == wanted[layer] || (!once && computed[layer] > wanted[layer]))
            << "rank " << rank << ", layer " << layer << ": " << computed[layer] << " for " << wanted[layer];
      }
    }
  }

  /// Every process is there again, and no more of them.
  void make_whole() {
    for (const auto& node : to_renew_) cluster_.renew_node(node);
    to_renew_.clear();
    for (const char* node : {"west", "east"}) {
      if (!cluster_.has_node(node)) cluster_.start_node(node);
    }
    EXPECT_TRUE(cluster_.wait_until_idle()) << cluster_.coordinator_said();
    EXPECT_TRUE(wait_for([&] { return static_cast<int>(workers_now().size()) == devices; }, 10));
  }

  const rehearsed_faults faults_;
  const temporary_directory logs_;  ///< the relays'
  const sample asked_ = samples_of("archive-2k").at(1);
  std::mt19937_64 random_;
  service_cluster cluster_;
  std::set<std::string> to_renew_;
  std::size_t calm_descriptors_ = 0;    ///< of the coordinator
  std::array<outcome, 2> undisturbed_;  ///< greedy, sampled
};

std::uint64_t printed_seed() {
  const char* given = std::getenv("BATON_SEED");
  const std::uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::printf("BATON_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

struct failure_matrix : testing::TestWithParam<const char*> {
  const std::uint64_t seed = printed_seed();
  hurt_cluster cluster{GetParam(), seed};

  void TearDown() override { cluster.expect_nothing_left(); }

  /// In a layer of the prefill, from its first to its last chunk.
  cell in_prefill(harm how, int rank, int layer) {
    return {how, {rank, "prefill0", layer, cluster.any_below(chunks)}, cluster.any_below(2) == 0};
  }
  /// With what it has found in a layer given to the others, while it waits for what they have.
  cell in_query(harm how, int rank) {
    return {how, {rank, "query0", cluster.any_below(layers)}, cluster.any_below(2) == 0};
  }
  cell in_answer(harm how, int rank) {
    cell c{how, {rank, {}, cluster.any_below(layers)}, cluster.any_below(2) == 0};
    c.at.stage = "decode" + std::to_string(cluster.any_below(cluster.answer_tokens(c.sampled) - 1));
    return c;
  }
  cell anywhere(harm how) {
    const int rank = cluster.any_below(ranks);
    switch (cluster.any_below(4)) {
      case 0: return in_query(how, rank);
      case 1: return in_answer(how, rank);
      default: return in_prefill(how, rank, cluster.any_below(layers));
    }
  }
  void run_all(harm how) {
    for (int rank = 0; rank < ranks; ++rank) {
      for (const int layer : {0, layers / 2, layers - 1}) cluster.run(in_prefill(how, rank, layer));
      cluster.run(in_query(how, rank));
      cluster.run(in_answer(how, rank));
    }
  }
};

TEST_P(failure_matrix, a_sample_of_it_gives_the_same_bits) {
  ASSERT_TRUE(cluster.is_up());
  cluster.run(in_prefill(harm::killed, cluster.any_below(ranks), cluster.any_below(layers)));
  cluster.run(cluster.any_below(2) == 0 ? in_query(harm::killed, cluster.any_below(ranks))
                                        : in_answer(harm::killed, cluster.any_below(ranks)));
  constexpr std::array others{harm::stopped,       harm::stopped_for_a_while, harm::device_failed,
                              harm::two_killed,    harm::replacement_killed,  harm::agent_killed,
                              harm::node_torn_down};
  const int first = cluster.any_below(static_cast<int>(others.size()));
  for (const int step : {0, 3}) cluster.run(anywhere(others[static_cast<std::size_t>(first + step) % others.size()]));
}

TEST_P(failure_matrix, full_of_every_killed_rank_gives_the_same_bits) {
  ASSERT_TRUE(cluster.is_up());
  run_all(harm::killed);
}

TEST_P(failure_matrix, full_of_every_stopped_rank_gives_the_same_bits) {
  ASSERT_TRUE(cluster.is_up());
  run_all(harm::stopped);
}

TEST_P(failure_matrix, full_of_every_rank_stopped_for_a_while_gives_the_same_bits) {
  ASSERT_TRUE(cluster.is_up());
  run_all(harm::stopped_for_a_while);
}

TEST_P(failure_matrix, full_of_every_rank_of_a_failed_device_gives_the_same_bits) {
  ASSERT_TRUE(cluster.is_up());
  run_all(harm::device_failed);
}

TEST_P(failure_matrix, full_of_two_and_of_replacements_gives_the_same_bits) {
  ASSERT_TRUE(cluster.is_up());
  run_all(harm::two_killed);
  run_all(harm::replacement_killed);
}

TEST_P(failure_matrix, full_of_agents_and_nodes_gives_the_same_bits) {
  ASSERT_TRUE(cluster.is_up());
  run_all(harm::agent_killed);
  run_all(harm::node_torn_down);
}

INSTANTIATE_TEST_SUITE_P(precisions, failure_matrix, testing::Values("bf16", "fp32"),
                         [](const auto& precision) { return std::string(precision.param); });

}  // namespace
}  // namespace baton
