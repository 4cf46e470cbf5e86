#include "tests/end_to_end/service_cluster.hpp"

#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <thread>

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/end_to_end/samples.hpp"

namespace baton {
namespace {

/// One that nobody listens on now.
int free_port() {
  const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  if (bind(s, reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      getsockname(s, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    throw std::runtime_error("no free port");
  }
  close(s);
  return ntohs(address.sin_port);
}

std::string text_of_node(const std::string& name, const service_shape& shape) {
  std::string devices;
  for (int i = 0; i < shape.devices; ++i) {
    devices += (i == 0 ? "" : ", ") + std::string("{name: cpu") + std::to_string(i) +
               ", threads: 1, memory: " + shape.memory + "}";
  }
  return "  - {name: " + name + ", devices: [" + devices + "]" + (shape.node.empty() ? "" : ", " + shape.node) + "}\n";
}

}  // namespace

service_cluster::service_cluster(const std::string& coordinator, const std::string& settings, service_shape shape)
    : shape_(std::move(shape)) {
  std::filesystem::current_path(source);
  std::ofstream(config()) << "model: {directory: " << (source / "models/needle").string() << ", prompt: needle"
                          << (shape_.model.empty() ? "" : ", " + shape_.model) << "}\n"
                          << "job: {strategy: apb, " << shape_.job << "}\n"
                          << "coordinator: {port: " << free_port() << ", journal: journal"
                          << (coordinator.empty() ? "" : ", " + coordinator) << "}\n"
                          << "nodes:\n"
                          << text_of_node("west", shape_) << text_of_node("east", shape_)
                          << "limits: {positions_max: 131072}\n"
                          // Nobody is silent for so long on a busy machine, unless a test makes it so.
                          << (settings.find("timeouts") == std::string::npos ? "timeouts: {silence: 20s, client: 30s}\n"
                                                                             : "")
                          << settings << '\n';
}

service_cluster::~service_cluster() {
  end("node west", west_, SIGTERM);
  end("node east", east_, SIGTERM);
  end("coordinator", coordinator_, SIGTERM);
}

void service_cluster::end(const std::string& name, std::unique_ptr<baton_process>& process, int signal) {
  if (!process) return;
  process->send_signal(signal);
  const auto ended = process->wait();
  std::printf("%s ended with %d, having said:\n%s", name.c_str(), ended.exit_code, ended.err.c_str());
  process.reset();
}

void service_cluster::start_coordinator() {
  coordinator_ = begin("coordinator", log_options_);
  for (int i = 0; i < 6000 && coordinator_->err_so_far().find('\n') == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

void service_cluster::start_node(const std::string& name) {
  auto words = log_options_;
  words.insert(words.end(), {"--name", name});
  (name == "west" ? west_ : east_) = begin("node", words);
}

void service_cluster::start_all() {
  start_coordinator();
  start_node("west");
  start_node("east");
  ASSERT_TRUE(wait_until_idle()) << coordinator_->err_so_far();
}

bool service_cluster::wait_until_idle() const {
  return wait_until([](const nlohmann::json& status) {
    for (const auto& node : status.at("nodes")) {
      if (node.at("state") != "idle") return false;
      for (const auto& device : node.at("devices")) {
        if (device.at("state") != "idle") return false;
      }
    }
    return true;
  });
}

void service_cluster::kill_coordinator() { end("coordinator", coordinator_, SIGKILL); }

void service_cluster::kill_node(const std::string& name) {
  end("node " + name, name == "west" ? west_ : east_, SIGKILL);
}

void service_cluster::renew_node(const std::string& name) {
  end("node " + name, name == "west" ? west_ : east_, SIGTERM);
  start_node(name);
}

std::vector<running_process> service_cluster::processes_of(const std::string& name) const {
  const auto& node = name == "west" ? west_ : east_;
  return node ? node->processes() : std::vector<running_process>{};
}

void service_cluster::tear_down_node(const std::string& name) {
  for (const auto& process : processes_of(name)) kill(process.pid, SIGKILL);
  kill_node(name);
}

std::unique_ptr<baton_process> service_cluster::begin(const std::string& command,
                                                      const std::vector<std::string>& arguments,
                                                      const std::string& input) const {
  std::vector<std::string> words{command, "--config", config()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  return std::make_unique<baton_process>(words, input, shape_.environment, baton_process::company::others);
}

process_result service_cluster::ask(const std::string& command, const std::vector<std::string>& arguments,
                                    const std::string& input) const {
  return begin(command, arguments, input)->wait();
}

std::string service_cluster::detach(const std::vector<std::string>& arguments, const std::string& input) const {
  auto words = arguments;
  words.emplace_back("--detach");
  const auto result = ask("submit", words, input);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return result.out.substr(0, result.out.find('\n'));
}

nlohmann::json service_cluster::status() const {
  const auto result = ask("status", {"--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return result.exit_code == 0 ? nlohmann::json::parse(result.out) : nlohmann::json();
}

std::string service_cluster::state_of(const std::string& job) const {
  const auto result = ask("jobs", {"--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  if (result.exit_code != 0) return {};
  for (const auto& one : nlohmann::json::parse(result.out)) {
    if (std::to_string(one.at("id").get<int>()) == job) return one.at("state");
  }
  return {};
}

int service_cluster::worker_of(const std::string& node) const {
  const auto now = status();
  for (const auto& one : now.at("nodes")) {
    if (one.at("name") == node && one.at("devices").at(0).at("worker_pid").is_number())
      return one.at("devices").at(0).at("worker_pid");
  }
  return -1;
}

bool service_cluster::wait_until(const std::function<bool(const nlohmann::json&)>& status_is_right) const {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (std::chrono::steady_clock::now() < deadline) {
    const auto result = ask("status", {"--json"});
    if (result.exit_code == 0 && status_is_right(nlohmann::json::parse(result.out))) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return false;
}

bool service_cluster::wait_for_state(const std::string& job, const std::string& state) const {
  return wait_until([&](const nlohmann::json& status) {
    for (const auto& one : status.at("jobs")) {
      if (std::to_string(one.at("id").get<int>()) == job && one.at("state") == state) return true;
    }
    return false;
  });
}

}  // namespace baton
