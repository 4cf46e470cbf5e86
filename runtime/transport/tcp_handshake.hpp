#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>

#include "runtime/security/data_plane.hpp"
#include "runtime/transport/message_header.hpp"
#include "runtime/transport/socket.hpp"

/// How two messengers prove to each other which process of the cluster each is before anything else is said: three messages of
/// fixed lengths. Bytes in, bytes out: no sockets, no clock.
///
///     initiator → acceptor   hello: who I am, whom I mean, a fresh X25519 point, my endorsed point, and a proof of the cluster's key
///     acceptor → initiator   reply: a fresh point, my endorsed point, and a proof of the session's key
///     initiator → acceptor   proof of the session's key
///
/// The session's key follows from both fresh points, and from each side's fresh and the other's endorsed point: who does not
/// have the secret of one of the endorsed points cannot compute it, whatever other secrets of the cluster he has. Strangers, who do not
/// know the cluster's key, are dropped at the hello, which costs the acceptor three hashes and no memory. Who learns a secret
/// later cannot read what was said before.
namespace baton {

inline constexpr std::size_t hello_bytes = 199;
inline constexpr std::size_t reply_bytes = 160;
inline constexpr std::size_t proof_bytes = 32;

/// The side that connects.
class handshake_initiator {
 public:
  /// `sealed`: whether records are to be encrypted. An acceptor beyond loopback refuses what is not.
  handshake_initiator(const data_plane_identity& self, const socket_place& place, instance_id to, bool sealed);

  struct agreed {
    std::array<std::byte, proof_bytes> proof;
    secret_key records;
  };
  [[nodiscard]] std::span<const std::byte, hello_bytes> hello() const { return hello_; }
  /// Nothing: whoever answers is a stranger.
  [[nodiscard]] std::optional<agreed> replied(std::span<const std::byte, reply_bytes> reply) const;

 private:
  data_plane_identity self_;
  instance_id to_;
  key_exchange exchange_;
  std::array<std::byte, hello_bytes> hello_;
};

/// The side that is connected to.
class handshake_acceptor {
 public:
  struct peer {
    instance_id instance = 0;
    socket_place place;  ///< where it listens
    bool sealed = false;
    secret_key records{};
  };

  /// Nothing: a stranger, somebody who means another messenger, or a point that is not endorsed for whom it says it is.
  [[nodiscard]] std::optional<std::array<std::byte, reply_bytes>> greeted(
      const data_plane_identity& self, std::span<const std::byte, hello_bytes> hello);
  /// After `greeted`. Nothing: somebody who repeats what another has said, or shows another's point.
  [[nodiscard]] std::optional<peer> proven(std::span<const std::byte, proof_bytes> proof) const;

 private:
  peer peer_;
  std::array<std::byte, proof_bytes> expected_{};
};

}  // namespace baton
