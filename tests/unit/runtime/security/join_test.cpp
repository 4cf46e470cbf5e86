#include "runtime/security/join.hpp"

#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using namespace std::chrono_literals;

const cluster_member coordinator{member_role::coordinator, {}};
const cluster_member west{member_role::node, "west"};
const cluster_member client{member_role::client, {}};
const secret_key root = random_key();
const doorkeeper::time_point now{};

struct join : testing::Test {
  join() { static_cast<void>(make_certificates(folder.path(), {coordinator, west, client})); }

  temporary_directory folder;
};

/// Whether it has what the data plane of `root` takes.
void expect_endorsed(const std::optional<data_plane_identity>& who) {
  ASSERT_TRUE(who);
  const auto& given = who->admission;
  EXPECT_EQ(key_exchange(who->secret).own_point(), who->point);
  EXPECT_EQ(given.issuer, data_plane_authority(root).admit(who->point).issuer);
  EXPECT_TRUE(is_endorsed(given.issuer, given.instance, who->point, given.endorsement));
  EXPECT_FALSE(is_endorsed(given.issuer, given.instance + 1, who->point, given.endorsement));
  EXPECT_FALSE(is_endorsed(given.issuer, given.instance, key_exchange().own_point(), given.endorsement));
  EXPECT_EQ(data_plane_admission::from_wire(given.to_wire()), given);
}

TEST_F(join, a_member_is_known_by_its_certificate_and_a_node_gets_its_place_on_the_data_plane) {
  const cluster_identity host(folder.path(), coordinator);
  doorkeeper door(&host, root);
  std::uint64_t newcomer = 0;
  for (const auto& who : {west, client}) {
    const cluster_identity member(folder.path(), who);
    joiner j(&member);
    const auto challenge = door.greeted(++newcomer, j.hello(), now);
    ASSERT_TRUE(challenge);
    const auto admission = door.proven(newcomer, j.challenged(*challenge), now);
    ASSERT_TRUE(admission);
    EXPECT_EQ(admission->who, who);
    const auto place = j.admitted(admission->bytes);
    if (who == client) {
      EXPECT_FALSE(place);
      continue;
    }
    expect_endorsed(place);
    const auto& shared = place->admission.cluster;
    EXPECT_EQ(admission->bytes.find(std::string(reinterpret_cast<const char*>(shared.data()), shared.size())),
              std::string::npos)
        << "the key travels in the clear";
  }
}

TEST_F(join, without_certificates_everybody_is_admitted_and_nobody_is_known) {
  doorkeeper door(nullptr, root);
  joiner j(nullptr);
  const auto admission = door.proven(1, j.challenged(*door.greeted(1, j.hello(), now)), now);
  ASSERT_TRUE(admission);
  EXPECT_FALSE(admission->who);
  expect_endorsed(j.admitted(admission->bytes));
}

TEST_F(join, what_was_changed_on_its_way_is_no_admission) {
  doorkeeper door(nullptr, root);
  joiner j(nullptr);
  const auto admission = door.proven(1, j.challenged(*door.greeted(1, j.hello(), now)), now);
  ASSERT_TRUE(admission);
  for (std::size_t i = 0; i < admission->bytes.size(); ++i) {
    auto changed = admission->bytes;
    changed[i] ^= 1;
    EXPECT_THROW(static_cast<void>(j.admitted(changed)), fault) << i;
  }
}

TEST_F(join, a_foreign_member_is_not_admitted) {
  const temporary_directory elsewhere;
  static_cast<void>(make_certificates(elsewhere.path(), {coordinator, west}));
  const cluster_identity host(folder.path(), coordinator), foreign(elsewhere.path(), west);
  doorkeeper door(&host, root);
  joiner j(&foreign);
  const auto challenge = door.greeted(1, j.hello(), now);
  EXPECT_THROW(static_cast<void>(j.challenged(*challenge)), fault) << "it does not believe the coordinator either";
  joiner unsigned_one(nullptr);
  const auto other = door.greeted(2, unsigned_one.hello(), now);
  EXPECT_FALSE(door.proven(2, unsigned_one.challenged(*other), now));
}

TEST_F(join, who_shows_anothers_certificate_is_not_admitted) {
  const cluster_identity host(folder.path(), coordinator), node(folder.path(), west), user(folder.path(), client);
  doorkeeper door(&host, root);
  // The client repeats the node's hello, and signs by itself what it is challenged with.
  joiner honest(&node), liar(&user);
  const auto challenge = door.greeted(1, honest.hello(), now);
  const auto own_challenge = door.greeted(2, liar.hello(), now);
  EXPECT_FALSE(door.proven(1, liar.challenged(*own_challenge), now));
  // And an old proof fits no new challenge.
  const auto proof = honest.challenged(*challenge);
  static_cast<void>(door.greeted(1, honest.hello(), now));
  EXPECT_FALSE(door.proven(1, proof, now));
}

TEST_F(join, a_member_that_plays_the_coordinator_is_found_out) {
  const cluster_identity node(folder.path(), west), user(folder.path(), client);
  doorkeeper false_door(&node, random_key());
  joiner j(&user);
  try {
    static_cast<void>(j.challenged(*false_door.greeted(1, j.hello(), now)));
    FAIL();
  } catch (const fault& why) {
    EXPECT_THAT(why.reason(), testing::HasSubstr("node west"));
  }
}

TEST_F(join, time_runs_out_and_those_who_say_hello_only_are_bounded) {
  const cluster_identity host(folder.path(), coordinator), member(folder.path(), west);
  doorkeeper door(&host, root);
  joiner j(&member);
  const auto late = j.challenged(*door.greeted(1, j.hello(), now));
  EXPECT_FALSE(door.proven(1, late, now + 11s));
  joiner pushed_out(&member);
  const auto proof = pushed_out.challenged(*door.greeted(1, pushed_out.hello(), now));
  for (std::uint64_t other = 2; other < 2 + doorkeeper::waiting_max; ++other)
    ASSERT_TRUE(door.greeted(other, j.hello(), now + 1s));
  EXPECT_FALSE(door.proven(1, proof, now + 1s));
}

TEST_F(join, nonsense_is_nobodys) {
  const cluster_identity host(folder.path(), coordinator), member(folder.path(), west);
  doorkeeper door(&host, root);
  std::mt19937_64 random(7);
  for (int i = 0; i < 300; ++i) {
    std::string noise(random() % 300, '\0');
    for (auto& c : noise) c = static_cast<char>(random());
    EXPECT_FALSE(door.greeted(2, noise, now));
    EXPECT_FALSE(door.proven(1, noise, now));
    joiner fresh(&member);
    auto changed = *door.greeted(1, fresh.hello(), now);
    changed[random() % changed.size()] ^= static_cast<char>(1 + random() % 255);
    try {
      // Some bytes of a PEM file mean nothing; whoever signs a changed challenge is not admitted for it.
      EXPECT_FALSE(door.proven(1, fresh.challenged(changed), now));
    } catch (const fault&) {
    }
    EXPECT_THROW(static_cast<void>(fresh.challenged(noise)), fault);
    EXPECT_THROW(static_cast<void>(fresh.admitted(noise)), fault);
  }
  EXPECT_FALSE(door.greeted(2, std::string(1 << 20, 'x'), now));
}

}  // namespace
}  // namespace baton
