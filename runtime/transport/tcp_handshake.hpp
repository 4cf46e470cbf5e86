#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>

#include "runtime/security/crypto.hpp"
#include "runtime/transport/message_header.hpp"
#include "runtime/transport/socket.hpp"

/// How two messengers prove to each other that they belong to one cluster before anything else is said: three messages of fixed
/// lengths. Bytes in, bytes out: no sockets, no clock.
///
///     initiator → acceptor   hello: who I am, whom I mean, a fresh X25519 point, and a proof of the pair's key
///     acceptor → initiator   reply: a fresh point, and a proof of the key that follows from both points and the pair's key
///     initiator → acceptor   proof of that key
///
/// The pair's key follows from the cluster's and both instances, so that one pair's key opens nothing else. Who does not know it is
/// dropped at the hello, which costs the acceptor three hashes and no memory. Who learns it later cannot read what was said before.
namespace baton {

inline constexpr std::size_t hello_bytes = 103;
inline constexpr std::size_t reply_bytes = 64;
inline constexpr std::size_t proof_bytes = 32;

/// The side that connects.
class handshake_initiator {
 public:
  /// `sealed`: whether records are to be encrypted. An acceptor beyond loopback refuses what is not.
  handshake_initiator(const secret_key& cluster, instance_id self, const socket_place& place, instance_id to,
                      bool sealed);

  struct agreed {
    std::array<std::byte, proof_bytes> proof;
    secret_key records;
  };
  [[nodiscard]] std::span<const std::byte, hello_bytes> hello() const { return hello_; }
  /// Nothing: whoever answers is a stranger.
  [[nodiscard]] std::optional<agreed> replied(std::span<const std::byte, reply_bytes> reply) const;

 private:
  secret_key pair_;
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

  /// Nothing: a stranger, or somebody who means another messenger.
  [[nodiscard]] std::optional<std::array<std::byte, reply_bytes>> greeted(
      const secret_key& cluster, instance_id self, std::span<const std::byte, hello_bytes> hello);
  /// After `greeted`. Nothing: a stranger who repeats what somebody else has said.
  [[nodiscard]] std::optional<peer> proven(std::span<const std::byte, proof_bytes> proof) const;

 private:
  peer peer_;
  std::array<std::byte, proof_bytes> expected_{};
};

}  // namespace baton
