#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/transport/messenger.hpp"

/// What all messengers between processes have in common: the transport thread, how it is given work, and what it hands over.
namespace baton {

/// What a messenger has moved; counted on the transport thread, read by any.
struct traffic_counters {
  std::atomic<std::int64_t> messages_sent{0};
  std::atomic<std::int64_t> bytes_sent{0};
  std::atomic<std::int64_t> messages_received{0};
  std::atomic<std::int64_t> bytes_received{0};
};

/// The network below a messenger. All of it, construction and destruction too, belongs to the transport thread.
class message_network {
 public:
  using time_point = std::chrono::steady_clock::time_point;

  struct arrival {
    const std::string* from = nullptr;  ///< the sender's address; lives as long as the network
    message what;
  };

  virtual ~message_network() = default;
  [[nodiscard]] virtual const std::string& address() const = 0;
  /// `to`: an address that `read_address` takes.
  virtual void send(const std::string& to, message&& m) = 0;
  virtual void forget(const std::string& to) = 0;
  /// Connects to whom it is time, closes what broke, sends what waited.
  virtual void advance(time_point now) = 0;
  /// When `advance` has to be called again even if nothing moves.
  [[nodiscard]] virtual std::optional<time_point> next_due(time_point now) const = 0;
  /// Does a bounded share of what there is to do. False: nothing was.
  virtual bool progress() = 0;
  /// Sleeps until there is something to do, `other_fd` is readable, or `time_max` is over (nullopt: never).
  virtual void wait(int other_fd, std::optional<std::chrono::nanoseconds> time_max) = 0;
  /// What has come since the last call.
  [[nodiscard]] virtual std::vector<arrival> take_arrived() = 0;
};

/// An eventfd: rung by anybody, it ends the transport thread's sleep.
class thread_bell {
 public:
  /// Throws fault(device).
  thread_bell();
  ~thread_bell();
  thread_bell(const thread_bell&) = delete;
  thread_bell& operator=(const thread_bell&) = delete;

  [[nodiscard]] int fd() const { return fd_; }
  void ring() noexcept;
  void hush() noexcept;

 private:
  int fd_;
};

/// A messenger over whatever network `make` makes, on the transport thread.
class messenger_thread final : public messenger {
 public:
  using network_maker = std::function<std::unique_ptr<message_network>(traffic_counters&)>;

  /// `delay` holds every outgoing message back. Throws what `make` throws.
  messenger_thread(network_maker make, std::chrono::milliseconds delay);
  ~messenger_thread() override;

  [[nodiscard]] const std::string& address() const override { return address_; }
  void listen(listener* who) override;
  void send(const std::string& to, message m) override;
  void forget(const std::string& to) override;
  [[nodiscard]] counts traffic() const override;

 private:
  using clock = std::chrono::steady_clock;

  struct send_command {
    std::string to;
    message what;
    clock::time_point due;
  };
  struct forget_command {
    std::string to;
  };
  struct listen_command {
    listener* who = nullptr;
    std::promise<void>* done = nullptr;
  };
  struct stop_command {};
  using command = std::variant<send_command, forget_command, listen_command, stop_command>;

  void post(command&& c);
  void run(std::promise<std::string> started);
  void carry_out_commands(message_network& network);
  void carry_out(message_network& network, send_command& c);
  void carry_out(message_network& network, const forget_command& c);
  void carry_out(message_network& network, const listen_command& c);
  void carry_out(message_network& network, const stop_command& c);
  void release_delayed(message_network& network);
  void hand_over(message_network& network);
  void tick();
  [[nodiscard]] std::optional<std::chrono::nanoseconds> sleep_max(const message_network& network) const;

  const network_maker make_;
  const std::chrono::milliseconds delay_;
  std::string address_;
  traffic_counters counters_;
  thread_bell bell_;

  std::mutex mutex_;
  std::vector<command> commands_;

  // The transport thread's own.
  listener* listener_ = nullptr;
  std::deque<send_command> delayed_;           ///< in the order of their time
  std::deque<message_network::arrival> kept_;  ///< not handed over yet
  std::size_t kept_bytes_ = 0;                 ///< their payloads
  clock::time_point next_tick_{};
  bool stopping_ = false;

  std::thread thread_;
};

}  // namespace baton
