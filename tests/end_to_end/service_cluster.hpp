#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/end_to_end/baton_process.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {

/// What a service_cluster is made of, where it is not the usual one.
struct service_shape {
  int devices = 1;                ///< of each node
  std::string memory = "512MiB";  ///< of each device
  std::string model;              ///< further keys of the section
  std::string job = "ranks: 4";
  std::string node;                      ///< further keys of each node
  std::vector<std::string> environment;  ///< "NAME=value", of coordinator, agents and workers
};

/// A coordinator and two nodes, west and east, as processes on loopback. Whatever a test does to them, all end with this object; how
/// each of them ended is told on standard output.
class service_cluster {
 public:
  /// `settings` is YAML that is added to the configuration, and `coordinator` keys of its section.
  explicit service_cluster(const std::string& coordinator = {}, const std::string& settings = {},
                           service_shape shape = {});
  ~service_cluster();

  /// Options that coordinator and nodes get from now on.
  void logs_with(std::vector<std::string> options) { log_options_ = std::move(options); }
  void start_coordinator();
  void start_node(const std::string& name);
  /// Coordinator and both nodes, and all devices idle.
  void start_all();
  void kill_coordinator();
  void kill_node(const std::string& name);
  /// Asks it to end, and starts it again: one whose workers died often waits long before it starts them.
  void renew_node(const std::string& name);
  /// It was started, and not killed since.
  [[nodiscard]] bool has_node(const std::string& name) const { return (name == "west" ? west_ : east_) != nullptr; }
  /// Its processes: the agent, which holds the relay, and the workers. None where it was killed.
  [[nodiscard]] std::vector<running_process> processes_of(const std::string& name) const;
  /// Everything on it at once, as when a machine loses its power.
  void tear_down_node(const std::string& name);
  [[nodiscard]] baton_process& coordinator() const { return *coordinator_; }
  [[nodiscard]] std::string coordinator_said() const { return coordinator_->err_so_far(); }
  /// With its workers.
  [[nodiscard]] std::string node_said(const std::string& name) const {
    return (name == "west" ? west_ : east_)->err_so_far();
  }

  [[nodiscard]] std::string config() const { return (folder_.path() / "service.yaml").string(); }
  [[nodiscard]] std::filesystem::path folder() const { return folder_.path(); }

  /// `baton COMMAND --config … ARGUMENTS`, to its end.
  [[nodiscard]] process_result ask(const std::string& command, const std::vector<std::string>& arguments = {},
                                   const std::string& input = {}) const;
  [[nodiscard]] std::unique_ptr<baton_process> begin(const std::string& command,
                                                     const std::vector<std::string>& arguments,
                                                     const std::string& input = {}) const;
  /// The number of a job that was submitted with --detach.
  [[nodiscard]] std::string detach(const std::vector<std::string>& arguments, const std::string& input = {}) const;
  [[nodiscard]] nlohmann::json status() const;
  [[nodiscard]] std::string state_of(const std::string& job) const;
  [[nodiscard]] int worker_of(const std::string& node) const;
  /// Asks again and again, as the next two do; false after a minute.
  bool wait_until(const std::function<bool(const nlohmann::json&)>& status_is_right) const;
  /// All nodes are there, and nothing runs on any device.
  [[nodiscard]] bool wait_until_idle() const;
  bool wait_for_state(const std::string& job, const std::string& state) const;

 private:
  static void end(const std::string& name, std::unique_ptr<baton_process>& process, int signal);

  const temporary_directory folder_;
  const service_shape shape_;
  std::vector<std::string> log_options_;
  std::unique_ptr<baton_process> coordinator_;
  std::unique_ptr<baton_process> west_;
  std::unique_ptr<baton_process> east_;
};

}  // namespace baton
