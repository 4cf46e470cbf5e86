#include "tests/support/faulty_messenger.hpp"

#include <algorithm>
#include <random>
#include <utility>

#include "kernels/fault.hpp"

namespace baton {

class faulty_messenger final : public messenger {
 public:
  faulty_messenger(faulty_network& network, std::string address) : network_(network), address_(std::move(address)) {}
  ~faulty_messenger() override { network_.leave(address_); }

  [[nodiscard]] const std::string& address() const override { return address_; }
  void listen(listener* who) override { network_.listen(address_, who); }
  void send(const std::string& to, message m) override { network_.send(address_, to, std::move(m)); }
  void forget(const std::string&) override {}
  [[nodiscard]] counts traffic() const override {
    const std::lock_guard lock(network_.mutex_);
    return network_.processes_.at(address_).traffic;
  }

 private:
  faulty_network& network_;
  const std::string address_;
};

namespace {

std::int64_t bytes_of(const message& m) { return m.payload ? static_cast<std::int64_t>(m.payload->bytes.size()) : 0; }

}  // namespace

faulty_network::faulty_network(const fault_plan& plan) : plan_(plan), thread_([this] { run(); }) {}

faulty_network::~faulty_network() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    moved_.notify_all();
  }
  thread_.join();
}

std::unique_ptr<messenger> faulty_network::make_messenger() {
  const std::lock_guard lock(mutex_);
  auto address = "process " + std::to_string(++made_);
  processes_[address].next_tick = std::chrono::steady_clock::now() + messenger::tick_interval;
  moved_.notify_all();
  return std::make_unique<faulty_messenger>(*this, std::move(address));
}

void faulty_network::release_held() {
  const std::lock_guard lock(mutex_);
  for (auto& m : std::exchange(held_, {})) travel(std::move(m), std::chrono::steady_clock::now());
}

void faulty_network::stop(const std::string& address) {
  const std::lock_guard lock(mutex_);
  processes_.at(address).stopped = true;
}

void faulty_network::go_on(const std::string& address) {
  const std::lock_guard lock(mutex_);
  auto& p = processes_.at(address);
  p.stopped = false;
  for (auto& m : std::exchange(p.waiting, {})) travel(std::move(m), std::chrono::steady_clock::now());
}

void faulty_network::cut(const std::string& one, const std::string& other) {
  const std::lock_guard lock(mutex_);
  cut_.insert(std::minmax(one, other));
}

void faulty_network::kill(const std::string& address) {
  const std::lock_guard lock(mutex_);
  auto& p = processes_.at(address);
  p.killed = true;
  p.waiting.clear();
}

faulty_network::counts faulty_network::what_happened() const {
  const std::lock_guard lock(mutex_);
  return happened_;
}

std::int64_t faulty_network::sent(message_kind kind) const {
  const std::lock_guard lock(mutex_);
  const auto found = sent_of_kind_.find(kind);
  return found == sent_of_kind_.end() ? 0 : found->second;
}

void faulty_network::order(message_kind kind, what_to_do what) {
  const std::lock_guard lock(mutex_);
  orders_.emplace(kind, what);
}

void faulty_network::send(const std::string& from, const std::string& to, message&& m) {
  if (!to.starts_with("process ")) throw fault(fault_code::bad_input, "no address of a process: " + to);
  const std::lock_guard lock(mutex_);
  ++sent_of_kind_[m.kind];
  auto& sender = processes_.at(from);
  ++sender.traffic.messages_sent;
  sender.traffic.bytes_sent += bytes_of(m);
  std::seed_seq seed{plan_.seed, static_cast<std::uint64_t>(std::hash<std::string>()(from + '\n' + to)),
                     ++sent_between_[{from, to}]};
  std::mt19937 random(seed);
  const auto happens = [&](double probability) { return std::uniform_real_distribution<>(0, 1)(random) < probability; };
  const auto now = std::chrono::steady_clock::now();
  const auto arrival = [&] {
    if (!happens(plan_.delay)) return now;
    ++happened_.delayed;
    const auto late = plan_.delay_max * std::uniform_real_distribution<>(0, 1)(random);
    return now + std::chrono::duration_cast<time::duration>(late);
  };
  bool drop = happens(plan_.drop);
  bool twice = happens(plan_.duplicate);
  if (const auto order = orders_.find(m.kind); order != orders_.end()) {
    const auto what = order->second;
    orders_.erase(order);
    drop = what == what_to_do::drop;
    twice = what == what_to_do::duplicate;
    if (what == what_to_do::hold) {
      held_.push_back({from, to, std::move(m)});
      return;
    }
    if (what == what_to_do::corrupt && m.payload && !m.payload->bytes.empty()) {
      auto damaged = std::make_shared<block>(*m.payload);
      damaged->bytes[random() % damaged->bytes.size()] ^= std::byte{0x10};
      m.payload = std::move(damaged);
      ++happened_.corrupted;
    }
  }
  if (drop) {
    ++happened_.dropped;
    return;
  }
  if (twice) {
    ++happened_.duplicated;
    travel({from, to, m}, arrival());
  }
  travel({from, to, std::move(m)}, arrival());
}

void faulty_network::listen(const std::string& address, messenger::listener* who) {
  std::unique_lock lock(mutex_);
  auto& p = processes_.at(address);
  p.hears = who;
  if (who) {
    for (auto& m : std::exchange(p.waiting, {})) travel(std::move(m), std::chrono::steady_clock::now());
  } else {
    moved_.wait(lock, [&] { return !p.is_called; });
  }
}

void faulty_network::leave(const std::string& address) {
  listen(address, nullptr);
  const std::lock_guard lock(mutex_);
  processes_.erase(address);
}

bool faulty_network::is_off(const std::string& address) const {
  const auto found = processes_.find(address);
  return found == processes_.end() || found->second.killed;
}

void faulty_network::travel(travelling&& m, time due) {
  under_way_.emplace(due, std::move(m));
  moved_.notify_all();
}

void faulty_network::deliver(std::unique_lock<std::mutex>& lock, travelling&& m) {
  if (is_off(m.from) || is_off(m.to) || cut_.contains(std::minmax(m.from, m.to))) return;
  auto& sender = processes_.at(m.from);
  auto& receiver = processes_.at(m.to);
  if (sender.stopped) return sender.waiting.push_back(std::move(m));
  if (receiver.stopped || !receiver.hears) return receiver.waiting.push_back(std::move(m));
  ++receiver.traffic.messages_received;
  receiver.traffic.bytes_received += bytes_of(m.what);
  receiver.is_called = true;
  auto* const listener = receiver.hears;
  lock.unlock();
  listener->received(m.from, std::move(m.what));
  lock.lock();
  receiver.is_called = false;
  moved_.notify_all();
}

void faulty_network::tick(std::unique_lock<std::mutex>& lock, time now) {
  std::vector<std::string> due;
  for (auto& [address, p] : processes_) {
    if (p.next_tick > now) continue;
    p.next_tick = now + messenger::tick_interval;
    due.push_back(address);
  }
  for (const auto& address : due) {
    const auto found = processes_.find(address);
    if (found == processes_.end()) continue;
    auto& p = found->second;
    if (!p.hears || p.stopped || p.killed) continue;
    p.is_called = true;
    auto* const listener = p.hears;
    lock.unlock();
    listener->tick();
    lock.lock();
    p.is_called = false;
    moved_.notify_all();
  }
}

void faulty_network::run() {
  std::unique_lock lock(mutex_);
  while (!over_) {
    const auto now = std::chrono::steady_clock::now();
    tick(lock, now);
    if (!under_way_.empty() && under_way_.begin()->first <= now) {
      auto m = std::move(under_way_.begin()->second);
      under_way_.erase(under_way_.begin());
      deliver(lock, std::move(m));
      continue;
    }
    auto next = now + messenger::tick_interval;
    for (const auto& [address, p] : processes_) next = std::min(next, p.next_tick);
    if (!under_way_.empty()) next = std::min(next, under_way_.begin()->first);
    if (!over_) moved_.wait_until(lock, next);
  }
}

}  // namespace baton
