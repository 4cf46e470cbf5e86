#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "runtime/cluster/messages.hpp"

namespace baton {

/// What a client is still to be told. A client grants how many more updates it can take; the rest waits here, and of a job's progress
/// only the newest. So a client that stops reading costs bounded memory: see `overflows` and `stalled`. One thread; no clock.
class client_outbox {
 public:
  struct limits {
    std::uint32_t credit = 0;  ///< that a client begins with; 0: it takes everything at once, and grants nothing
    std::size_t bytes_max = std::size_t{64} << 20;  ///< that may wait
    double stall_s = 10;                            ///< that it may let something wait without granting anything
  };

  explicit client_outbox(const limits& how) : limits_(how), credit_(how.credit) {}

  void put(client_update update, double now_s);
  void granted(std::uint32_t count, double now_s);
  /// What may be sent now, in order.
  [[nodiscard]] std::vector<client_update> take();

  [[nodiscard]] std::size_t waiting() const { return waiting_.size(); }
  [[nodiscard]] bool overflows() const { return bytes_ > limits_.bytes_max; }
  [[nodiscard]] bool stalled(double now_s) const { return !waiting_.empty() && now_s - moved_s_ > limits_.stall_s; }
  /// For as long nobody could grant anything: the coordinator itself stood still.
  void excuse(double seconds) { moved_s_ += seconds; }

 private:
  limits limits_;
  std::uint64_t credit_;
  double moved_s_ = 0;  ///< when something was granted, or began to wait
  std::size_t bytes_ = 0;
  std::deque<client_update> waiting_;
};

}  // namespace baton
