#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace baton {

/// How a process has ended, for people: "exit code 1", "killed by signal 9 (Killed)".
std::string describe_exit(int wait_status);

/// A process that this one started. Its standard output and error are ours. Belongs to one thread.
class child_process {
 public:
  enum class group : std::uint8_t {
    own,     ///< leads a process group: a terminal's Ctrl-C does not reach it, and `kill` ends all that it has started
    parents  ///< belongs to this process's
  };

  /// Starts `program` with `arguments` (without the program's name); `input` is what it reads from standard input, to its end.
  /// Throws fault(internal) with the system's reason.
  child_process(const std::filesystem::path& program, const std::vector<std::string>& arguments,
                const std::string& input, group where);
  child_process(child_process&& other) noexcept;
  child_process& operator=(child_process&& other) noexcept;
  ~child_process();  ///< kills it

  [[nodiscard]] int pid() const { return pid_; }
  /// Becomes readable when the process has ended.
  [[nodiscard]] int descriptor() const { return descriptor_; }
  /// The wait status, if it has ended.
  [[nodiscard]] std::optional<int> ended();
  /// Asks it to end, also if it is stopped.
  void ask_to_end() const noexcept;
  /// Waits for the end; false if it still runs at the deadline.
  [[nodiscard]] bool wait_until(std::chrono::steady_clock::time_point deadline);
  /// Kills it and, where it leads a group, whoever is left of that. It has ended when this returns.
  void kill() noexcept;

 private:
  int pid_ = -1;
  int descriptor_ = -1;
  group group_ = group::parents;
  std::optional<int> status_;
};

/// The process that started this one.
class parent_process {
 public:
  /// `pid` is its number, for the system would name another parent once it has ended; 0: whoever that is now. Throws
  /// fault(lost_peer) where it has ended already.
  explicit parent_process(int pid = 0);
  ~parent_process();
  parent_process(const parent_process&) = delete;
  parent_process& operator=(const parent_process&) = delete;

  /// Becomes readable when it has ended.
  [[nodiscard]] int descriptor() const { return descriptor_; }

 private:
  int descriptor_ = -1;
};

/// The file of the running program.
std::filesystem::path this_program();

}  // namespace baton
