#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "runtime/transport/messenger.hpp"

namespace baton {

/// How often what goes wrong, each from 0 to 1, for every message by itself. What happens to the n-th message from one process to
/// another depends on the seed, n and the two alone.
struct fault_plan {
  std::uint64_t seed = 1;
  double drop = 0;
  double duplicate = 0;
  double delay = 0;  ///< by up to `delay_max`: others overtake it
  std::chrono::milliseconds delay_max{5};
};

/// Processes that talk to each other inside one program, over a network that misbehaves by plan and on command. One thread delivers,
/// as the transport thread of all of them. Outlives its messengers; any thread.
class faulty_network {
 public:
  explicit faulty_network(const fault_plan& plan = {});
  ~faulty_network();
  faulty_network(const faulty_network&) = delete;
  faulty_network& operator=(const faulty_network&) = delete;

  /// Its address is "process 1", "process 2", … in the order of making.
  [[nodiscard]] std::unique_ptr<messenger> make_messenger();

  // Orders for the next message of a kind that is sent, whatever the plan says; several are obeyed in turn.
  void drop_next(message_kind kind) { order(kind, what_to_do::drop); }
  void duplicate_next(message_kind kind) { order(kind, what_to_do::duplicate); }
  /// One byte of its payload changes, in a copy.
  void corrupt_next(message_kind kind) { order(kind, what_to_do::corrupt); }
  /// It is delivered after a call of `release_held`.
  void hold_next(message_kind kind) { order(kind, what_to_do::hold); }
  void release_held();

  /// A stopped process hears nothing, ticks included, and nothing it sends goes out, until it goes on.
  void stop(const std::string& address);
  void go_on(const std::string& address);
  /// Nothing that one sends reaches the other, in either direction, from now on.
  void cut(const std::string& one, const std::string& other);
  /// Nothing comes from it or to it any more.
  void kill(const std::string& address);

  struct counts {
    std::int64_t dropped = 0;
    std::int64_t duplicated = 0;
    std::int64_t delayed = 0;
    std::int64_t corrupted = 0;
  };
  [[nodiscard]] counts what_happened() const;
  /// How many messages of a kind were sent, lost ones included.
  [[nodiscard]] std::int64_t sent(message_kind kind) const;

 private:
  friend class faulty_messenger;
  using time = std::chrono::steady_clock::time_point;
  enum class what_to_do : std::uint8_t { drop, duplicate, corrupt, hold };

  struct travelling {
    std::string from;
    std::string to;
    message what;
  };
  struct process {
    messenger::listener* hears = nullptr;
    bool stopped = false;
    bool killed = false;
    bool is_called = false;  ///< its listener, at this moment
    time next_tick;
    std::vector<travelling> waiting;  ///< it has stopped, or does not listen yet
    messenger::counts traffic;
  };

  void order(message_kind kind, what_to_do what);
  void send(const std::string& from, const std::string& to, message&& m);
  void listen(const std::string& address, messenger::listener* who);
  void leave(const std::string& address);
  void run();
  /// These with the mutex held; a listener is called without it.
  void travel(travelling&& m, time due);
  void deliver(std::unique_lock<std::mutex>& lock, travelling&& m);
  void tick(std::unique_lock<std::mutex>& lock, time now);
  [[nodiscard]] bool is_off(const std::string& address) const;

  const fault_plan plan_;
  mutable std::mutex mutex_;
  std::condition_variable moved_;
  std::map<std::string, process> processes_;
  int made_ = 0;
  std::multimap<time, travelling> under_way_;
  std::vector<travelling> held_;
  std::multimap<message_kind, what_to_do> orders_;
  std::map<std::pair<std::string, std::string>, std::uint64_t> sent_between_;
  std::map<message_kind, std::int64_t> sent_of_kind_;
  std::set<std::pair<std::string, std::string>> cut_;  ///< the lesser first
  counts happened_;
  bool over_ = false;
  std::thread thread_;  ///< last: it uses the rest
};

}  // namespace baton
