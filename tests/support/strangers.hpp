#pragma once

#include <cerrno>
#include <cstddef>
#include <span>
#include <string>

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "runtime/transport/socket.hpp"

namespace baton {

/// Somebody who connects to a port and says whatever a test wants.
class stranger_connection {
 public:
  static constexpr bool connect_later = true;

  /// `from`: its own IPv4 address; empty: any.
  explicit stranger_connection(const socket_place& to, const std::string& from = {}, bool later = false)
      : to_(to), socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (!from.empty()) {
      auto at = system_address_of(*socket_place::of(from, 0));
      static_cast<void>(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&at), sizeof at));
    }
    if (!later) connect();
  }

  void connect() {
    auto at = system_address_of(to_);
    open_ = ::connect(socket_.get(), reinterpret_cast<sockaddr*>(&at), sizeof at) == 0;
  }

  [[nodiscard]] bool is_open() const { return open_; }
  void say(std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
      const auto n = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
  }
  /// Waits for so many bytes, half a minute at most.
  [[nodiscard]] bool hears(std::span<std::byte> into) const {
    timeval patience{30, 0};
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    while (!into.empty()) {
      const auto n = ::recv(socket_.get(), into.data(), into.size(), 0);
      if (n <= 0) return false;
      into = into.subspan(static_cast<std::size_t>(n));
    }
    return true;
  }
  /// Waits for it, half a minute at most; what the other side says is dropped.
  [[nodiscard]] bool is_closed_by_the_other_side() const {
    timeval patience{30, 0};
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    char dropped[4096];
    for (;;) {
      const auto n = ::recv(socket_.get(), dropped, sizeof dropped, 0);
      if (n > 0) continue;
      return n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
    }
  }

 private:
  static sockaddr_in system_address_of(const socket_place& place) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(place.port);
    auto* ip = reinterpret_cast<std::byte*>(&at.sin_addr);
    for (std::size_t i = 0; i < 4; ++i) ip[i] = place.ip[12 + i];
    return at;
  }

  socket_place to_;
  descriptor socket_;
  bool open_ = false;
};

}  // namespace baton
