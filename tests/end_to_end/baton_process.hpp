#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace baton {

struct process_result {
  int exit_code = -1;  ///< 128 + signal where a signal ended it
  std::string out;
  std::string err;
  std::int64_t peak_bytes = 0;  ///< largest resident set
};

/// The program under test as its own process, without a terminal. Its standard output and error are kept in files.
class baton_process {
 public:
  /// `input` becomes its standard input; `environment` are extra "NAME=value".
  explicit baton_process(const std::vector<std::string>& arguments, const std::string& input = {},
                         const std::vector<std::string>& environment = {});
  ~baton_process();
  baton_process(const baton_process&) = delete;
  baton_process& operator=(const baton_process&) = delete;

  void send_signal(int signal) const;
  [[nodiscard]] std::string err_so_far() const;
  /// Waits for the end; kills it and reports exit code 124 after `patience_s`.
  process_result wait(int patience_s = 120);

 private:
  std::string folder_;
  int pid_ = -1;
};

/// Runs it to the end.
process_result run_baton(const std::vector<std::string>& arguments, const std::string& input = {},
                         const std::vector<std::string>& environment = {});

}  // namespace baton
