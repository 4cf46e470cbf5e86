#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/end_to_end/baton_process.hpp"
#include "tests/end_to_end/rehearsed_faults.hpp"
#include "tests/end_to_end/samples.hpp"
#include "tests/support/strangers.hpp"
#include "tests/support/temporary_directory.hpp"

/// Three hosts of deploy/local-cluster.sh: network namespaces with links between them, TLS and encrypted blocks.
namespace baton {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

struct shell_result {
  int exit_code = -1;
  std::string out;  ///< and standard error
};

shell_result shell(const std::string& command) {
  shell_result result;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  std::array<char, 4096> piece{};
  while (pipe != nullptr) {
    const auto n = std::fread(piece.data(), 1, piece.size(), pipe);
    if (n == 0) break;
    result.out.append(piece.data(), n);
  }
  const int status = pipe == nullptr ? -1 : ::pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  return result;
}

/// Up as long as the object lives. Several tests at once do not meet: name and network follow from the process.
class host_cluster {
 public:
  explicit host_cluster(const std::string& options)
      : name_("t" + std::to_string(getpid() % 1'000'000)),
        subnet_("10." + std::to_string(100 + getpid() % 100) + "." + std::to_string(getpid() / 100 % 250)) {
    up_ = shell(call("up " + options));
  }
  ~host_cluster() { static_cast<void>(shell(call("down"))); }
  host_cluster(const host_cluster&) = delete;
  host_cluster& operator=(const host_cluster&) = delete;

  [[nodiscard]] const shell_result& up() const { return up_; }
  [[nodiscard]] std::string config() const { return (folder_.path() / "cluster/cluster.yaml").string(); }
  [[nodiscard]] std::string host(const std::string& which) const { return "baton-" + name_ + "-" + which; }
  [[nodiscard]] std::string address(const std::string& which) const {
    return subnet_ + (which == "coordinator" ? ".1" : "." + std::to_string(11 + std::stoi(which.substr(1))));
  }
  [[nodiscard]] std::string logs() const {
    return shell("cat " + (folder_.path() / "cluster/log").string() + "/*.log").out;
  }
  [[nodiscard]] shell_result down() const { return shell(call("down")); }
  /// Its network and all that runs there, at once.
  [[nodiscard]] shell_result tear_down(const std::string& which) const { return shell(call("host-down " + which)); }
  [[nodiscard]] shell_result bring_back(const std::string& which) const { return shell(call("host-up " + which)); }
  /// A process of that host which stands still, as the system says; -1: none does.
  [[nodiscard]] int stopped_on(const std::string& which) const {
    std::istringstream pids(shell("ip netns pids " + host(which)).out);
    for (int pid = 0; pids >> pid;) {
      if (state_of(pid) == 'T') return pid;
    }
    return -1;
  }
  /// False after a minute.
  [[nodiscard]] bool is_whole_again() const {
    return wait_for([&] {
      const auto status = run_baton({"status", "--config", config(), "--json"});
      if (status.exit_code != 0) return false;
      const auto nodes = json::parse(status.out).at("nodes");
      return std::ranges::all_of(nodes, [](const json& node) {
        const auto& devices = node.at("devices");
        return std::ranges::all_of(devices, [](const json& device) { return device.at("state") == "idle"; });
      });
    });
  }
  /// All that a cluster of this name could leave behind.
  [[nodiscard]] std::string remains() const {
    return shell("ip netns list | grep baton-" + name_ + "-; ip -o link show | grep bt-" + name_ + "; find " +
                 folder_.path().string() + " -name cluster")
        .out;
  }

 private:
  [[nodiscard]] std::string call(const std::string& what) const {
    return "BATON=" BATON_BINARY " BATON_CLUSTER_DIR=" + (folder_.path() / "cluster").string() + " " +
           (source / "deploy/local-cluster.sh").string() + " " + what + " --name " + name_ + " --subnet " + subnet_;
  }

  const temporary_directory folder_;
  const std::string name_;
  const std::string subnet_;
  shell_result up_;
};

#define UP_OR_SKIP(cluster)                                                                     \
  if ((cluster).up().exit_code == 2) GTEST_SKIP() << "NOT TESTED HERE: " << (cluster).up().out; \
  ASSERT_EQ((cluster).up().exit_code, 0) << (cluster).up().out;                                 \
  ASSERT_THAT((cluster).up().out, HasSubstr("config: " + (cluster).config()))

/// Ports that are listened on in a host, by address.
std::vector<std::pair<std::string, int>> listening_on(const std::string& host) {
  std::vector<std::pair<std::string, int>> all;
  std::istringstream lines(shell("ip netns exec " + host + " ss -H -t -l -n").out);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string state, receive, send, local;
    words >> state >> receive >> send >> local;
    const auto colon = local.rfind(':');
    if (colon != std::string::npos) all.emplace_back(local.substr(0, colon), std::stoi(local.substr(colon + 1)));
  }
  return all;
}

std::vector<std::string> job_of(const std::string& document, const std::string& question) {
  return {"--document", document, "--question", question, "--ranks", "6"};
}

std::vector<std::string> operator+(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// Seconds until one host knows that nobody listens at a port of another's; the best of some, for it may be lost on its way.
double round_trip(const host_cluster& cluster, const std::string& from, const std::string& to) {
  const std::string script =
      "import socket, time\n"
      "took = []\n"
      "for _ in range(5):\n"
      "    began = time.monotonic()\n"
      "    socket.socket().connect_ex((\"" +
      cluster.address(to) +
      "\", 9))\n"
      "    took.append(time.monotonic() - began)\n"
      "print(min(took))\n";
  return std::atof(shell("ip netns exec " + cluster.host(from) + " python3 -c '" + script + "'").out.c_str());
}

/// A job over the cluster's hosts has the answer, the logits and the choices of one process, to the bit.
void expect_the_bits_of_one_process(const host_cluster& cluster) {
  const temporary_directory folder;
  const auto s = samples_of("archive-2k").at(1);
  std::vector<std::string> dumps;
  std::vector<json> results;
  for (const auto& [command, config] :
       {std::pair<std::string, std::string>{"run", quickstart}, {"submit", cluster.config()}}) {
    const auto dump = (folder.path() / (command + ".safetensors")).string();
    const auto out = (folder.path() / (command + ".json")).string();
    const auto result =
        run_baton(std::vector<std::string>{command, "--config", config} + job_of(s.document, s.question) +
                  std::vector<std::string>{"--dump", dump, "--json", out, "--quiet"});
    ASSERT_EQ(result.exit_code, 0) << result.err << cluster.logs();
    dumps.push_back(text_of(dump));
    results.push_back(json_of(out));
  }
  EXPECT_FALSE(dumps[0].empty());
  EXPECT_TRUE(dumps[0] == dumps[1]) << "the dumps differ";
  EXPECT_EQ(results[0].at("answer_ids"), results[1].at("answer_ids"));
  EXPECT_THAT(results[1].at("answer").get<std::string>(), HasSubstr(s.answer));
  std::set<std::string> nodes;
  for (const auto& rank : results[1].at("ranks")) nodes.insert(rank.at("node").get<std::string>());
  EXPECT_EQ(nodes, (std::set<std::string>{"n0", "n1", "n2"}));
}

TEST(hosts, three_of_them_give_the_logits_of_one_process_to_the_bit_and_leave_nothing_behind) {
  fs::current_path(source);
  const host_cluster cluster("--nodes 3 --devices 2");
  UP_OR_SKIP(cluster);
  expect_the_bits_of_one_process(cluster);
  EXPECT_EQ(cluster.down().exit_code, 0);
  EXPECT_EQ(cluster.remains(), "");
}

TEST(hosts, far_away_from_each_other_over_lossy_links_they_give_the_same_bits) {
  fs::current_path(source);
  const host_cluster cluster("--nodes 3 --devices 2 --delay 50ms --loss 1 --rate 100mbit");
  UP_OR_SKIP(cluster);
  EXPECT_GE(round_trip(cluster, "n0", "n1"), 0.1) << "the links are not slow";
  expect_the_bits_of_one_process(cluster);
}

TEST(hosts, blocks_come_at_the_ports_that_a_firewall_lets_through) {
  fs::current_path(source);
  const host_cluster cluster("--nodes 3 --devices 2 --data-ports 4720-4722");
  UP_OR_SKIP(cluster);
  for (const std::string which : {"n0", "n1", "n2"}) {
    std::set<int> ports;
    for (const auto& [address, port] : listening_on(cluster.host(which))) ports.insert(port);
    EXPECT_EQ(ports, (std::set<int>{4720, 4721, 4722})) << which;
  }
  expect_the_bits_of_one_process(cluster);
}

TEST(hosts, strangers_on_every_port_change_nothing_while_a_job_runs) {
  fs::current_path(source);
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = std::max<rlim_t>(files.rlim_cur, std::min<rlim_t>(files.rlim_max, 8192));
  setrlimit(RLIMIT_NOFILE, &files);
  const temporary_directory folder;
  const auto s = samples_of("archive-32k").at(0);
  const host_cluster cluster("--nodes 3 --devices 1");
  UP_OR_SKIP(cluster);

  // Every port is on the address that the file names, apart from the TLS behind the guard.
  std::vector<socket_place> ports;
  for (const std::string which : {"coordinator", "n0", "n1", "n2"}) {
    for (const auto& [address, port] : listening_on(cluster.host(which))) {
      if (which == "coordinator" && address == "127.0.0.1") continue;
      EXPECT_EQ(address, cluster.address(which)) << which;
      ports.push_back(*socket_place::of(address, static_cast<std::uint16_t>(port)));
    }
  }
  ASSERT_EQ(ports.size(), 1u + 3u + 3u) << "the coordinator's, the agents', the workers'";
  const auto pids = [&] {
    return shell("for h in coordinator n0 n1 n2; do ip netns pids " + cluster.host("$h") + "; done").out;
  };
  const auto before = pids();

  const auto out = (folder.path() / "out.json").string();
  baton_process submit(std::vector<std::string>{"submit", "--config", cluster.config()} +
                       job_of(s.document, s.question) + std::vector<std::string>{"--json", out, "--quiet"});
  std::mt19937_64 random(11);
  std::vector<stranger_connection> idle;
  for (const auto& port : ports) {
    for (int i = 0; i < 500 / static_cast<int>(ports.size()) + 1; ++i) {
      idle.emplace_back(port);
      EXPECT_TRUE(idle.back().is_open()) << port.text();
    }
    for (int i = 0; i < 30; ++i) {
      stranger_connection hostile(port);
      std::vector<std::byte> noise(i % 3 == 0 ? 32 : 1 + random() % 3000);
      for (auto& b : noise) b = static_cast<std::byte>(i % 3 == 1 ? 0xff : i % 3 == 0 ? 0 : random());
      if (i % 3 == 0) noise[4] = std::byte{1};
      hostile.say(noise);
    }
  }
  const auto result = submit.wait();
  EXPECT_EQ(result.exit_code, 0) << result.err << cluster.logs();
  EXPECT_EQ(json_of(out).at("replays"), json::array()) << "somebody was taken for dead";
  EXPECT_EQ(pids(), before) << "a process has ended\n" << cluster.logs();
  for (const auto& stranger : idle) EXPECT_TRUE(stranger.is_closed_by_the_other_side());
  EXPECT_THAT(cluster.logs(), HasSubstr("was refused"));
}

TEST(hosts, a_node_with_certificates_of_another_cluster_is_not_let_in) {
  fs::current_path(source);
  const host_cluster cluster("--nodes 1 --devices 1");
  UP_OR_SKIP(cluster);
  const temporary_directory folder;
  auto text = text_of(cluster.config());
  const auto here = (fs::path(cluster.config()).parent_path() / "certificates").string();
  text.replace(text.find(here), here.size(), (folder.path() / "certificates").string());
  const auto config = folder.write("cluster.yaml", text).string();
  ASSERT_EQ(run_baton({"certificates", (folder.path() / "certificates").string(), "--config", config}).exit_code, 0);
  const auto refused = run_baton({"status", "--config", config});
  EXPECT_EQ(refused.exit_code, 1) << refused.out;
  EXPECT_EQ(run_baton({"status", "--config", cluster.config()}).exit_code, 0);
}

/// Neither host reaches the other from now on; whoever reaches both, the coordinator among them, still does.
void cut_off_from_each_other(const host_cluster& cluster, const std::string& one, const std::string& other) {
  for (const auto& [here, there] : {std::pair(one, other), std::pair(other, one)})
    ASSERT_EQ(shell("ip -n " + cluster.host(here) + " route add blackhole " + cluster.address(there) + "/32").out, "");
}

TEST(hosts, two_live_nodes_that_cannot_reach_each_other_exchange_through_a_third_and_nobody_computes_again) {
  fs::current_path(source);
  const temporary_directory folder;
  const auto settings =
      folder.write("settings.yaml", "timeouts: {silence: 20s, exchange: 15s, client: 60s}\n").string();
  const auto s = samples_of("archive-32k").at(0);
  const host_cluster cluster("--nodes 3 --devices 1 --settings " + settings);
  UP_OR_SKIP(cluster);
  const auto out = (folder.path() / "out.json").string();
  const auto submit = [&](const std::string& dump) {
    return std::make_unique<baton_process>(
        std::vector<std::string>{"submit", "--config", cluster.config()} + job_of(s.document, s.question) +
        std::vector<std::string>{"--json", out, "--dump", (folder.path() / dump).string()});
  };
  const auto calm = submit("calm.safetensors")->wait();
  ASSERT_EQ(calm.exit_code, 0) << calm.err << cluster.logs();
  const auto undisturbed = json_of(out);

  const auto job = submit("disturbed.safetensors");
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (job->err_so_far().find("prefill  ") == std::string::npos && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  cut_off_from_each_other(cluster, "n1", "n2");
  const auto ended = job->wait();
  ASSERT_EQ(ended.exit_code, 0) << ended.err << cluster.logs();
  const auto disturbed = json_of(out);
  EXPECT_EQ(disturbed.at("answer_ids"), undisturbed.at("answer_ids"));
  EXPECT_TRUE(text_of(folder.path() / "disturbed.safetensors") == text_of(folder.path() / "calm.safetensors"))
      << "the dumps differ";
  EXPECT_EQ(disturbed.at("replays"), json::array()) << cluster.logs();
  for (std::size_t rank = 0; rank < 6; ++rank) {
    const auto& one = disturbed.at("ranks").at(rank);
    const auto& other = undisturbed.at("ranks").at(rank);
    EXPECT_EQ(one.at("node"), other.at("node")) << rank;
    EXPECT_EQ(one.at("computed"), other.at("computed")) << rank;
  }
  EXPECT_THAT(cluster.logs(), HasSubstr("go through n0"));
}

TEST(hosts, two_live_nodes_that_cannot_reach_each_other_do_not_fail_a_job) {
  fs::current_path(source);
  const temporary_directory folder;
  const auto settings =
      folder.write("settings.yaml", "timeouts: {silence: 20s, exchange: 9s}\nrecovery: {replays: 5}\n").string();
  const auto s = samples_of("archive-2k").at(1);
  const host_cluster cluster("--nodes 3 --devices 1 --settings " + settings);
  UP_OR_SKIP(cluster);
  const auto answer_to = [&](const std::string& command, const std::string& config) {
    const auto out = (folder.path() / (command + ".json")).string();
    const auto result = run_baton(std::vector<std::string>{command, "--config", config} +
                                  job_of(s.document, s.question) + std::vector<std::string>{"--json", out, "--quiet"});
    EXPECT_EQ(result.exit_code, 0) << result.err << cluster.logs();
    return result.exit_code == 0 ? json_of(out) : json();
  };
  const auto undisturbed = answer_to("run", quickstart);
  // The coordinator still reaches all, and no third node reaches two that do not reach each other.
  cut_off_from_each_other(cluster, "n1", "n2");
  cut_off_from_each_other(cluster, "n1", "n0");
  const auto disturbed = answer_to("submit", cluster.config());
  ASSERT_TRUE(disturbed.is_object());
  EXPECT_EQ(disturbed.at("answer_ids"), undisturbed.at("answer_ids"));
  ASSERT_FALSE(disturbed.at("replays").empty());
  std::string causes;
  for (const auto& replay : disturbed.at("replays")) causes += replay.at("cause").get<std::string>() + "\n";
  EXPECT_THAT(causes, HasSubstr("do not seem to reach each other"));
}

TEST(hosts, a_node_that_is_cut_off_loses_its_ranks_and_takes_part_again_when_it_is_back) {
  fs::current_path(source);
  const temporary_directory folder;
  const auto settings = folder.write("settings.yaml", "timeouts: {silence: 2500ms, client: 30s}\n").string();
  const auto s = samples_of("archive-32k").at(0);
  const host_cluster cluster("--nodes 3 --devices 1 --settings " + settings);
  UP_OR_SKIP(cluster);
  const auto out = (folder.path() / "out.json").string();
  const auto submit = [&] {
    return std::make_unique<baton_process>(std::vector<std::string>{"submit", "--config", cluster.config()} +
                                           job_of(s.document, s.question) + std::vector<std::string>{"--json", out});
  };
  const auto job = submit();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (job->err_so_far().find("prefill  ") == std::string::npos && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  shell("ip -n " + cluster.host("n2") + " link set eth0 down");
  const auto disturbed = job->wait();
  ASSERT_EQ(disturbed.exit_code, 0) << disturbed.err << cluster.logs();
  EXPECT_FALSE(json_of(out).at("replays").empty());
  const auto answer = json_of(out).at("answer_ids");
  shell("ip -n " + cluster.host("n2") + " link set eth0 up");
  EXPECT_TRUE(cluster.is_whole_again()) << cluster.logs();
  const auto calm = submit()->wait();
  ASSERT_EQ(calm.exit_code, 0) << calm.err;
  EXPECT_EQ(json_of(out).at("answer_ids"), answer);
  EXPECT_TRUE(json_of(out).at("replays").empty());
}

TEST(hosts, a_node_that_is_torn_down_in_the_middle_of_a_layer_loses_its_ranks_and_nothing_else) {
  fs::current_path(source);
  const temporary_directory folder;
  const rehearsed_faults faults;
  const auto settings = folder.write("settings.yaml", "timeouts: {silence: 2500ms, client: 30s}\n").string();
  const auto s = samples_of("archive-8k").at(0);
  const auto [name, value] = faults.environment_variable();
  setenv(name.c_str(), value.c_str(), 1);
  const host_cluster cluster("--nodes 3 --devices 2 --settings " + settings);
  unsetenv(name.c_str());
  UP_OR_SKIP(cluster);
  const auto words = [&](const std::string& command, const std::string& config) {
    const auto out = (folder.path() / command).string();
    return std::vector<std::string>{command, "--config", config, "--dump", out + ".dump", "--json", out, "--quiet"} +
           job_of(s.document, s.question);
  };
  faults.stop_at({.rank = 3, .layer = 2, .chunk = 1});
  const auto job = std::make_unique<baton_process>(words("submit", cluster.config()));
  ASSERT_TRUE(wait_for([&] { return cluster.stopped_on("n1") > 0; })) << job->err_so_far() << cluster.logs();
  ASSERT_EQ(cluster.tear_down("n1").exit_code, 0);
  const auto disturbed = job->wait();
  ASSERT_EQ(disturbed.exit_code, 0) << disturbed.err << cluster.logs();
  ASSERT_EQ(run_baton(words("run", quickstart)).exit_code, 0);
  EXPECT_TRUE(text_of(folder.path() / "submit.dump") == text_of(folder.path() / "run.dump")) << "the dumps differ";
  const auto result = json_of(folder.path() / "submit");
  const auto expected = json_of(folder.path() / "run");
  EXPECT_EQ(result.at("answer_ids"), expected.at("answer_ids"));
  std::multiset<int> replayed;
  for (const auto& replay : result.at("replays")) replayed.insert(replay.at("rank").get<int>());
  EXPECT_THAT(replayed, testing::IsSupersetOf({2, 3}));
  for (int rank = 0; rank < 6; ++rank) {
    const auto index = static_cast<std::size_t>(rank);
    if (replayed.count(rank) > 1) continue;  // on a busy machine
    EXPECT_EQ(result.at("ranks")[index].at("computed"), expected.at("ranks")[index].at("computed")) << rank;
  }
  ASSERT_EQ(cluster.bring_back("n1").exit_code, 0);
  EXPECT_TRUE(cluster.is_whole_again()) << cluster.logs();
  EXPECT_EQ(cluster.down().exit_code, 0);
  EXPECT_EQ(cluster.remains(), "");
}

}  // namespace
}  // namespace baton
