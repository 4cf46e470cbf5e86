#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace baton {

/// Wakes the compute thread of a device. Rung before anybody sleeps, it wakes the next sleeper at once. Any thread rings, one
/// thread sleeps.
class doorbell {
 public:
  void ring() {
    const std::lock_guard lock(mutex_);
    ringing_ = true;
    rung_.notify_one();
  }

  /// Sleeps until it rings or the deadline has passed, and silences it.
  void wait(std::chrono::steady_clock::time_point deadline) {
    std::unique_lock lock(mutex_);
    rung_.wait_until(lock, deadline, [this] { return ringing_; });
    ringing_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable rung_;
  bool ringing_ = false;
};

}  // namespace baton
