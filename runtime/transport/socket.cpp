#include "runtime/transport/socket.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

constexpr std::array<std::byte, 12> mapped_prefix{std::byte{0}, std::byte{0}, std::byte{0},    std::byte{0},
                                                  std::byte{0}, std::byte{0}, std::byte{0},    std::byte{0},
                                                  std::byte{0}, std::byte{0}, std::byte{0xff}, std::byte{0xff}};
constexpr int backlog = 512;

bool is_ipv4(const socket_place& place) {
  return std::equal(mapped_prefix.begin(), mapped_prefix.end(), place.ip.begin());
}

/// As the system has it.
struct system_address {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  [[nodiscard]] sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

system_address to_system(const socket_place& place) {
  system_address out;
  if (is_ipv4(place)) {
    auto* at = reinterpret_cast<sockaddr_in*>(&out.storage);
    at->sin_family = AF_INET;
    at->sin_port = htons(place.port);
    std::memcpy(&at->sin_addr, place.ip.data() + mapped_prefix.size(), 4);
    out.length = sizeof *at;
  } else {
    auto* at = reinterpret_cast<sockaddr_in6*>(&out.storage);
    at->sin6_family = AF_INET6;
    at->sin6_port = htons(place.port);
    std::memcpy(&at->sin6_addr, place.ip.data(), place.ip.size());
    out.length = sizeof *at;
  }
  return out;
}

socket_place from_system(const system_address& from) {
  socket_place place;
  if (from.storage.ss_family == AF_INET) {
    const auto* at = reinterpret_cast<const sockaddr_in*>(&from.storage);
    std::copy(mapped_prefix.begin(), mapped_prefix.end(), place.ip.begin());
    std::memcpy(place.ip.data() + mapped_prefix.size(), &at->sin_addr, 4);
    place.port = ntohs(at->sin_port);
  } else {
    const auto* at = reinterpret_cast<const sockaddr_in6*>(&from.storage);
    std::memcpy(place.ip.data(), &at->sin6_addr, place.ip.size());
    place.port = ntohs(at->sin6_port);
  }
  return place;
}

void set(int fd, int level, int option, int value) {
  static_cast<void>(::setsockopt(fd, level, option, &value, sizeof value));
}

/// A connection that is idle for ever because its other end has lost power is closed in the end.
void keep_alive(int fd) {
  set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 20);
  set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
}

}  // namespace

std::string socket_place::host() const {
  std::array<char, INET6_ADDRSTRLEN> out{};
  if (is_ipv4(*this)) {
    inet_ntop(AF_INET, ip.data() + mapped_prefix.size(), out.data(), out.size());
  } else {
    inet_ntop(AF_INET6, ip.data(), out.data(), out.size());
  }
  return out.data();
}

std::string socket_place::text() const {
  return is_ipv4(*this) ? fmt::format("{}:{}", host(), port) : fmt::format("[{}]:{}", host(), port);
}

bool socket_place::is_loopback() const {
  if (is_ipv4(*this)) return ip[mapped_prefix.size()] == std::byte{127};
  return std::all_of(ip.begin(), ip.end() - 1, [](std::byte b) { return b == std::byte{0}; }) &&
         ip.back() == std::byte{1};
}

std::array<std::byte, socket_place::wire_bytes> socket_place::to_wire() const {
  std::array<std::byte, wire_bytes> out{};
  std::copy(ip.begin(), ip.end(), out.begin());
  out[16] = static_cast<std::byte>(port >> 8);
  out[17] = static_cast<std::byte>(port);
  return out;
}

std::optional<socket_place> socket_place::from_wire(std::span<const std::byte> bytes) {
  if (bytes.size() != wire_bytes) return std::nullopt;
  socket_place place;
  std::copy_n(bytes.begin(), place.ip.size(), place.ip.begin());
  place.port =
      static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[16]) << 8 | std::to_integer<unsigned>(bytes[17]));
  if (place.port == 0) return std::nullopt;
  return place;
}

std::optional<socket_place> socket_place::of(const std::string& numeric, std::uint16_t port) {
  socket_place place;
  place.port = port;
  std::copy(mapped_prefix.begin(), mapped_prefix.end(), place.ip.begin());
  if (inet_pton(AF_INET, numeric.c_str(), place.ip.data() + mapped_prefix.size()) == 1) return place;
  if (inet_pton(AF_INET6, numeric.c_str(), place.ip.data()) == 1) return place;
  return std::nullopt;
}

socket_place resolved_place(const std::string& host, std::uint16_t port) {
  if (const auto place = socket_place::of(host, port)) return *place;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (error != 0 || found == nullptr)
    throw fault(fault_code::bad_input, fmt::format("no host has this name ({})", ::gai_strerror(error)), host);
  system_address at;
  std::memcpy(&at.storage, found->ai_addr, found->ai_addrlen);
  ::freeaddrinfo(found);
  auto place = from_system(at);
  place.port = port;
  return place;
}

bool can_connect(const socket_place& where, std::chrono::milliseconds patience) {
  const auto socket = begin_to_connect(where);
  if (!socket) return false;
  pollfd what{socket.get(), POLLOUT, 0};
  return ::poll(&what, 1, static_cast<int>(patience.count())) == 1 && has_connected(socket);
}

descriptor listen_on(socket_place& where) {
  auto at = to_system(where);
  descriptor listening(::socket(at.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!listening) throw fault(fault_code::device, fmt::format("no socket: {}", std::strerror(errno)), where.text());
  set(listening.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (::bind(listening.get(), at.get(), at.length) != 0) {
    const int why = errno;
    if (why == EADDRNOTAVAIL)
      throw fault(fault_code::bad_input, "this machine has no such address; name one of its own", where.text());
    throw fault(fault_code::device, fmt::format("it cannot listen there: {}", std::strerror(why)), where.text());
  }
  if (::listen(listening.get(), backlog) != 0 || ::getsockname(listening.get(), at.get(), &at.length) != 0)
    throw fault(fault_code::device, fmt::format("it cannot listen there: {}", std::strerror(errno)), where.text());
  where = from_system(at);
  return listening;
}

descriptor listen_on_one_of(const port_range& ports, socket_place& where) {
  for (int port = ports.first;; ++port) {
    where.port = static_cast<std::uint16_t>(port);
    try {
      return listen_on(where);
    } catch (const fault& why) {
      if (why.code() != fault_code::device || ports.first == 0) throw;
      if (port < ports.last) continue;
      throw fault(fault_code::device,
                  fmt::format("no port from {} to {} is free: {}", ports.first, ports.last, why.reason()),
                  where.host());
    }
  }
}

descriptor begin_to_connect(const socket_place& where) {
  auto at = to_system(where);
  descriptor socket(::socket(at.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return socket;
  keep_alive(socket.get());
  if (::connect(socket.get(), at.get(), at.length) != 0 && errno != EINPROGRESS) return descriptor();
  return socket;
}

bool has_connected(const descriptor& socket) {
  int error = 0;
  socklen_t length = sizeof error;
  return ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0;
}

descriptor accept_from(const descriptor& listening, socket_place& from, int& error) {
  system_address at;
  descriptor socket(::accept4(listening.get(), at.get(), &at.length, SOCK_NONBLOCK | SOCK_CLOEXEC));
  error = errno;
  if (!socket) return socket;
  keep_alive(socket.get());
  from = from_system(at);
  return socket;
}

std::optional<socket_place> own_end_of(const descriptor& socket) {
  system_address at;
  if (::getsockname(socket.get(), at.get(), &at.length) != 0) return std::nullopt;
  return from_system(at);
}

void shut_connections_to(const socket_place& where) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", ignored)) {
    const int fd = std::atoi(entry.path().filename().c_str());
    system_address peer;
    if (::getpeername(fd, peer.get(), &peer.length) != 0) continue;
    const bool is_ip = peer.storage.ss_family == AF_INET || peer.storage.ss_family == AF_INET6;
    if (is_ip && from_system(peer) == where) ::shutdown(fd, SHUT_RDWR);
  }
}

}  // namespace baton
