#include "runtime/transport/tcp_handshake.hpp"

#include <algorithm>
#include <string_view>

namespace baton {
namespace {

constexpr std::array<std::byte, 4> mark{std::byte{'B'}, std::byte{'T'}, std::byte{'H'}, std::byte{'2'}};

// Where a hello has what.
constexpr std::size_t flags_at = 4;
constexpr std::size_t from_at = 5;
constexpr std::size_t place_at = 13;
constexpr std::size_t to_at = place_at + socket_place::wire_bytes;
constexpr std::size_t point_at = to_at + 8;
constexpr std::size_t own_point_at = point_at + 32;
constexpr std::size_t endorsement_at = own_point_at + 32;
constexpr std::size_t mac_at = endorsement_at + 64;
static_assert(mac_at + 32 == hello_bytes);

// Where a reply does.
constexpr std::size_t reply_own_point_at = 32;
constexpr std::size_t reply_endorsement_at = 64;
constexpr std::size_t reply_proof_at = 128;
static_assert(reply_proof_at + 32 == reply_bytes);

void put(std::span<std::byte> out, std::span<const std::byte> in) { std::copy(in.begin(), in.end(), out.begin()); }

std::array<std::byte, 8> wire(instance_id id) {
  std::array<std::byte, 8> out{};
  for (std::size_t i = 0; i < 8; ++i) out[i] = static_cast<std::byte>(id >> (8 * i));
  return out;
}

instance_id read_instance(std::span<const std::byte> in) {
  instance_id id = 0;
  for (std::size_t i = 0; i < 8; ++i) id |= static_cast<instance_id>(std::to_integer<unsigned>(in[i])) << (8 * i);
  return id;
}

template <std::size_t Size>
std::array<std::byte, Size> taken(std::span<const std::byte> in) {
  std::array<std::byte, Size> out;
  std::copy_n(in.begin(), Size, out.begin());
  return out;
}

/// Of the hellos from one process to another.
secret_key hello_key(const secret_key& cluster, instance_id from, instance_id to) {
  std::array<std::byte, 16> both{};
  put(both, wire(from));
  put(std::span(both).subspan(8), wire(to));
  return derive_key(cluster, {}, "baton data plane: a hello", both);
}

struct session_keys {
  secret_key proofs;
  secret_key records;
};

/// What both can compute, each from one secret of its own and one point of the other's.
struct shared_secrets {
  std::optional<secret_key> both_fresh;
  std::optional<secret_key> initiators_own;  ///< with the acceptor's fresh point
  std::optional<secret_key> acceptors_own;   ///< with the initiator's fresh point
};

/// From those, and everything that both have said. Nothing: a point makes no secret.
std::optional<session_keys> session_of(const shared_secrets& shared, const secret_key& cluster,
                                       std::span<const std::byte> hello, std::span<const std::byte> reply) {
  if (!shared.both_fresh || !shared.initiators_own || !shared.acceptors_own) return std::nullopt;
  std::array<std::byte, 3 * 32> secret{};
  put(secret, *shared.both_fresh);
  put(std::span(secret).subspan(32), *shared.initiators_own);
  put(std::span(secret).subspan(64), *shared.acceptors_own);
  std::array<std::byte, hello_bytes + reply_proof_at> said{};
  put(said, hello);
  put(std::span(said).subspan(hello_bytes), reply.first(reply_proof_at));
  const auto transcript = sha256(said);
  return session_keys{derive_key(secret, cluster, "baton data plane: proofs", transcript),
                      derive_key(secret, cluster, "baton data plane: records", transcript)};
}

digest proof_of(const secret_key& key, std::string_view side) {
  return hmac_sha256(key, std::as_bytes(std::span(side)));
}

}  // namespace

handshake_initiator::handshake_initiator(const data_plane_identity& self, const socket_place& place, instance_id to,
                                         bool sealed)
    : self_(self), to_(to), hello_{} {
  const auto& given = self_.admission;
  const std::span out(hello_);
  put(out, mark);
  out[flags_at] = std::byte{sealed};
  put(out.subspan(from_at), wire(given.instance));
  put(out.subspan(place_at), place.to_wire());
  put(out.subspan(to_at), wire(to));
  put(out.subspan(point_at), exchange_.own_point());
  put(out.subspan(own_point_at), self_.point);
  put(out.subspan(endorsement_at), given.endorsement);
  put(out.subspan(mac_at), hmac_sha256(hello_key(given.cluster, given.instance, to), out.first(mac_at)));
}

std::optional<handshake_initiator::agreed> handshake_initiator::replied(
    std::span<const std::byte, reply_bytes> reply) const {
  const auto& given = self_.admission;
  const auto their_own = taken<32>(reply.subspan(reply_own_point_at));
  if (!is_endorsed(given.issuer, to_, their_own, taken<64>(reply.subspan(reply_endorsement_at)))) return std::nullopt;
  const auto fresh = taken<32>(reply);
  const auto session = session_of(
      {exchange_.shared_with(fresh), key_exchange(self_.secret).shared_with(fresh), exchange_.shared_with(their_own)},
      given.cluster, hello_, reply);
  if (!session || !same_secret(proof_of(session->proofs, "acceptor"), reply.subspan(reply_proof_at)))
    return std::nullopt;
  return agreed{proof_of(session->proofs, "initiator"), session->records};
}

std::optional<std::array<std::byte, reply_bytes>> handshake_acceptor::greeted(
    const data_plane_identity& self, std::span<const std::byte, hello_bytes> hello) {
  if (!std::equal(mark.begin(), mark.end(), hello.begin()) || std::to_integer<unsigned>(hello[flags_at]) > 1)
    return std::nullopt;
  const auto& given = self.admission;
  const auto place = socket_place::from_wire(hello.subspan(place_at, socket_place::wire_bytes));
  const auto from = read_instance(hello.subspan(from_at));
  if (!place || from == 0 || from == given.instance || read_instance(hello.subspan(to_at)) != given.instance)
    return std::nullopt;
  const auto key = hello_key(given.cluster, from, given.instance);
  if (!same_secret(hmac_sha256(key, hello.first(mac_at)), hello.subspan(mac_at))) return std::nullopt;
  const auto their_own = taken<32>(hello.subspan(own_point_at));
  if (!is_endorsed(given.issuer, from, their_own, taken<64>(hello.subspan(endorsement_at)))) return std::nullopt;

  const key_exchange exchange;
  const auto fresh = taken<32>(hello.subspan(point_at));
  std::array<std::byte, reply_bytes> reply{};
  put(reply, exchange.own_point());
  put(std::span(reply).subspan(reply_own_point_at), self.point);
  put(std::span(reply).subspan(reply_endorsement_at), given.endorsement);
  const auto session = session_of(
      {exchange.shared_with(fresh), exchange.shared_with(their_own), key_exchange(self.secret).shared_with(fresh)},
      given.cluster, hello, reply);
  if (!session) return std::nullopt;
  peer_ = {from, *place, hello[flags_at] == std::byte{1}, session->records};
  expected_ = proof_of(session->proofs, "initiator");
  put(std::span(reply).subspan(reply_proof_at), proof_of(session->proofs, "acceptor"));
  return reply;
}

std::optional<handshake_acceptor::peer> handshake_acceptor::proven(
    std::span<const std::byte, proof_bytes> proof) const {
  if (peer_.instance == 0 || !same_secret(expected_, proof)) return std::nullopt;
  return peer_;
}

}  // namespace baton
