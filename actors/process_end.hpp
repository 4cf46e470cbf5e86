#pragma once

#include <cstdint>
#include <vector>

#include <caf/all.hpp>

namespace baton::actors {

/// What a process waits for in its main thread: a signal that asks it to end, an actor that ends, a child. Made before any
/// other thread, so that all of them leave the signals to it. One thread, except `actor_ended`.
class process_end {
 public:
  /// Throws fault(internal).
  process_end();
  ~process_end();
  process_end(const process_end&) = delete;
  process_end& operator=(const process_end&) = delete;

  /// From then on the end of `who` is noticed.
  template <class Handle>
  void watch(caf::actor_system& system, const Handle& who) {
    watch_address(system, caf::actor_cast<caf::actor_addr>(who));
  }

  /// Sleeps until one of `descriptors` is readable (true), or a signal has come or a watched actor has ended (false).
  [[nodiscard]] bool wait_for(const std::vector<int>& descriptors) const;

 private:
  void watch_address(caf::actor_system& system, const caf::actor_addr& who);

  int signals_ = -1;
  int actors_ = -1;
};

}  // namespace baton::actors
