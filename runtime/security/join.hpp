#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "runtime/security/certificates.hpp"
#include "runtime/security/crypto.hpp"

/// How a process joins a cluster, on top of TLS, which only tells that somebody is a member: both sides sign what the other has
/// just drawn, so that each knows *which* member it talks to, and the newcomer gets the data plane's key, sealed so that nobody in
/// between reads it. Bytes in, bytes out: no connections, no clock.
///
///     member → coordinator   hello: certificate, fresh point
///     coordinator → member   challenge: certificate, fresh point, signature over the hello and the point
///     member → coordinator   proof: signature over hello and challenge
///     coordinator → member   admission: the data plane's key
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
  /// The data plane's key. Throws fault(bad_input) where these bytes hold none.
  [[nodiscard]] secret_key admitted(const std::string& admission) const;

 private:
  const cluster_identity* identity_;
  key_exchange exchange_;
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

  /// `identity`: null without certificates; outlives the doorkeeper.
  doorkeeper(const cluster_identity* identity, const secret_key& data_plane);

  /// The challenge for `newcomer`, a name of the caller's. Nothing for what is no hello.
  [[nodiscard]] std::optional<std::string> greeted(std::uint64_t newcomer, const std::string& hello, time_point now);
  /// Nothing: it is not who its hello said.
  [[nodiscard]] std::optional<admission> proven(std::uint64_t newcomer, const std::string& proof, time_point now);

 private:
  struct waiting {
    std::string certificate;
    std::string signed_by_it;
    secret_key sealing;
    time_point since;
  };

  const cluster_identity* identity_;
  const secret_key data_plane_;
  std::map<std::uint64_t, waiting> waiting_;
};

}  // namespace baton
