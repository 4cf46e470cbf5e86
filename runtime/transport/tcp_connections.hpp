#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <sys/epoll.h>

#include "runtime/transport/messenger_thread.hpp"
#include "runtime/transport/refusals.hpp"
#include "runtime/transport/tcp_handshake.hpp"
#include "runtime/transport/tcp_messenger.hpp"
#include "runtime/transport/tcp_records.hpp"

namespace baton {

/// All sockets of a messenger: the one that listens, strangers who have yet to prove who they are, connections of others that bring
/// messages, and own ones that take them away.
class tcp_connections final : public message_network {
 public:
  /// Strangers at a time, in all; whoever is one too many pushes out the oldest of the address that has most.
  static constexpr std::size_t strangers_max = 256;
  static constexpr std::chrono::seconds handshake_time_max{5};

  tcp_connections(const tcp_options& options, traffic_counters& counters);
  ~tcp_connections() override;
  tcp_connections(const tcp_connections&) = delete;
  tcp_connections& operator=(const tcp_connections&) = delete;

  [[nodiscard]] const std::string& address() const override { return address_; }
  void send(const std::string& to, message&& m) override;
  void forget(const std::string& to) override;
  void advance(time_point now) override;
  [[nodiscard]] std::optional<time_point> next_due(time_point now) const override;
  bool progress() override;
  void wait(int other_fd, std::optional<std::chrono::nanoseconds> time_max) override;
  [[nodiscard]] std::vector<arrival> take_arrived() override { return std::exchange(arrived_, {}); }

 private:
  using channel_id = std::uint64_t;
  struct peer;
  struct stranger;
  struct incoming;
  struct outgoing;

  peer& peer_at(instance_id instance, const socket_place& place);
  void watch(int fd, channel_id id, std::uint32_t events);
  void watch_again(int fd, channel_id id, std::uint32_t events);
  void poll(int milliseconds);

  void attend_to(channel_id id, std::uint32_t events);
  void drop(channel_id id);

  void accept_strangers();
  void make_room();
  void hear(stranger& s);
  void admit(channel_id id, const handshake_acceptor::peer& proven);
  void refuse(channel_id id, const std::string& why);
  void hear(incoming& from);

  void attend(peer& p);
  void connect(peer& p, time_point now);
  void go_on(outgoing& to, std::uint32_t events);
  bool shake_hands(outgoing& to);
  void flush(outgoing& to);
  void close(peer& p, time_point retry_at);

  const tcp_options options_;
  traffic_counters& counters_;
  refusals refusals_;
  const instance_id self_;
  socket_place place_;
  descriptor listening_;
  descriptor epoll_;
  const std::string address_;

  channel_id last_channel_ = 1;  ///< 0 is the bell's, 1 the listening socket's
  int bell_fd_ = -1;
  time_point accept_after_{};  ///< while there are no file descriptors
  bool accepting_ = true;

  /// Never forgotten: a few hundred bytes for each process that has proven itself or was sent to.
  std::unordered_map<instance_id, std::unique_ptr<peer>> peers_;
  std::map<channel_id, std::unique_ptr<stranger>> strangers_;  ///< the oldest first
  std::unordered_map<channel_id, std::unique_ptr<incoming>> incoming_;
  std::unordered_map<channel_id, peer*> outgoing_;
  std::vector<peer*> attended_;  ///< for whom `advance` has something to do
  std::vector<epoll_event> ready_;
  std::vector<std::byte> spare_;  ///< where bytes land behind those that are wanted
  std::vector<arrival> arrived_;
};

}  // namespace baton
