#pragma once

#include <cstdint>
#include <vector>

#include <caf/all.hpp>

namespace baton::actors {

/// What a process waits for in its main thread: a signal that asks it to end, an actor that ends, a child. Made before any
/// other thread, so that all of them leave the signals to it. One thread.
class process_end {
 public:
  /// Throws fault(internal).
  process_end();
  ~process_end();
  process_end(const process_end&) = delete;
  process_end& operator=(const process_end&) = delete;

  /// From then on the end of `who` is noticed. It ends before this object does.
  template <class Handle>
  void watch(const Handle& who) const {
    watch_actor(*caf::actor_cast<caf::abstract_actor*>(who));
  }

  /// Sleeps until one of `descriptors` is readable (true), or a signal has come or a watched actor has ended (false).
  [[nodiscard]] bool wait_for(const std::vector<int>& descriptors) const;

 private:
  void watch_actor(caf::abstract_actor& who) const;

  int signals_ = -1;
  int actors_ = -1;
};

}  // namespace baton::actors
