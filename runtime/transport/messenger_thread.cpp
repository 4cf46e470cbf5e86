#include "runtime/transport/messenger_thread.hpp"

#include <span>

#include <sys/eventfd.h>
#include <unistd.h>

#include "kernels/fault.hpp"
#include "runtime/transport/message_header.hpp"

namespace baton {
namespace {

/// Payloads that are kept while nobody listens.
constexpr std::size_t kept_bytes_max = std::size_t{1} << 30;
/// Turns of the network between two looks at what else there is to do.
constexpr int progress_calls_max = 64;

void check_address(const std::string& address) {
  if (!read_address(std::as_bytes(std::span(address)))) {
    throw fault(fault_code::bad_input, "these bytes are no messenger's address");
  }
}

}  // namespace

thread_bell::thread_bell() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (fd_ < 0) throw fault(fault_code::device, "no file descriptor for the transport thread");
}
thread_bell::~thread_bell() { ::close(fd_); }
void thread_bell::ring() noexcept { eventfd_write(fd_, 1); }
void thread_bell::hush() noexcept {
  eventfd_t rings = 0;
  eventfd_read(fd_, &rings);
}

messenger_thread::messenger_thread(network_maker make, std::chrono::milliseconds delay)
    : make_(std::move(make)), delay_(delay) {
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

messenger_thread::~messenger_thread() {
  post(stop_command{});
  thread_.join();
}

void messenger_thread::listen(listener* who) {
  if (std::this_thread::get_id() == thread_.get_id()) {
    listener_ = who;
    return;
  }
  std::promise<void> done;
  auto heard = done.get_future();
  post(listen_command{who, &done});
  heard.wait();
}

void messenger_thread::send(const std::string& to, message m) {
  check_sendable(m);
  check_address(to);
  post(send_command{to, std::move(m), clock::now() + delay_});
}

void messenger_thread::forget(const std::string& to) {
  check_address(to);
  post(forget_command{to});
}

messenger::counts messenger_thread::traffic() const {
  return {counters_.messages_sent, counters_.bytes_sent, counters_.messages_received, counters_.bytes_received};
}

void messenger_thread::post(command&& c) {
  const std::lock_guard lock(mutex_);
  commands_.push_back(std::move(c));
  if (commands_.size() == 1) bell_.ring();
}

void messenger_thread::run(std::promise<std::string> started) {
  std::unique_ptr<message_network> network;
  try {
    network = make_(counters_);
  } catch (...) {
    started.set_exception(std::current_exception());
    return;
  }
  started.set_value(network->address());
  while (!stopping_) {
    carry_out_commands(*network);
    release_delayed(*network);
    network->advance(clock::now());
    bool moved = false;
    for (int i = 0; i < progress_calls_max && network->progress(); ++i) moved = true;
    hand_over(*network);
    tick();
    if (!moved && !stopping_) network->wait(bell_.fd(), sleep_max(*network));
  }
}

void messenger_thread::carry_out_commands(message_network& network) {
  std::vector<command> taken;
  {
    const std::lock_guard lock(mutex_);
    if (commands_.empty()) return;
    taken.swap(commands_);
    bell_.hush();
  }
  for (auto& c : taken) std::visit([&](auto& what) { carry_out(network, what); }, c);
}

void messenger_thread::carry_out(message_network& network, send_command& c) {
  if (delay_.count() > 0) {
    delayed_.push_back(std::move(c));
  } else {
    network.send(c.to, std::move(c.what));
  }
}
void messenger_thread::carry_out(message_network& network, const forget_command& c) {
  std::erase_if(delayed_, [&](const send_command& waiting) { return waiting.to == c.to; });
  network.forget(c.to);
}
void messenger_thread::carry_out(message_network& /*network*/, const listen_command& c) {
  listener_ = c.who;
  c.done->set_value();
}
void messenger_thread::carry_out(message_network& /*network*/, const stop_command& /*c*/) { stopping_ = true; }

void messenger_thread::release_delayed(message_network& network) {
  while (!delayed_.empty() && delayed_.front().due <= clock::now()) {
    network.send(delayed_.front().to, std::move(delayed_.front().what));
    delayed_.pop_front();
  }
}

void messenger_thread::hand_over(message_network& network) {
  for (auto& came : network.take_arrived()) {
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

void messenger_thread::tick() {
  if (listener_ == nullptr || clock::now() < next_tick_) return;
  listener_->tick();
  next_tick_ = clock::now() + tick_interval;
}

std::optional<std::chrono::nanoseconds> messenger_thread::sleep_max(const message_network& network) const {
  const auto now = clock::now();
  auto due = network.next_due(now);
  const auto at = [&](clock::time_point t) { due = due ? std::min(*due, t) : t; };
  if (listener_ != nullptr) at(next_tick_);
  if (!delayed_.empty()) at(delayed_.front().due);
  if (!due) return std::nullopt;
  return *due - now;
}

}  // namespace baton
