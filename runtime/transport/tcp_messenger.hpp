#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "runtime/security/data_plane.hpp"
#include "runtime/transport/messenger.hpp"
#include "runtime/transport/socket.hpp"

namespace baton {

struct tcp_options {
  std::string host = "127.0.0.1";      ///< a numeric address of this machine: the only one that is listened on
  port_range ports{};                  ///< at one of these that is free
  data_plane_identity identity;        ///< as the control plane has given it; must be there
  bool seal_always = false;            ///< also between two processes of one machine
  std::chrono::milliseconds delay{0};  ///< holds every outgoing message back, as a slow link would; for experiments
  /// Hears, a few times a minute at most, which strangers were refused; on the transport thread. None: nobody does.
  std::function<void(const std::string&)> warn;
};

/// A messenger over TCP that strangers can neither enter, nor crash, nor stall, nor make allocate: whoever connects has to prove
/// within seconds, and within bytes of a fixed number, which process of the cluster it is
/// (tcp_handshake.hpp). Beyond loopback everything after that is encrypted. Its transport thread sleeps unless there is
/// something to do.
///
/// Each messenger sends over connections of its own making and receives over those that others make. One that fails is made anew at
/// the next message, after a pause; what was to go over it is lost.
///
/// - Payloads of at most 64 KiB go between the chunks of larger ones, so that they are not held up.
/// - A message with a large payload that is sent again while it still waits or is under way goes once.
/// - A message to itself is handed over in memory and not counted.
///
/// Throws fault(bad_input) where `host` is no numeric address of this machine, fault(device) where the system refuses to listen or no port of the
/// range is free.
[[nodiscard]] std::unique_ptr<messenger> make_tcp_messenger(const tcp_options& options);

}  // namespace baton
