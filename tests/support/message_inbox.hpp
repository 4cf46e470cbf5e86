#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "runtime/transport/messenger.hpp"

/// Messages for tests of messengers, and somebody who takes them.
namespace baton {

/// Only there to end a hang.
inline constexpr auto message_patience = std::chrono::seconds(60);

inline std::shared_ptr<const block> payload_of(std::size_t bytes, unsigned seed) {
  auto made = std::make_shared<block>();
  made->bytes.resize(bytes);
  std::uint32_t state = seed * 2654435761U + 1;
  for (auto& b : made->bytes) {
    state = state * 1664525 + 1013904223;
    b = static_cast<std::byte>(state >> 24);
  }
  made->checksum = checksum_of(made->bytes);
  return made;
}

inline std::shared_ptr<const block> eight_mib() {
  static const auto made = payload_of(8 << 20, 8);
  return made;
}

inline message direct(std::uint32_t step, std::shared_ptr<const block> payload) {
  message m;
  m.kind = message_kind::direct;
  m.key = {.job = 7, .phase = block_phase::decode, .question = 1, .step = step, .layer = 3, .source = 2, .part = 4};
  m.key.attempt = 5;
  m.delivery = step + 1;
  m.targets = {1, 3};
  m.payload = std::move(payload);
  return m;
}

/// Keeps what comes.
class message_inbox final : public messenger::listener {
 public:
  struct arrival {
    std::string from;
    message what;
    std::chrono::steady_clock::time_point when;
  };

  void received(const std::string& from, message&& m) override {
    const std::lock_guard lock(mutex_);
    arrivals_.push_back({from, std::move(m), std::chrono::steady_clock::now()});
    changed_.notify_all();
  }
  void tick() override {
    const std::lock_guard lock(mutex_);
    ++ticks_;
    changed_.notify_all();
  }

  /// Waits until `count` messages are there, or a minute.
  [[nodiscard]] bool has(std::size_t count) {
    return until([&] { return arrivals_.size() >= count; });
  }
  [[nodiscard]] bool has_step(std::uint32_t step) {
    return until([&] {
      return std::any_of(arrivals_.begin(), arrivals_.end(), [&](const auto& a) { return a.what.key.step == step; });
    });
  }
  [[nodiscard]] bool ticks(int count) {
    return until([&] { return ticks_ >= count; });
  }
  [[nodiscard]] std::vector<arrival> arrivals() {
    const std::lock_guard lock(mutex_);
    return arrivals_;
  }

 private:
  template <class Condition>
  bool until(Condition condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, message_patience, condition);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<arrival> arrivals_;
  int ticks_ = 0;
};

}  // namespace baton
