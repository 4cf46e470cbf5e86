#include "runtime/transport/ucx_messenger.hpp"

#include <deque>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include <sys/eventfd.h>
#include <unistd.h>

#include "kernels/fault.hpp"
#include "runtime/transport/message_header.hpp"
#include "runtime/transport/ucx_connections.hpp"
#include "runtime/transport/ucx_worker.hpp"

namespace baton {
namespace {

using clock = std::chrono::steady_clock;

/// Payloads that are kept while nobody listens.
constexpr std::size_t kept_bytes_max = std::size_t{1} << 30;
/// Turns of UCX between two looks at what else there is to do.
constexpr int progress_calls_max = 64;

/// An eventfd: rung by anybody, it ends the transport thread's sleep.
class bell {
 public:
  bell() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (fd_ < 0) throw fault(fault_code::device, "no file descriptor for the transport thread");
  }
  ~bell() { ::close(fd_); }
  bell(const bell&) = delete;
  bell& operator=(const bell&) = delete;

  [[nodiscard]] int fd() const { return fd_; }
  void ring() noexcept { eventfd_write(fd_, 1); }
  void hush() noexcept {
    eventfd_t rings = 0;
    eventfd_read(fd_, &rings);
  }

 private:
  int fd_;
};

class ucx_messenger final : public messenger {
 public:
  explicit ucx_messenger(const ucx_options& options) : options_(options) {
    std::promise<std::string> started;
    auto address = started.get_future();
    thread_ = std::thread([this, promise = std::move(started)]() mutable { run(std::move(promise)); });
    try {
      address_ = address.get();
    } catch (...) {
      thread_.join();
      throw;
    }
  }

  ~ucx_messenger() override {
    post(stop_command{});
    thread_.join();
  }

  [[nodiscard]] const std::string& address() const override { return address_; }

  void listen(listener* who) override {
    if (std::this_thread::get_id() == thread_.get_id()) {
      listener_ = who;
      return;
    }
    std::promise<void> done;
    auto heard = done.get_future();
    post(listen_command{who, &done});
    heard.wait();
  }

  void send(const std::string& to, message m) override {
    check_sendable(m);
    check_address(to);
    post(send_command{to, std::move(m), clock::now() + options_.delay});
  }

  void forget(const std::string& to) override {
    check_address(to);
    post(forget_command{to});
  }

  [[nodiscard]] counts traffic() const override {
    return {counters_.messages_sent, counters_.bytes_sent, counters_.messages_received, counters_.bytes_received};
  }

 private:
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

  static void check_address(const std::string& address) {
    if (!read_address(std::as_bytes(std::span(address)))) {
      throw fault(fault_code::bad_input, "these bytes are no messenger's address");
    }
  }

  void post(command&& c) {
    const std::lock_guard lock(mutex_);
    commands_.push_back(std::move(c));
    if (commands_.size() == 1) bell_.ring();
  }

  void run(std::promise<std::string> started) {
    std::optional<ucx_worker> worker;
    std::optional<ucx_connections> connections;
    try {
      worker.emplace(options_.net_devices);
      connections.emplace(*worker, counters_);
    } catch (...) {
      started.set_exception(std::current_exception());
      return;
    }
    started.set_value(connections->address());
    while (!stopping_) {
      carry_out_commands(*connections);
      release_delayed(*connections);
      connections->advance(clock::now());
      bool moved = false;
      for (int i = 0; i < progress_calls_max && worker->progress(); ++i) moved = true;
      hand_over(*connections);
      tick();
      if (!moved && !stopping_) worker->wait(bell_.fd(), sleep_max(*connections));
    }
  }

  void carry_out_commands(ucx_connections& connections) {
    std::vector<command> taken;
    {
      const std::lock_guard lock(mutex_);
      if (commands_.empty()) return;
      taken.swap(commands_);
      bell_.hush();
    }
    for (auto& c : taken) std::visit([&](auto& what) { carry_out(connections, what); }, c);
  }

  void carry_out(ucx_connections& connections, send_command& c) {
    if (options_.delay.count() > 0) {
      delayed_.push_back(std::move(c));
    } else {
      connections.send(c.to, std::move(c.what));
    }
  }
  void carry_out(ucx_connections& connections, const forget_command& c) {
    std::erase_if(delayed_, [&](const send_command& waiting) { return waiting.to == c.to; });
    connections.forget(c.to);
  }
  void carry_out(ucx_connections& /*connections*/, const listen_command& c) {
    listener_ = c.who;
    c.done->set_value();
  }
  void carry_out(ucx_connections& /*connections*/, const stop_command& /*c*/) { stopping_ = true; }

  void release_delayed(ucx_connections& connections) {
    while (!delayed_.empty() && delayed_.front().due <= clock::now()) {
      connections.send(delayed_.front().to, std::move(delayed_.front().what));
      delayed_.pop_front();
    }
  }

  void hand_over(ucx_connections& connections) {
    for (auto& came : connections.take_arrived()) {
      const std::size_t bytes = came.what.payload ? came.what.payload->bytes.size() : 0;
      if (listener_ == nullptr && kept_bytes_ + bytes > kept_bytes_max) continue;
      kept_bytes_ += bytes;
      kept_.push_back(std::move(came));
    }
    while (listener_ != nullptr && !kept_.empty()) {
      auto came = std::move(kept_.front());
      kept_.pop_front();
      kept_bytes_ -= came.what.payload ? came.what.payload->bytes.size() : 0;
      listener_->received(*came.from, std::move(came.what));
    }
  }

  void tick() {
    if (listener_ == nullptr || clock::now() < next_tick_) return;
    listener_->tick();
    next_tick_ = clock::now() + tick_interval;
  }

  [[nodiscard]] std::optional<std::chrono::nanoseconds> sleep_max(const ucx_connections& connections) const {
    const auto now = clock::now();
    auto due = connections.next_due(now);
    const auto at = [&](clock::time_point t) { due = due ? std::min(*due, t) : t; };
    if (listener_ != nullptr) at(next_tick_);
    if (!delayed_.empty()) at(delayed_.front().due);
    if (!due) return std::nullopt;
    return *due - now;
  }

  const ucx_options options_;
  std::string address_;
  traffic_counters counters_;
  bell bell_;

  std::mutex mutex_;
  std::vector<command> commands_;

  // The transport thread's own.
  listener* listener_ = nullptr;
  std::deque<send_command> delayed_;           ///< in the order of their time
  std::deque<ucx_connections::arrival> kept_;  ///< not handed over yet
  std::size_t kept_bytes_ = 0;                 ///< their payloads
  clock::time_point next_tick_{};
  bool stopping_ = false;

  std::thread thread_;
};

}  // namespace

std::unique_ptr<messenger> make_ucx_messenger(const ucx_options& options) {
  return std::make_unique<ucx_messenger>(options);
}

}  // namespace baton
