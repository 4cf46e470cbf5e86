#pragma once

#include <coroutine>
#include <exception>
#include <utility>

namespace baton {

class transfer;

/// Where a pass stands between two steps: the innermost suspended coroutine and what it waits for. Owned by the pass; used by
/// the device's compute thread only.
struct suspension {
  std::coroutine_handle<> resume_at;
  transfer* waiting_for = nullptr;  ///< null: only gives way to other passes
};

/// A part of a pass: a coroutine that starts when awaited (or when a pass starts it), may await other tasks and the two leaves
/// `give_way` and `transfer`, and hands exceptions to whoever awaits it. Destroying a suspended task abandons it with
/// everything that it has awaited. Never leaves the compute thread.
class [[nodiscard]] task {
 public:
  struct promise_type {
    suspension* place = nullptr;
    std::coroutine_handle<> awaiting;
    std::exception_ptr error;

    task get_return_object() { return task(std::coroutine_handle<promise_type>::from_promise(*this)); }
    std::suspend_always initial_suspend() noexcept { return {}; }
    auto final_suspend() noexcept {
      struct resume_awaiting {
        bool await_ready() noexcept { return false; }
        std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> self) noexcept {
          const auto next = self.promise().awaiting;
          return next ? next : std::noop_coroutine();
        }
        void await_resume() noexcept {}
      };
      return resume_awaiting{};
    }
    void return_void() {}
    void unhandled_exception() { error = std::current_exception(); }
  };

  task(task&& other) noexcept : coroutine_(std::exchange(other.coroutine_, nullptr)) {}
  task& operator=(task&& other) noexcept {
    std::swap(coroutine_, other.coroutine_);
    return *this;
  }
  ~task() {
    if (coroutine_) coroutine_.destroy();
  }

  /// Readies the outermost task of a pass: `place.resume_at` is its beginning.
  void start(suspension& place) {
    coroutine_.promise().place = &place;
    place.resume_at = coroutine_;
  }
  [[nodiscard]] bool done() const { return coroutine_.done(); }
  void rethrow() const {
    if (coroutine_.promise().error) std::rethrow_exception(coroutine_.promise().error);
  }

  auto operator co_await() && noexcept {
    struct awaiter {
      std::coroutine_handle<promise_type> inner;
      bool await_ready() noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> outer) noexcept {
        inner.promise().place = outer.promise().place;
        inner.promise().awaiting = outer;
        return inner;
      }
      void await_resume() {
        if (inner.promise().error) std::rethrow_exception(inner.promise().error);
      }
    };
    return awaiter{coroutine_};
  }

 private:
  explicit task(std::coroutine_handle<promise_type> coroutine) : coroutine_(coroutine) {}
  std::coroutine_handle<promise_type> coroutine_;
};

/// Lets other passes of the device have a turn, and a stop take effect: awaited between chunks.
struct give_way {
  bool await_ready() noexcept { return false; }
  void await_suspend(std::coroutine_handle<task::promise_type> self) noexcept {
    *self.promise().place = {self, nullptr};
  }
  void await_resume() noexcept {}
};

}  // namespace baton
