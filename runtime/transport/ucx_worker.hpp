#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "runtime/transport/ucx_library.hpp"

namespace baton {

/// A UCX context with one worker, and the means to sleep until it has something to do. All of it, construction and destruction too,
/// belongs to one thread.
class ucx_worker {
 public:
  /// `net_devices`: as UCX_NET_DEVICES has it; empty leaves the choice to UCX. Throws fault(bad_input) where one is not there.
  explicit ucx_worker(const std::string& net_devices);
  ~ucx_worker();
  ucx_worker(const ucx_worker&) = delete;
  ucx_worker& operator=(const ucx_worker&) = delete;

  [[nodiscard]] ucp_worker_h get() const { return worker_; }
  [[nodiscard]] std::string address() const;
  /// Does what there is to do. False: nothing was.
  bool progress() { return ucx().ucp_worker_progress(worker_) != 0; }
  /// Sleeps until there is something to do, `other_fd` (-1: none) is readable, or `time_max` is over (nullopt: never). Returns at
  /// once where there is something to do already.
  void wait(int other_fd, std::optional<std::chrono::nanoseconds> time_max);

  /// Before destruction: sends what UCX still has to send by itself. It answers whoever connects, over an endpoint of its own, and
  /// aborts the program if the worker is destroyed before such an answer is on its way; past the deadline the worker is therefore
  /// left as it is.
  void finish(std::chrono::steady_clock::time_point deadline);

 private:
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int event_fd_ = -1;
  bool finished_ = true;
};

}  // namespace baton
