#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace baton {

struct process_result {
  int exit_code = -1;  ///< 128 + signal where a signal ended it
  std::string out;
  std::string err;
  std::int64_t peak_bytes = 0;  ///< largest resident set
};

/// What a process does, as the system says: R, S, T (stopped), Z (ended), '-' (gone) …
char state_of(int pid);
/// It has ended.
bool is_gone(int pid);

/// A process of a run: the program itself, a node agent or a worker.
struct running_process {
  int pid = -1;
  std::vector<std::string> arguments;  ///< "run", "node" or "worker" first

  /// What stands behind an option; empty without it.
  [[nodiscard]] std::string option(const std::string& name) const;
};

/// The program under test as its own process, without a terminal. Its standard output and error are kept in files. When it has
/// ended, nothing of it may remain: no process that it or its children have started, no temporary file, no shared memory; what
/// does is a test failure.
class baton_process {
 public:
  enum class company : std::uint8_t {
    alone,
    others,  ///< others of the same test run beside it: what lies in shared memory may be theirs
  };

  /// `input` becomes its standard input; `environment` are extra "NAME=value".
  explicit baton_process(const std::vector<std::string>& arguments, const std::string& input = {},
                         const std::vector<std::string>& environment = {}, company beside = company::alone);
  ~baton_process();
  baton_process(const baton_process&) = delete;
  baton_process& operator=(const baton_process&) = delete;

  void send_signal(int signal) const;
  [[nodiscard]] int pid() const { return pid_; }
  /// Everything that runs on its behalf, known by an environment variable that all of it inherits.
  [[nodiscard]] std::vector<running_process> processes() const;
  [[nodiscard]] std::string err_so_far() const;
  /// Waits for the end; kills it and reports exit code 124 after `patience_s`.
  process_result wait(int patience_s = 120);

 private:
  void expect_nothing_left() const;

  const company beside_;
  std::string folder_;
  std::string mark_;
  std::set<std::string> shared_memory_;  ///< what was there before
  int pid_ = -1;
};

/// Runs it to the end.
process_result run_baton(const std::vector<std::string>& arguments, const std::string& input = {},
                         const std::vector<std::string>& environment = {});

}  // namespace baton
