#include "actors/control_plane.hpp"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include <caf/openssl/all.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "kernels/fault.hpp"
#include "tests/support/slow_road.hpp"
#include "tests/support/strangers.hpp"
#include "tests/support/temporary_directory.hpp"

/// The coordinator's port, with real TLS on loopback: who is let in, and what strangers can do to it.
namespace baton::actors {
namespace {

using namespace std::chrono_literals;

const cluster_member coordinator_member{member_role::coordinator, {}};
const cluster_member west{member_role::node, "west"};
const cluster_member client_member{member_role::client, {}};

/// A coordinator that only counts.
coordinator_actor spawn_counter(caf::actor_system& system) {
  return system.spawn([](coordinator_actor::pointer) -> coordinator_actor::behavior_type {
    return {[](const worker_actor&, const worker_report_bytes&) {},
            [](const worker_report_bytes&) {},
            [](const relay_actor&, const relay_report_bytes&) {},
            [](const relay_report_bytes&) {},
            [](const client_actor&, const client_request_bytes&) {},
            [](const client_request_bytes&) {},
            [](tick_atom) {},
            [](count_atom) -> caf::result<std::uint64_t, std::uint64_t, std::string> {
              return {std::uint64_t{1}, std::uint64_t{2}, std::string()};
            }};
  });
}

std::int64_t resident_bytes() {
  std::ifstream in("/proc/self/statm");
  std::int64_t total = 0, resident = 0;
  in >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

/// A cluster's coordinator with a port, in a system of its own.
struct host {
  explicit host(const std::filesystem::path& certificates)
      : identity(certificates, coordinator_member),
        port(&identity),
        settings(actor_config::reach::network, &identity),
        system(std::make_unique<caf::actor_system>(settings)),
        coordinator(spawn_counter(*system)) {
    close_side_doors(*system);
    where = {"127.0.0.1", port.open(*system, coordinator, {"127.0.0.1", 0})};
  }
  ~host() {
    caf::anon_send_exit(coordinator, caf::exit_reason::user_shutdown);
    coordinator = nullptr;
    system.reset();
  }
  host(const host&) = delete;
  host& operator=(const host&) = delete;

  cluster_identity identity;
  coordinator_port port;
  actor_config settings;
  std::unique_ptr<caf::actor_system> system;
  coordinator_actor coordinator;
  coordinator_address where;
};

struct control_plane : testing::Test {
  control_plane() {
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = std::max<rlim_t>(files.rlim_cur, std::min<rlim_t>(files.rlim_max, 4096));
    setrlimit(RLIMIT_NOFILE, &files);
    static_cast<void>(make_certificates(folder.path(), {coordinator_member, west, client_member}));
    here.emplace(folder.path());
  }
  [[nodiscard]] socket_place place() const { return *socket_place::of("127.0.0.1", here->where.port); }

  /// Joins as that member, from a system of its own, and asks the coordinator something.
  void expect_let_in(const cluster_member& who) const {
    const cluster_identity identity(folder.path(), who);
    actor_config settings(actor_config::reach::network, &identity);
    caf::actor_system system(settings);
    close_side_doors(system);
    const auto joined = join_cluster(system, here->where, &identity, 30s);
    EXPECT_EQ(here->port.admitted()->whose(system.node()), who);
    caf::scoped_actor self(system);
    bool answered = false;
    self->request(joined.coordinator, 10s, count_atom::value)
        .receive([&](std::uint64_t workers, std::uint64_t, const std::string&) { answered = workers == 1; },
                 [](const caf::error&) {});
    EXPECT_TRUE(answered);
  }

  temporary_directory folder;
  std::optional<host> here;
};

TEST_F(control_plane, members_are_let_in_and_known) {
  expect_let_in(west);
  expect_let_in(client_member);
}

TEST_F(control_plane, a_member_far_away_is_let_in) {
  // A handshake of CAF's takes several round trips: longer than half a second.
  const slow_road road(place(), 150ms);
  const cluster_identity identity(folder.path(), west);
  actor_config settings(actor_config::reach::network, &identity);
  caf::actor_system system(settings);
  static_cast<void>(join_cluster(system, {"127.0.0.1", road.place().port}, &identity, 5s));
  EXPECT_EQ(here->port.admitted()->whose(system.node()), west);
}

TEST(plain_control_plane, a_member_whose_messages_are_lost_connects_anew) {
  actor_config settings(actor_config::reach::network);
  caf::actor_system here(settings);
  auto coordinator = spawn_counter(here);
  coordinator_port port(nullptr);
  const auto at = port.open(here, coordinator, {"127.0.0.1", 0});
  const slow_road road(*socket_place::of("127.0.0.1", at), 1ms, 1);
  {
    actor_config of_member(actor_config::reach::network);
    caf::actor_system system(of_member);
    // CAF itself would give the first connection up after 30 s.
    EXPECT_NO_THROW(static_cast<void>(join_cluster(system, {"127.0.0.1", road.place().port}, nullptr, 15s)));
  }
  caf::anon_send_exit(coordinator, caf::exit_reason::user_shutdown);
  coordinator = nullptr;
}

TEST_F(control_plane, processes_get_their_own_numbers_under_one_authority_and_clients_none) {
  const cluster_identity identity(folder.path(), west);
  actor_config settings(actor_config::reach::network, &identity);
  caf::actor_system system(settings);
  const auto once = join_cluster(system, here->where, &identity, 30s).data_plane;
  const auto again = join_cluster(system, here->where, &identity, 30s).data_plane;
  ASSERT_TRUE(once && again);
  EXPECT_EQ(once->admission.issuer, again->admission.issuer);
  EXPECT_EQ(once->admission.cluster, again->admission.cluster);
  EXPECT_NE(once->admission.instance, again->admission.instance);
  EXPECT_NE(once->secret, again->secret);
  const cluster_identity user(folder.path(), client_member);
  actor_config of_user(actor_config::reach::network, &user);
  caf::actor_system other(of_user);
  EXPECT_FALSE(join_cluster(other, here->where, &user, 30s).data_plane);
}

TEST_F(control_plane, who_has_no_certificate_or_a_foreign_one_is_not_let_in) {
  const temporary_directory elsewhere;
  static_cast<void>(make_certificates(elsewhere.path(), {coordinator_member, west}));
  const cluster_identity foreign(elsewhere.path(), west);
  for (const auto* identity : {&foreign, static_cast<const cluster_identity*>(nullptr)}) {
    actor_config settings(actor_config::reach::network, identity);
    caf::actor_system system(settings);
    try {
      static_cast<void>(join_cluster(system, here->where, identity, 500ms));
      ADD_FAILURE() << "it was let in";
    } catch (const fault& why) {
      EXPECT_EQ(why.code(), fault_code::deadline) << why.what();
    }
  }
  expect_let_in(west);
}

TEST_F(control_plane, nobody_gets_past_the_gate_without_its_proof) {
  // A member of the authority's, whose TLS is fine, but who signs as somebody else.
  const cluster_identity node(folder.path(), west), user(folder.path(), client_member);
  actor_config settings(actor_config::reach::network, &user);
  caf::actor_system system(settings);
  auto gate = caf::openssl::remote_actor<gate_actor>(system, here->where.host, here->where.port);
  ASSERT_TRUE(gate) << system.render(gate.error());
  caf::scoped_actor self(system);
  const auto refused = [&](const std::string& proof) {
    bool answered = true;
    self->request(*gate, 10s, prove_atom::value, proof)
        .receive([&](const coordinator_actor&, const std::string&) {}, [&](const caf::error&) { answered = false; });
    return !answered;
  };
  EXPECT_TRUE(refused("")) << "no hello before";
  joiner as_node(&node), as_user(&user);
  std::string challenge;
  self->request(*gate, 10s, hello_atom::value, as_node.hello())
      .receive([&](const std::string& text) { challenge = text; }, [](const caf::error&) {});
  ASSERT_FALSE(challenge.empty());
  EXPECT_TRUE(refused(std::string("nonsense")));
  EXPECT_FALSE(here->port.admitted()->whose(system.node()));
  expect_let_in(west);
}

TEST_F(control_plane, who_goes_away_without_a_word_disturbs_nobody) {
  const cluster_identity identity(folder.path(), west);
  actor_config settings(actor_config::reach::network, &identity);
  caf::actor_system system(settings);
  {
    const auto joined = join_cluster(system, here->where, &identity, 30s);
    caf::scoped_actor self(system);
    self->monitor(joined.coordinator);
    for (int i = 0; i < 10; ++i) {
      expect_let_in(client_member);
      const stranger_connection hostile(place());
      std::vector<std::byte> hello{std::byte{22}, std::byte{3}, std::byte{1}, std::byte{1}, std::byte{0}};
      hello.resize(5 + 256, std::byte{99});  // no handshake message begins so
      hostile.say(hello);
      EXPECT_TRUE(hostile.is_closed_by_the_other_side());
    }
    bool lost = false;
    self->receive([&](const caf::down_msg&) { lost = true; }, caf::after(500ms) >> [] {});
    EXPECT_FALSE(lost) << "the connection of a member has ended";
  }
}

TEST_F(control_plane, hostile_bytes_kill_and_stall_nobody) {
  std::mt19937_64 random(9);
  const auto before = resident_bytes();
  for (int round = 0; round < 60; ++round) {
    const stranger_connection stranger(place());
    std::vector<std::byte> noise(32);
    switch (round % 4) {
      case 0: noise[4] = std::byte{1}; break;  // what kills CAF's plain port: a header of 32 bytes, no payload
      case 1:                                  // a header that claims 4 GiB
        for (std::size_t i = 4; i < 12; ++i) noise[i] = std::byte{0xff};
        break;
      case 2:
        noise.resize(4000);
        for (auto& b : noise) b = static_cast<std::byte>(random());
        break;
      default:  // the beginning of a TLS hello, and nonsense behind it
        noise = {std::byte{22}, std::byte{3}, std::byte{1}, std::byte{1}, std::byte{0}};
        noise.resize(5 + 256);
        for (std::size_t i = 5; i < noise.size(); ++i) noise[i] = static_cast<std::byte>(random());
    }
    stranger.say(noise);
    EXPECT_TRUE(stranger.is_closed_by_the_other_side()) << round;
  }
  EXPECT_LT(resident_bytes() - before, 100 << 20);
  expect_let_in(west);
}

TEST_F(control_plane, five_hundred_idle_strangers_keep_nobody_out) {
  std::vector<stranger_connection> idle;
  const auto before = resident_bytes();
  for (int i = 0; i < 500; ++i) idle.emplace_back(place());
  expect_let_in(west);
  expect_let_in(client_member);
  EXPECT_LT(resident_bytes() - before, 100 << 20);
  for (const auto& stranger : idle) EXPECT_TRUE(stranger.is_closed_by_the_other_side());
}

}  // namespace
}  // namespace baton::actors
