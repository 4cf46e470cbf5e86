#include "runtime/transport/tcp_handshake.hpp"

#include <random>

#include <gtest/gtest.h>

namespace baton {
namespace {

const data_plane_authority control_plane(random_key());
const data_plane_identity ann = control_plane.new_identity(), bob = control_plane.new_identity(),
                          eve = control_plane.new_identity();
const socket_place home = *socket_place::of("10.1.2.3", 4711);

const std::array<std::byte, proof_bytes> nothing{};

instance_id number_of(const data_plane_identity& who) { return who.admission.instance; }

handshake_initiator from(const data_plane_identity& who, bool sealed = true) {
  return {who, home, number_of(bob), sealed};
}
handshake_initiator from_ann(bool sealed = true) { return from(ann, sealed); }

/// `shows` in all that is said, and the secret of `has`.
data_plane_identity masked(data_plane_identity shows, const data_plane_identity& has) {
  shows.secret = has.secret;
  return shows;
}

TEST(tcp_handshake, both_sides_of_a_cluster_agree_on_a_fresh_key) {
  std::vector<secret_key> keys;
  for (const bool sealed : {true, false, true}) {
    const auto a = from_ann(sealed);
    handshake_acceptor b;
    const auto reply = b.greeted(bob, a.hello());
    ASSERT_TRUE(reply);
    const auto agreed = a.replied(*reply);
    ASSERT_TRUE(agreed);
    const auto peer = b.proven(agreed->proof);
    ASSERT_TRUE(peer);
    EXPECT_EQ(peer->instance, number_of(ann));
    EXPECT_EQ(peer->place, home);
    EXPECT_EQ(peer->sealed, sealed);
    EXPECT_EQ(peer->records, agreed->records);
    for (const auto& earlier : keys) EXPECT_NE(earlier, agreed->records);
    keys.push_back(agreed->records);
  }
}

TEST(tcp_handshake, a_stranger_is_dropped_at_the_hello) {
  handshake_acceptor b;
  EXPECT_FALSE(b.greeted(bob, from(data_plane_authority(random_key()).new_identity()).hello()));
  EXPECT_FALSE(b.proven(nothing)) << "nobody has greeted";
}

TEST(tcp_handshake, a_member_cannot_speak_in_the_name_of_another_pair) {
  // Eve belongs to the cluster and has keys of her own. In ann's name, with her own point:
  auto liar = eve;
  liar.admission.instance = number_of(ann);
  handshake_acceptor first, second;
  EXPECT_FALSE(first.greeted(bob, from(liar).hello())) << "her point is not endorsed for ann";
  // With all that ann shows to anybody, but without ann's secret:
  const auto mask = masked(ann, eve);
  const auto hello = from(mask);
  const auto reply = second.greeted(bob, hello.hello());
  ASSERT_TRUE(reply) << "this much can be repeated by whoever has seen it";
  const auto agreed = hello.replied(*reply);
  EXPECT_FALSE(agreed) << "and so it ends";
  EXPECT_FALSE(second.proven(nothing));
  // In bob's place, with her own point and with his:
  auto false_bob = eve;
  false_bob.admission.instance = number_of(bob);
  for (const auto& who : {false_bob, masked(bob, eve)}) {
    const auto asked = from_ann();
    handshake_acceptor place;
    const auto answer = place.greeted(who, asked.hello());
    ASSERT_TRUE(answer);
    EXPECT_FALSE(asked.replied(*answer));
  }
}

TEST(tcp_handshake, who_endorses_without_the_control_planes_secret_endorses_nothing) {
  // Members know the cluster's key; one that plays the control plane endorses with another key.
  auto forged = data_plane_authority(random_key()).new_identity();
  forged.admission.cluster = ann.admission.cluster;
  handshake_acceptor b;
  EXPECT_FALSE(b.greeted(bob, from(forged).hello()));
}

TEST(tcp_handshake, who_means_another_process_is_dropped) {
  handshake_acceptor b;
  EXPECT_FALSE(b.greeted(eve, from_ann().hello()));
}

TEST(tcp_handshake, a_hello_that_was_overheard_is_worth_nothing) {
  const auto a = from_ann();
  handshake_acceptor first, second;
  const auto reply = first.greeted(bob, a.hello());
  const auto agreed = a.replied(*reply);
  ASSERT_TRUE(agreed && first.proven(agreed->proof));
  ASSERT_TRUE(second.greeted(bob, a.hello()));
  EXPECT_FALSE(second.proven(agreed->proof));
  EXPECT_FALSE(second.proven(nothing));
}

TEST(tcp_handshake, who_answers_without_the_key_is_found_out) {
  const auto a = from_ann();
  const key_exchange theirs;
  std::array<std::byte, reply_bytes> made_up{};
  std::copy(theirs.own_point().begin(), theirs.own_point().end(), made_up.begin());
  EXPECT_FALSE(a.replied(made_up));
  EXPECT_FALSE(a.replied(std::array<std::byte, reply_bytes>{}));
  // The answer to somebody else's hello.
  handshake_acceptor b;
  const auto other = from_ann();
  EXPECT_FALSE(a.replied(*b.greeted(bob, other.hello())));
}

TEST(tcp_handshake, any_changed_bit_is_noticed) {
  const auto a = from_ann();
  for (std::size_t bit = 0; bit < 8 * hello_bytes; ++bit) {
    std::array<std::byte, hello_bytes> changed;
    std::copy(a.hello().begin(), a.hello().end(), changed.begin());
    changed[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    handshake_acceptor b;
    EXPECT_FALSE(b.greeted(bob, changed)) << bit;
  }
  handshake_acceptor b;
  const auto reply = *b.greeted(bob, a.hello());
  for (std::size_t bit = 0; bit < 8 * reply_bytes; ++bit) {
    // X25519 ignores the highest bit of a point; everything else, and it too, is in the transcript.
    auto changed = reply;
    changed[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    EXPECT_FALSE(a.replied(changed)) << bit;
  }
  auto proof = a.replied(reply)->proof;
  EXPECT_TRUE(b.proven(proof));
  for (std::size_t bit = 0; bit < 8 * proof_bytes; ++bit) {
    auto changed = proof;
    changed[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    EXPECT_FALSE(b.proven(changed)) << bit;
  }
}

TEST(tcp_handshake, random_bytes_are_refused) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 2'000; ++i) {
    std::array<std::byte, hello_bytes> noise;
    for (auto& b : noise) b = static_cast<std::byte>(random());
    if (i % 2 == 0) {
      // One that begins well, up to a byte that is another's.
      const auto a = from_ann();
      const std::size_t well = random() % hello_bytes;
      std::copy_n(a.hello().begin(), well, noise.begin());
      noise[well] = a.hello()[well] ^ std::byte{1};
    }
    handshake_acceptor b;
    EXPECT_FALSE(b.greeted(bob, noise));
  }
}

}  // namespace
}  // namespace baton
