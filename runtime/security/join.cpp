#include "runtime/security/join.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/fault.hpp"
#include "runtime/wire/join.pb.h"

namespace baton {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string hash_of(const std::string& text) { return text_of(sha256(bytes_of(text))); }

std::optional<public_point> point_of(const std::string& text) {
  public_point point;
  if (text.size() != point.size()) return std::nullopt;
  std::memcpy(point.data(), text.data(), point.size());
  return point;
}

// What is signed says what for, so that no signature is worth anything elsewhere.
std::string by_coordinator(const std::string& hello, const std::string& point) {
  return "baton join: the coordinator answers " + hash_of(hello) + point;
}
std::string by_member(const std::string& hello, const std::string& challenge) {
  return "baton join: a member answers " + hash_of(hello) + hash_of(challenge);
}

secret_key sealing_key(const secret_key& shared, const std::string& hello, const std::string& challenge) {
  return derive_key(shared, {}, "baton join: admission", bytes_of(hash_of(hello) + hash_of(challenge)));
}

template <class Message>
std::optional<Message> parsed(const std::string& bytes) {
  Message m;
  if (bytes.size() > join_bytes_max || !m.ParseFromString(bytes)) return std::nullopt;
  return m;
}

[[noreturn]] void no_coordinator(const std::string& why) { throw fault(fault_code::bad_input, why, "coordinator"); }

}  // namespace

joiner::joiner(const cluster_identity* identity) : identity_(identity) {
  wire::join_hello hello;
  if (identity_ != nullptr) hello.set_certificate(identity_->certificate());
  hello.set_point(text_of(exchange_.own_point()));
  hello.set_own_point(text_of(own_point_));
  hello_ = hello.SerializeAsString();
}

std::string joiner::challenged(const std::string& challenge) {
  const auto said = parsed<wire::join_challenge>(challenge);
  const auto point = said ? point_of(said->point()) : std::nullopt;
  const auto shared = point ? exchange_.shared_with(*point) : std::nullopt;
  if (!shared) no_coordinator("what answers there does not speak as a coordinator of Baton does");
  wire::join_proof proof;
  if (identity_ != nullptr) {
    const auto who =
        identity_->signer(said->certificate(), bytes_of(by_coordinator(hello_, said->point())), said->signature());
    if (!who) no_coordinator("what answers there cannot prove that it belongs to this cluster");
    if (who->role != member_role::coordinator) no_coordinator("what answers there is " + who->text());
    proof.set_signature(identity_->sign(bytes_of(by_member(hello_, challenge))));
  }
  sealing_ = sealing_key(*shared, hello_, challenge);
  return proof.SerializeAsString();
}

std::optional<data_plane_identity> joiner::admitted(const std::string& admission) const {
  const auto said = parsed<wire::join_admission>(admission);
  std::array<std::byte, 1 + data_plane_admission::wire_bytes> bytes;
  std::array<std::byte, record_cipher::tag_bytes> tag;
  const std::size_t length = said ? said->sealed().size() : 0;
  if (!sealing_ || (length != 1 && length != bytes.size()) || said->tag().size() != tag.size())
    no_coordinator("its admission makes no sense");
  std::memcpy(bytes.data(), said->sealed().data(), length);
  std::memcpy(tag.data(), said->tag().data(), tag.size());
  record_cipher opening(*sealing_, record_cipher::use::opening);
  if (!opening.open({}, std::span(bytes).first(length), tag)) no_coordinator("its admission was changed on its way");
  if (length == 1) return std::nullopt;
  return data_plane_identity{data_plane_admission::from_wire(std::span(bytes).last<data_plane_admission::wire_bytes>()),
                             secret_, own_point_};
}

doorkeeper::doorkeeper(const cluster_identity* identity, const secret_key& root)
    : identity_(identity), data_plane_(root) {}

std::optional<std::string> doorkeeper::greeted(std::uint64_t newcomer, const std::string& hello, time_point now) {
  const auto said = parsed<wire::join_hello>(hello);
  const auto point = said ? point_of(said->point()) : std::nullopt;
  const auto own_point = said ? point_of(said->own_point()) : std::nullopt;
  const key_exchange exchange;
  const auto shared = point && own_point ? exchange.shared_with(*point) : std::nullopt;
  if (!shared) return std::nullopt;
  std::erase_if(waiting_, [&](const auto& w) { return now - w.second.since > waiting_time_max; });
  if (waiting_.size() >= waiting_max && !waiting_.contains(newcomer)) {
    waiting_.erase(std::min_element(waiting_.begin(), waiting_.end(),
                                    [](const auto& a, const auto& b) { return a.second.since < b.second.since; }));
  }
  wire::join_challenge challenge;
  challenge.set_point(text_of(exchange.own_point()));
  if (identity_ != nullptr) {
    challenge.set_certificate(identity_->certificate());
    challenge.set_signature(identity_->sign(bytes_of(by_coordinator(hello, challenge.point()))));
  }
  auto bytes = challenge.SerializeAsString();
  waiting_[newcomer] = {said->certificate(), by_member(hello, bytes), sealing_key(*shared, hello, bytes), *own_point,
                        now};
  return bytes;
}

std::optional<doorkeeper::admission> doorkeeper::proven(std::uint64_t newcomer, const std::string& proof,
                                                        time_point now) {
  const auto found = waiting_.extract(newcomer);
  if (found.empty() || now - found.mapped().since > waiting_time_max) return std::nullopt;
  const auto& w = found.mapped();
  admission out;
  if (identity_ != nullptr) {
    const auto said = parsed<wire::join_proof>(proof);
    if (said) out.who = identity_->signer(w.certificate, bytes_of(w.signed_by_it), said->signature());
    if (!out.who) return std::nullopt;
  }
  std::vector<std::byte> sealed{std::byte{0}};
  if (!out.who || out.who->role == member_role::node) {
    sealed[0] = std::byte{1};
    const auto given = data_plane_.admit(w.own_point).to_wire();
    sealed.insert(sealed.end(), given.begin(), given.end());
  }
  std::array<std::byte, record_cipher::tag_bytes> tag;
  record_cipher(w.sealing, record_cipher::use::sealing).seal({}, sealed, sealed.data(), tag);
  wire::join_admission admitted;
  admitted.set_sealed(text_of(sealed));
  admitted.set_tag(text_of(tag));
  out.bytes = admitted.SerializeAsString();
  return out;
}

}  // namespace baton
