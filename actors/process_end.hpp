#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
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

  enum class woken : std::uint8_t {
    signal,      ///< one that asks this process to end; told again by every further call
    actor,       ///< a watched actor has ended; told once
    descriptor,  ///< one of them is readable
    time,        ///< nothing of this
  };
  /// Sleeps until one of these has happened, of several the first.
  [[nodiscard]] woken wait_for(const std::vector<int>& descriptors,
                               std::optional<std::chrono::milliseconds> patience = {}) const;

 private:
  void watch_actor(caf::abstract_actor& who) const;

  int signals_ = -1;
  int actors_ = -1;
};

}  // namespace baton::actors
