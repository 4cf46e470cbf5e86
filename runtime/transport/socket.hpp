#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <unistd.h>

namespace baton {

/// Owns a file descriptor.
class descriptor {
 public:
  explicit descriptor(int fd = -1) : fd_(fd) {}
  ~descriptor() { reset(); }
  descriptor(descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] explicit operator bool() const { return fd_ >= 0; }
  void reset() noexcept {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

/// An IPv6 address, or an IPv4 address as IPv6 maps it, and a TCP port.
struct socket_place {
  static constexpr std::size_t wire_bytes = 18;

  std::array<std::byte, 16> ip{};
  std::uint16_t port = 0;

  /// "10.0.0.1:4711", "[fd00::1]:4711".
  [[nodiscard]] std::string text() const;
  /// The address alone, as `of` takes it.
  [[nodiscard]] std::string host() const;
  [[nodiscard]] bool is_loopback() const;
  [[nodiscard]] std::array<std::byte, wire_bytes> to_wire() const;
  [[nodiscard]] static std::optional<socket_place> from_wire(std::span<const std::byte> bytes);
  /// Of a numeric address; nothing where the text is none.
  [[nodiscard]] static std::optional<socket_place> of(const std::string& numeric, std::uint16_t port);

  bool operator==(const socket_place&) const = default;
};

/// Ports from the first to the last one; 0: any that the system gives.
struct port_range {
  std::uint16_t first = 0;
  std::uint16_t last = 0;

  bool operator==(const port_range&) const = default;
};

/// Of an address or a host's name, which may take as long as name servers do. Throws fault(bad_input) where there is none.
[[nodiscard]] socket_place resolved_place(const std::string& host, std::uint16_t port);

/// Listens there, on that address alone; port 0 takes a free one, which `where` then has. Never blocks on accept.
/// Throws fault(bad_input) where this machine has no such address, fault(device) where the system refuses.
[[nodiscard]] descriptor listen_on(socket_place& where);

/// The same, at the first port of the range that nobody has.
[[nodiscard]] descriptor listen_on_one_of(const port_range& ports, socket_place& where);

/// Whether somebody takes connections there, within that time.
[[nodiscard]] bool can_connect(const socket_place& where, std::chrono::milliseconds patience);

/// Begins to connect; it has connected, or failed, when the socket can be written. None: it failed at once.
[[nodiscard]] descriptor begin_to_connect(const socket_place& where);
/// Whether a connect that was begun has come to a good end.
[[nodiscard]] bool has_connected(const descriptor& socket);

/// One connection that waits, non-blocking, and who it comes from. None: there is none, and `error` says why.
[[nodiscard]] descriptor accept_from(const descriptor& listening, socket_place& from, int& error);
/// This end's address of a connection.
[[nodiscard]] std::optional<socket_place> own_end_of(const descriptor& socket);
/// Ends all TCP connections of this process to that place, whoever owns them; their owners see that the peer has gone.
void shut_connections_to(const socket_place& where);

}  // namespace baton
