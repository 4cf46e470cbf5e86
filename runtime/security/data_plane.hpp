#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "runtime/security/crypto.hpp"

/// Who is who on the data plane. The control plane gives each process that joins a number, and endorses (signs) the X25519 point of
/// that process under it. Two processes that show each other their endorsed points share a secret that nobody else can compute.
namespace baton {

/// What the control plane gives a process. None of it is secret among members; strangers do not know `cluster`.
struct data_plane_admission {
  std::uint64_t instance = 0;     ///< the process's number: random, never 0, nobody else's
  signature_bytes endorsement{};  ///< of the number and the process's point
  public_point issuer{};          ///< whose endorsements count
  secret_key cluster{};  ///< all processes of the data plane have it, so that strangers are told apart at little cost

  static constexpr std::size_t wire_bytes = 8 + 64 + 32 + 32;
  [[nodiscard]] std::array<std::byte, wire_bytes> to_wire() const;
  [[nodiscard]] static data_plane_admission from_wire(std::span<const std::byte, wire_bytes> bytes);

  bool operator==(const data_plane_admission&) const = default;
};

/// What a process speaks on the data plane with.
struct data_plane_identity {
  data_plane_admission admission;
  secret_key secret{};   ///< its own; never leaves the process
  public_point point{};  ///< follows from it
};

/// Whether the control plane has endorsed that point for that process.
[[nodiscard]] bool is_endorsed(const public_point& issuer, std::uint64_t instance, const public_point& point,
                               const signature_bytes& endorsement);

/// The control plane's side. Any thread.
class data_plane_authority {
 public:
  /// All keys follow from that secret.
  explicit data_plane_authority(const secret_key& root);

  /// A new process, with that point.
  [[nodiscard]] data_plane_admission admit(const public_point& point) const;
  /// One with a secret that is drawn here.
  [[nodiscard]] data_plane_identity new_identity() const;

 private:
  secret_key cluster_;
  signing_key signs_;
};

}  // namespace baton
