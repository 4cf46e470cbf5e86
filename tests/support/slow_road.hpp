#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <deque>
#include <list>
#include <thread>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/socket.h>

#include "runtime/transport/socket.hpp"

namespace baton {

/// A port on loopback behind which another one lies, at some distance: bytes take so long in each direction. Of the first `deaf` connections
/// nothing reaches the far end.
class slow_road {
 public:
  slow_road(const socket_place& to, std::chrono::milliseconds each_way, int deaf = 0)
      : to_(to), each_way_(each_way), deaf_(deaf), listening_(listen_on(place_)), thread_([this] { carry(); }) {}
  ~slow_road() {
    over_ = true;
    thread_.join();
  }
  slow_road(const slow_road&) = delete;
  slow_road& operator=(const slow_road&) = delete;

  [[nodiscard]] const socket_place& place() const { return place_; }

 private:
  using clock = std::chrono::steady_clock;
  struct lane {
    int from, to;
    bool deaf;
    std::deque<std::pair<clock::time_point, std::vector<std::byte>>> under_way;  ///< no bytes: the end
  };
  struct connection {
    descriptor near, far;
    lane there, back;
  };

  void carry() {
    while (!over_) {
      std::vector<pollfd> watched{{listening_.get(), POLLIN, 0}};
      for (const auto& c : connections_) {
        watched.push_back({c.near.get(), POLLIN, 0});
        watched.push_back({c.far.get(), POLLIN, 0});
      }
      static_cast<void>(::poll(watched.data(), watched.size(), 1));
      for (auto c = connections_.begin(); c != connections_.end();)
        c = move(c->there) && move(c->back) ? std::next(c) : connections_.erase(c);
      socket_place who;
      int error = 0;
      if (auto near = accept_from(listening_, who, error)) {
        auto far = begin_to_connect(to_);
        pollfd connected{far.get(), POLLOUT, 0};
        static_cast<void>(::poll(&connected, 1, 1000));
        const int a = near.get(), b = far.get();
        connections_.push_back({std::move(near), std::move(far), {a, b, deaf_ > 0, {}}, {b, a, false, {}}});
        deaf_ = std::max(0, deaf_ - 1);
      }
    }
  }

  /// False: an end has closed it.
  bool move(lane& which) const {
    std::vector<std::byte> bytes(1 << 16);
    const auto n = ::recv(which.from, bytes.data(), bytes.size(), MSG_DONTWAIT);
    const bool ends = n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
    if (n > 0 || (ends && (which.under_way.empty() || !which.under_way.back().second.empty()))) {
      bytes.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
      which.under_way.emplace_back(clock::now() + each_way_, std::move(bytes));
    }
    while (!which.under_way.empty() && which.under_way.front().first <= clock::now()) {
      const auto& due = which.under_way.front().second;
      if (due.empty()) return false;
      if (!which.deaf) static_cast<void>(::send(which.to, due.data(), due.size(), MSG_NOSIGNAL));
      which.under_way.pop_front();
    }
    return true;
  }

  const socket_place to_;
  const std::chrono::milliseconds each_way_;
  int deaf_;  ///< connections to come
  socket_place place_ = *socket_place::of("127.0.0.1", 0);
  descriptor listening_;
  std::list<connection> connections_;
  std::atomic<bool> over_ = false;
  std::thread thread_;
};

}  // namespace baton
