#include "kernels/cpu/thread_pool.hpp"

#include <chrono>
#include <thread>
#include <utility>

#include <hwy/cache_control.h>
#include <omp.h>

namespace baton::cpu {

namespace {

/// Whether it comes true soon. Gives way to whoever else wants the core.
template <class Condition>
bool soon(Condition&& condition) {
  using clock = std::chrono::steady_clock;
  constexpr auto patience = std::chrono::microseconds(100);
  constexpr int looks_per_turn = 32;
  const auto end = clock::now() + patience;
  do {
    for (int look = 0; look < looks_per_turn; ++look) {
      if (condition()) return true;
      hwy::Pause();
    }
    std::this_thread::yield();
  } while (clock::now() < end);
  return false;
}

}  // namespace

thread_pool::thread_pool(int threads) {
  for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { serve(thread); });
}

thread_pool::~thread_pool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  started_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void thread_pool::run(std::int64_t count, call body, void* context) {
  // oneDNN brings OpenMP: inside our threads it must not start threads of its own.
  omp_set_num_threads(1);
  if (count <= 1 || workers_.empty()) {
    for (std::int64_t index = 0; index < count; ++index) body(context, index, 0);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    body_ = body;
    context_ = context;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
  }
  started_.notify_all();
  work(0);
  const auto all_finished = [this] { return running_.load(std::memory_order_acquire) == 0; };
  if (!soon(all_finished)) {
    std::unique_lock lock(mutex_);
    finished_.wait(lock, all_finished);
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void thread_pool::work(int thread) {
  try {
    for (;;) {
      const std::int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
      if (index >= count_) return;
      body_(context_, index, thread);
    }
  } catch (...) {
    next_.store(count_, std::memory_order_relaxed);
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void thread_pool::serve(int thread) {
  omp_set_num_threads(1);
  std::uint64_t seen = 0;
  const auto called = [&] {
    return stopping_.load(std::memory_order_relaxed) || generation_.load(std::memory_order_acquire) != seen;
  };
  for (;;) {
    if (!soon(called)) {
      std::unique_lock lock(mutex_);
      started_.wait(lock, called);
    }
    if (stopping_.load(std::memory_order_relaxed)) return;
    seen = generation_.load(std::memory_order_acquire);
    work(thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      const std::lock_guard lock(mutex_);
      finished_.notify_one();
    }
  }
}

}  // namespace baton::cpu
