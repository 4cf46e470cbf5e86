#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "runtime/transport/socket.hpp"

namespace baton {

struct port_guard_options {
  socket_place listen;  ///< where others connect to; port 0 takes a free one
  socket_place behind;  ///< who speaks TLS 1.3 there, on loopback
  /// Hears, a few times a minute at most, which strangers were sent away; on the guard's thread. None: nobody does.
  std::function<void(const std::string&)> warn{};
};

/// Stands before a port of CAF's, which would take any number of connections, keep them for ever, and spin when there are no file
/// descriptors left. The guard passes bytes on, with a buffer of a fixed size each way, once a connection has begun a TLS handshake
/// as a client does, and closes it where the client's side of the handshake has not come in time. It reads nothing of what is
/// encrypted: who may enter is decided behind it. Owns a thread, which sleeps when nothing moves.
class port_guard {
 public:
  /// Connections whose handshake is not over; whoever is one too many pushes out the oldest of the address that has most.
  static constexpr std::size_t strangers_max = 128;
  static constexpr std::chrono::seconds handshake_time_max{5};
  /// In all.
  static constexpr std::size_t connections_max = 4096;

  /// Throws fault(bad_input | device) where it cannot listen.
  explicit port_guard(const port_guard_options& options);
  /// Closes all connections.
  ~port_guard();
  port_guard(const port_guard&) = delete;
  port_guard& operator=(const port_guard&) = delete;

  [[nodiscard]] std::uint16_t port() const { return port_; }

 private:
  class loop;

  std::unique_ptr<loop> loop_;
  std::uint16_t port_ = 0;
  std::thread thread_;
};

}  // namespace baton
