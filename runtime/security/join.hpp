#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "runtime/security/certificates.hpp"
#include "runtime/security/crypto.hpp"
#include "runtime/security/data_plane.hpp"

/// How a process joins a cluster, on top of TLS, which only tells that somebody is a member: both sides sign what the other has
/// just drawn, so that each knows *which* member it talks to, and a newcomer that is no client gets its place on the data plane
/// (data_plane.hpp), sealed so that nobody in between reads it. Bytes in, bytes out: no connections, no clock.
///
///     member → coordinator   hello: certificate, fresh point, own point on the data plane
///     coordinator → member   challenge: certificate, fresh point, signature over the hello and the point
///     member → coordinator   proof: signature over hello and challenge
///     coordinator → member   admission: number on the data plane, and the endorsement of its point there
///
/// Where a cluster has no certificates (on loopback only) nothing is signed, and everybody who asks is admitted.
namespace baton {

/// What is longer is nobody's.
inline constexpr std::size_t join_bytes_max = 16 << 10;

/// The newcomer's side.
class joiner {
 public:
  /// `identity`: null without certificates; outlives the joiner.
  explicit joiner(const cluster_identity* identity);

  [[nodiscard]] const std::string& hello() const { return hello_; }
  /// The proof. Throws fault(bad_input) where whoever answers is not the cluster's coordinator.
  [[nodiscard]] std::string challenged(const std::string& challenge);
  /// What it is on the data plane; nothing for a client. Throws fault(bad_input) where these bytes are no admission.
  [[nodiscard]] std::optional<data_plane_identity> admitted(const std::string& admission) const;

 private:
  const cluster_identity* identity_;
  key_exchange exchange_;
  const secret_key secret_ = random_key();
  const public_point own_point_ = key_exchange(secret_).own_point();
  std::string hello_;
  std::optional<secret_key> sealing_;
};

/// The coordinator's side, for all newcomers. Not synchronized.
class doorkeeper {
 public:
  using time_point = std::chrono::steady_clock::time_point;
  /// Newcomers between hello and proof: so many, so long; whoever is one too many pushes out the oldest.
  static constexpr std::size_t waiting_max = 256;
  static constexpr std::chrono::seconds waiting_time_max{10};

  struct admission {
    std::optional<cluster_member> who;  ///< nothing without certificates
    std::string bytes;
  };

  /// `identity`: null without certificates; outlives the doorkeeper. What the data plane has follows from `root`.
  doorkeeper(const cluster_identity* identity, const secret_key& root);

  /// The challenge for `newcomer`, a name of the caller's. Nothing for what is no hello.
  [[nodiscard]] std::optional<std::string> greeted(std::uint64_t newcomer, const std::string& hello, time_point now);
  /// Nothing: it is not who its hello said.
  [[nodiscard]] std::optional<admission> proven(std::uint64_t newcomer, const std::string& proof, time_point now);

 private:
  struct waiting {
    std::string certificate;
    std::string signed_by_it;
    secret_key sealing;
    public_point own_point;
    time_point since;
  };

  const cluster_identity* identity_;
  const data_plane_authority data_plane_;
  std::map<std::uint64_t, waiting> waiting_;
};

}  // namespace baton
