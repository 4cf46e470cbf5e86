#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/transport/message_header.hpp"
#include "runtime/transport/messenger_thread.hpp"
#include "runtime/transport/ucx_worker.hpp"

namespace baton {

/// Moves messages over a worker's endpoints: one for each peer, made at the first message of either side, because only a side with
/// an endpoint of its own is told when the connection breaks. A broken one is closed, what was to go over it is dropped, and the
/// next message makes another, after a pause.
///
/// A live peer is not told that its counterpart was closed, and UCX then loses its large messages without a word. So connections
/// have numbers, which go up and come with every message: who hears of a higher one than his own makes a new connection. Each
/// begins with a hello, and one whose large messages do not move says hello now and then, which the other side answers if it is
/// ahead.
///
/// Belongs to the transport thread, like the worker, which outlives it.
class ucx_connections {
 public:
  using time_point = std::chrono::steady_clock::time_point;

  using arrival = message_network::arrival;

  ucx_connections(ucx_worker& worker, traffic_counters& counters);
  /// Closes all endpoints and waits, a few seconds at most, for what UCX still holds.
  ~ucx_connections();
  ucx_connections(const ucx_connections&) = delete;
  ucx_connections& operator=(const ucx_connections&) = delete;

  /// Of this messenger.
  [[nodiscard]] const std::string& address() const { return address_; }

  /// `to`: an address that `read_address` takes.
  void send(const std::string& to, message&& m);
  void forget(const std::string& to);
  /// Closes what broke, connects to whom it is time, sends what waited.
  void advance(time_point now);
  /// When `advance` has to be called again even if nothing moves.
  [[nodiscard]] std::optional<time_point> next_due(time_point now) const;
  /// What has come since the last call.
  [[nodiscard]] std::vector<arrival> take_arrived() { return std::exchange(arrived_, {}); }

 private:
  struct sending;
  struct receiving;
  struct connection;
  struct peer;

  peer& peer_at(const std::string& address, instance_id instance);
  peer* sender_of(const message_header& header);
  void attend(peer& p);
  void connect(peer& p, time_point now);
  void say_hello(connection& c);
  void probe(time_point now);
  void heard(peer& from, const message_header& header);
  void close(peer& p, time_point retry_at);
  void broke(connection& c);
  void send_waiting(peer& p);
  void post(connection& c, std::unique_ptr<sending> s);
  void sent(sending* s, ucs_status_t status);
  ucs_status_t receive(std::span<const std::byte> header, void* data, std::size_t bytes, bool rendezvous);
  void received(receiving* r, ucs_status_t status, std::size_t bytes);

  ucx_worker& worker_;
  traffic_counters& counters_;
  const instance_id self_;
  const std::string address_;
  /// Never forgotten: who has once sent us a message does not tell its address again.
  std::unordered_map<instance_id, std::unique_ptr<peer>> peers_;
  std::vector<peer*> attended_;                       ///< for whom `advance` has something to do
  std::vector<connection*> broken_;                   ///< not closed yet
  std::vector<std::unique_ptr<connection>> closing_;  ///< until UCX has let go of them
  std::int64_t receiving_ = 0;                        ///< payloads under way to us
  std::int64_t large_under_way_ = 0;                  ///< messages under way to others
  time_point probe_at_{};
  std::vector<arrival> arrived_;
  bool ending_ = false;  ///< takes nothing any more
};

}  // namespace baton
