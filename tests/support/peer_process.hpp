#pragma once

#include <string>

#include <sys/types.h>

namespace baton {

/// A process of tests/programs/messenger_peer.cpp, which sends every message back. Killed with its owner.
class peer_process {
 public:
  /// `program`: its path; `kind`: of its messenger. Returns when the process listens. Throws std::runtime_error.
  peer_process(const std::string& program, const std::string& kind);
  ~peer_process();
  peer_process(const peer_process&) = delete;
  peer_process& operator=(const peer_process&) = delete;

  /// Of its messenger.
  [[nodiscard]] const std::string& address() const { return address_; }
  void signal(int number) const;
  /// SIGKILL, and waits until it is gone.
  void kill();

 private:
  pid_t pid_ = -1;
  int input_ = -1;  ///< of the process, which ends when it closes
  std::string address_;
};

}  // namespace baton
