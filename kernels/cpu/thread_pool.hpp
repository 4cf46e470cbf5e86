#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace baton::cpu {

/// The threads of one CPU device. `parallel_for` is called by the device's one compute thread, which works along as thread 0;
/// between calls the others look out for the next one, and sleep when none comes soon: to wake a thread takes longer than many of a
/// decoding step's kernels. Indices are handed out dynamically, so a body's result must not depend on which thread runs
/// it. An exception of a body is thrown by parallel_for after all threads have stopped.
class thread_pool {
 public:
  explicit thread_pool(int threads);
  ~thread_pool();
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  [[nodiscard]] int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(index, thread) for every index in [0, count); thread in [0, size()) names the caller's scratch space.
  template <class Body>
  void parallel_for(std::int64_t count, Body&& body) {
    using plain = std::remove_reference_t<Body>;
    run(
        count, [](void* context, std::int64_t index, int thread) { (*static_cast<plain*>(context))(index, thread); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using call = void (*)(void*, std::int64_t, int);

  void run(std::int64_t count, call body, void* context);
  void work(int thread);
  void serve(int thread);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable started_;
  std::condition_variable finished_;
  std::atomic<std::uint64_t> generation_{0};  ///< of calls; changed under mutex_, after what describes the call
  std::atomic<int> running_{0};               ///< threads that have not finished the call
  std::atomic<bool> stopping_{false};
  call body_ = nullptr;
  void* context_ = nullptr;
  std::int64_t count_ = 0;
  std::atomic<std::int64_t> next_{0};
  std::exception_ptr error_;
};

}  // namespace baton::cpu
