#pragma once

#include <functional>
#include <mutex>
#include <utility>
#include <vector>

namespace baton::actors {

/// Events cross from a thread that is no actor's to an actor here; the actor is only told that there are some. Any thread.
template <class Event>
class event_inbox {
 public:
  void put(Event event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    if (events_.size() == 1 && tell_) tell_();
  }
  [[nodiscard]] std::vector<Event> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(events_, {});
  }
  /// `tell` is called when the first event since the last `take` has come, at once where there are some already. It must not
  /// keep an actor alive that owns the thread which puts, nor call this inbox. An empty one: events wait; whoever was told before is not
  /// called any more when this returns.
  void on_first(std::function<void()> tell) {
    const std::lock_guard lock(mutex_);
    tell_ = std::move(tell);
    if (tell_ && !events_.empty()) tell_();
  }

 private:
  std::mutex mutex_;
  std::vector<Event> events_;
  std::function<void()> tell_;
};

}  // namespace baton::actors
