#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/transport/messenger.hpp"

/// What makes a message arrive although the network may lose it: the sender keeps it and sends it again until the receiver has
/// acknowledged its number; the receiver knows by the number what it has had already. Bookkeeping only: no threads, no clock
/// (`now` comes with the call), nothing is sent from here.
namespace baton {

struct addressed_message {
  std::string to;
  message what;
};

/// A sender's messages that nobody has acknowledged yet. Numbers count from 1 for each receiver of their own, so that a receiver
/// sees no gaps; those of forgotten messages are never used again. Not synchronized.
class outbox {
 public:
  using time = std::chrono::steady_clock::time_point;

  /// A message goes out again after `delay_first`, then after twice as long each time up to `delay_max`. Behind bytes that the
  /// same receiver has not acknowledged it waits longer, as if they travelled at `slow_bytes_per_s`: a link that is merely slow
  /// must not be given everything twice.
  static constexpr std::chrono::milliseconds delay_first{1000};
  static constexpr std::chrono::milliseconds delay_max{8000};
  static constexpr std::int64_t slow_bytes_per_s = 32 << 20;

  /// Keeps the message and returns it with its number, to be sent now.
  [[nodiscard]] message post(const std::string& to, message what, time now);
  /// What is to be sent again now.
  [[nodiscard]] std::vector<addressed_message> due(time now);
  /// All that `to` has not acknowledged is due at once, as if it had not been sent yet: it is reached on another way.
  void send_again(const std::string& to, time now);
  /// Numbers that are not known, or not any more, change nothing.
  void acknowledged(const std::string& from, std::span<const std::uint64_t> deliveries);
  /// Drops all that is meant for a process that is gone.
  void forget(const std::string& to);
  /// Drops a job's messages.
  void forget_job(job_id job);
  /// What `to` has not acknowledged, in the order of posting.
  [[nodiscard]] std::vector<message> unacknowledged(const std::string& to) const;
  /// Messages that nobody has acknowledged.
  [[nodiscard]] std::size_t retained() const;

 private:
  struct kept {
    message what;
    time due;
    std::chrono::steady_clock::duration delay;  ///< before the next time
  };
  struct receiver {
    std::uint64_t last_delivery = 0;
    std::int64_t bytes = 0;  ///< in `messages`
    std::map<std::uint64_t, kept> messages;
  };

  std::map<std::string, receiver> receivers_;
};

/// Which deliveries a receiver has had, and what it has yet to acknowledge. Not synchronized.
class inbox_filter {
 public:
  /// True once for each number (from 1) of a sender. Either way it is to be acknowledged: what comes twice comes because an
  /// acknowledgement was late or lost. Whoever does not want to take a message (yet) does not ask.
  [[nodiscard]] bool first_time(const std::string& from, std::uint64_t delivery);
  /// What is to be acknowledged since the last call, by sender.
  [[nodiscard]] std::map<std::string, std::vector<std::uint64_t>> take_acknowledgements();
  /// Drops what is known of a process that is gone.
  void forget(const std::string& from);

 private:
  /// Runs [first, last] that have come, by `first`. Without gaps it is one; a number that its sender gave up leaves one more.
  using runs = std::map<std::uint64_t, std::uint64_t>;

  std::map<std::string, runs> seen_;
  std::map<std::string, std::vector<std::uint64_t>> acknowledgements_;
};

/// A message that acknowledges `deliveries`.
[[nodiscard]] message acknowledgement_of(std::span<const std::uint64_t> deliveries);
/// The numbers in an acknowledgement; nothing if its payload is not one, or was damaged.
[[nodiscard]] std::optional<std::vector<std::uint64_t>> acknowledged_by(const message& m);

}  // namespace baton
