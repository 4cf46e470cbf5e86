#include "runtime/security/data_plane.hpp"

#include <algorithm>
#include <string_view>

namespace baton {
namespace {

std::array<std::byte, 8> wire(std::uint64_t number) {
  std::array<std::byte, 8> out{};
  for (std::size_t i = 0; i < 8; ++i) out[i] = static_cast<std::byte>(number >> (8 * i));
  return out;
}

/// What is signed says what for.
constexpr std::string_view purpose = "baton data plane: the control plane endorses ";

std::array<std::byte, purpose.size() + 8 + 32> endorsed_bytes(std::uint64_t instance, const public_point& point) {
  std::array<std::byte, purpose.size() + 8 + 32> out{};
  auto at = std::ranges::copy(std::as_bytes(std::span(purpose)), out.begin()).out;
  at = std::ranges::copy(wire(instance), at).out;
  std::ranges::copy(point, at);
  return out;
}

}  // namespace

std::array<std::byte, data_plane_admission::wire_bytes> data_plane_admission::to_wire() const {
  std::array<std::byte, wire_bytes> out{};
  auto at = std::ranges::copy(wire(instance), out.begin()).out;
  at = std::ranges::copy(endorsement, at).out;
  at = std::ranges::copy(issuer, at).out;
  std::ranges::copy(cluster, at);
  return out;
}

data_plane_admission data_plane_admission::from_wire(std::span<const std::byte, wire_bytes> bytes) {
  data_plane_admission out;
  for (std::size_t i = 0; i < 8; ++i) out.instance |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
  auto from = bytes.begin() + 8;
  for (const auto part :
       {std::span<std::byte>(out.endorsement), std::span<std::byte>(out.issuer), std::span<std::byte>(out.cluster)}) {
    std::copy_n(from, part.size(), part.begin());
    from += static_cast<std::ptrdiff_t>(part.size());
  }
  return out;
}

bool is_endorsed(const public_point& issuer, std::uint64_t instance, const public_point& point,
                 const signature_bytes& endorsement) {
  return signing_key::has_signed(issuer, endorsed_bytes(instance, point), endorsement);
}

data_plane_authority::data_plane_authority(const secret_key& root)
    : cluster_(derive_key(root, {}, "baton data plane: what all know")),
      signs_(derive_key(root, {}, "baton data plane: what endorses")) {}

data_plane_admission data_plane_authority::admit(const public_point& point) const {
  data_plane_admission out{.issuer = signs_.point(), .cluster = cluster_};
  while (out.instance == 0) fill_random(std::as_writable_bytes(std::span(&out.instance, 1)));
  out.endorsement = signs_.sign(endorsed_bytes(out.instance, point));
  return out;
}

data_plane_identity data_plane_authority::new_identity() const {
  data_plane_identity out;
  out.secret = random_key();
  out.point = key_exchange(out.secret).own_point();
  out.admission = admit(out.point);
  return out;
}

}  // namespace baton
