#include "runtime/transport/tcp_handshake.hpp"

#include <algorithm>
#include <string_view>

namespace baton {
namespace {

constexpr std::array<std::byte, 4> mark{std::byte{'B'}, std::byte{'T'}, std::byte{'H'}, std::byte{'1'}};

// Where a hello has what.
constexpr std::size_t flags_at = 4;
constexpr std::size_t from_at = 5;
constexpr std::size_t place_at = 13;
constexpr std::size_t to_at = place_at + socket_place::wire_bytes;
constexpr std::size_t point_at = to_at + 8;
constexpr std::size_t mac_at = point_at + 32;
static_assert(mac_at + 32 == hello_bytes);

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

secret_key pair_key(const secret_key& cluster, instance_id a, instance_id b) {
  std::array<std::byte, 16> both{};
  put(both, wire(std::min(a, b)));
  put(std::span(both).subspan(8), wire(std::max(a, b)));
  return derive_key(cluster, {}, "baton data plane: a pair's key", both);
}

struct session_keys {
  secret_key proofs;
  secret_key records;
};

/// From the secret of both points, the pair's key, and everything that both have said.
session_keys session_of(const secret_key& pair, const secret_key& shared, std::span<const std::byte> hello,
                        const public_point& answer) {
  std::array<std::byte, hello_bytes + 32> said{};
  put(said, hello);
  put(std::span(said).subspan(hello_bytes), answer);
  const auto transcript = sha256(said);
  return {derive_key(shared, pair, "baton data plane: proofs", transcript),
          derive_key(shared, pair, "baton data plane: records", transcript)};
}

digest proof_of(const secret_key& key, std::string_view side) {
  return hmac_sha256(key, std::as_bytes(std::span(side)));
}

}  // namespace

handshake_initiator::handshake_initiator(const secret_key& cluster, instance_id self, const socket_place& place,
                                         instance_id to, bool sealed)
    : pair_(pair_key(cluster, self, to)), hello_{} {
  const std::span out(hello_);
  put(out, mark);
  out[flags_at] = std::byte{sealed};
  put(out.subspan(from_at), wire(self));
  put(out.subspan(place_at), place.to_wire());
  put(out.subspan(to_at), wire(to));
  put(out.subspan(point_at), exchange_.own_point());
  put(out.subspan(mac_at), hmac_sha256(pair_, out.first(mac_at)));
}

std::optional<handshake_initiator::agreed> handshake_initiator::replied(
    std::span<const std::byte, reply_bytes> reply) const {
  const auto point = taken<32>(reply);
  const auto shared = exchange_.shared_with(point);
  if (!shared) return std::nullopt;
  const auto session = session_of(pair_, *shared, hello_, point);
  if (!same_secret(proof_of(session.proofs, "acceptor"), reply.subspan(32))) return std::nullopt;
  return agreed{proof_of(session.proofs, "initiator"), session.records};
}

std::optional<std::array<std::byte, reply_bytes>> handshake_acceptor::greeted(
    const secret_key& cluster, instance_id self, std::span<const std::byte, hello_bytes> hello) {
  if (!std::equal(mark.begin(), mark.end(), hello.begin()) || std::to_integer<unsigned>(hello[flags_at]) > 1)
    return std::nullopt;
  const auto place = socket_place::from_wire(hello.subspan(place_at, socket_place::wire_bytes));
  const auto from = read_instance(hello.subspan(from_at));
  if (!place || from == 0 || from == self || read_instance(hello.subspan(to_at)) != self) return std::nullopt;
  const auto pair = pair_key(cluster, from, self);
  if (!same_secret(hmac_sha256(pair, hello.first(mac_at)), hello.subspan(mac_at))) return std::nullopt;

  const key_exchange exchange;
  const auto shared = exchange.shared_with(taken<32>(hello.subspan(point_at)));
  if (!shared) return std::nullopt;
  const auto session = session_of(pair, *shared, hello, exchange.own_point());
  peer_ = {from, *place, hello[flags_at] == std::byte{1}, session.records};
  expected_ = proof_of(session.proofs, "initiator");
  std::array<std::byte, reply_bytes> reply{};
  put(reply, exchange.own_point());
  put(std::span(reply).subspan(32), proof_of(session.proofs, "acceptor"));
  return reply;
}

std::optional<handshake_acceptor::peer> handshake_acceptor::proven(
    std::span<const std::byte, proof_bytes> proof) const {
  if (peer_.instance == 0 || !same_secret(expected_, proof)) return std::nullopt;
  return peer_;
}

}  // namespace baton
