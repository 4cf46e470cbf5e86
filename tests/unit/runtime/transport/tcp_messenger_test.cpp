#include "runtime/transport/tcp_messenger.hpp"

#include <random>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include "kernels/fault.hpp"
#include "runtime/transport/message_header.hpp"
#include "runtime/transport/socket.hpp"
#include "runtime/transport/tcp_connections.hpp"
#include "runtime/transport/tcp_handshake.hpp"
#include "tests/support/message_inbox.hpp"
#include "tests/support/messenger_kinds.hpp"
#include "tests/support/strangers.hpp"

/// What only TCP messengers have, and what strangers may try; messenger_test.cpp has the rest.
namespace baton {
namespace {

using namespace std::chrono_literals;

struct station {
  explicit station(tcp_options options = {}) {
    if (options.identity.admission.instance == 0) options.identity = cluster_of_tests().new_identity();
    options.warn = [this](const std::string& text) {
      const std::lock_guard lock(mutex);
      warnings.push_back(text);
    };
    identity = options.identity;
    messages = make_tcp_messenger(options);
    messages->listen(&in);
  }
  [[nodiscard]] const std::string& address() const { return messages->address(); }
  [[nodiscard]] socket_place place() const {
    return *socket_place::from_wire(read_address(std::as_bytes(std::span(address())))->place);
  }
  [[nodiscard]] std::vector<std::string> heard_warnings() {
    const std::lock_guard lock(mutex);
    return warnings;
  }

  data_plane_identity identity;
  std::mutex mutex;
  std::vector<std::string> warnings;
  message_inbox in;
  std::unique_ptr<messenger> messages;
};

/// A message goes from one to the other while `meanwhile` is as it is.
void expect_served(station& from, station& to, std::uint32_t step) {
  from.messages->send(to.address(), direct(step, payload_of(1 << 20, step)));
  EXPECT_TRUE(to.in.has_step(step));
}

TEST(tcp_messenger, listens_on_the_one_address_that_it_was_told) {
  station a({.host = "127.0.0.2"});
  EXPECT_EQ(a.place().text().substr(0, 10), "127.0.0.2:");
  EXPECT_TRUE(stranger_connection(a.place()).is_open());
  auto elsewhere = *socket_place::of("127.0.0.1", a.place().port);
  EXPECT_FALSE(stranger_connection(elsewhere).is_open());
}

TEST(tcp_messenger, takes_the_ports_that_it_was_given_and_no_others) {
  // Three that were free a moment ago; others may take them meanwhile.
  for (int attempt = 0; attempt < 20; ++attempt) {
    socket_place free = *socket_place::of("127.0.0.3", 0);
    static_cast<void>(listen_on(free));
    if (free.port > 65'000) continue;
    const port_range ports{free.port, static_cast<std::uint16_t>(free.port + 2)};
    const station a({.host = "127.0.0.3", .ports = ports}), b({.host = "127.0.0.3", .ports = ports}),
        c({.host = "127.0.0.3", .ports = ports});
    std::set<int> taken;
    for (const auto* one : {&a, &b, &c}) taken.insert(one->place().port);
    EXPECT_EQ(taken, (std::set<int>{ports.first, ports.first + 1, ports.last}));
    try {
      const station one_too_many({.host = "127.0.0.3", .ports = ports});
      ADD_FAILURE();
    } catch (const fault& why) {
      EXPECT_EQ(why.code(), fault_code::device);
      EXPECT_THAT(why.what(), testing::HasSubstr(std::to_string(ports.first) + " to " + std::to_string(ports.last)));
    }
    return;
  }
  FAIL() << "no three ports were free";
}

TEST(tcp_messenger, an_address_that_is_not_this_machines_is_bad_input) {
  for (const auto* host : {"192.0.2.1", "west.example", ""}) {
    try {
      static_cast<void>(make_tcp_messenger({.host = host, .warn = {}}));
      FAIL() << host;
    } catch (const fault& why) {
      EXPECT_EQ(why.code(), fault_code::bad_input) << why.what();
    }
  }
}

TEST(tcp_messenger, reaches_others_over_ipv6) {
  station a({.host = "::1"}), b({.host = "::1"});
  expect_served(a, b, 1);
}

TEST(tcp_messenger, a_messenger_of_another_cluster_is_refused_and_reported) {
  station a, b;
  station stranger({.identity = data_plane_authority(random_key()).new_identity()});
  stranger.messages->send(a.address(), direct(7, payload_of(100, 7)));
  expect_served(b, a, 1);
  for (int i = 0; i < 200 && a.heard_warnings().empty(); ++i) std::this_thread::sleep_for(10ms);
  ASSERT_FALSE(a.heard_warnings().empty());
  EXPECT_THAT(a.heard_warnings().front(), testing::HasSubstr("127.0.0.1"));
  EXPECT_THAT(a.heard_warnings().front(), testing::HasSubstr("no process of this cluster"));
  EXPECT_EQ(a.in.arrivals().size(), 1u);
  // Neither does the member talk to a stranger.
  a.messages->send(stranger.address(), direct(8, payload_of(100, 8)));
  expect_served(a, b, 2);
  EXPECT_TRUE(stranger.in.arrivals().empty());
}

TEST(tcp_messenger, a_member_that_takes_anothers_name_is_refused) {
  station a, b;
  // All that b shows, and the secret of somebody else whom the control plane has let in.
  const auto someone = cluster_of_tests().new_identity();
  auto mask = b.identity;
  mask.secret = someone.secret;
  station as_b({.identity = mask});
  as_b.messages->send(a.address(), direct(7, payload_of(100, 7)));
  // And its own point, which is not endorsed for b.
  auto other_point = someone;
  other_point.admission.instance = b.identity.admission.instance;
  station as_b_too({.identity = other_point});
  as_b_too.messages->send(a.address(), direct(7, payload_of(100, 7)));
  for (int i = 0; i < 300 && a.heard_warnings().empty(); ++i) std::this_thread::sleep_for(10ms);
  EXPECT_FALSE(a.heard_warnings().empty());
  expect_served(b, a, 1);
  EXPECT_EQ(a.in.arrivals().size(), 1u);
  // Nor does it hear what is meant for b: here at b's own address.
  a.messages->send(as_b.address(), direct(8, payload_of(100, 8)));
  a.messages->send(as_b_too.address(), direct(8, payload_of(100, 8)));
  expect_served(a, b, 2);
  EXPECT_TRUE(as_b.in.arrivals().empty());
  EXPECT_TRUE(as_b_too.in.arrivals().empty());
}

TEST(tcp_messenger, who_must_encrypt_refuses_who_does_not) {
  station sealed({.seal_always = true}), plain;
  plain.messages->send(sealed.address(), direct(7, payload_of(100, 7)));
  for (int i = 0; i < 200 && sealed.heard_warnings().empty(); ++i) std::this_thread::sleep_for(10ms);
  ASSERT_FALSE(sealed.heard_warnings().empty());
  EXPECT_TRUE(sealed.in.arrivals().empty());
  sealed.messages->send(plain.address(), direct(9, payload_of(100, 9)));
  EXPECT_TRUE(plain.in.has_step(9));
}

TEST(tcp_messenger, hostile_bytes_are_dropped_and_members_are_served) {
  station a, b;
  std::mt19937_64 random(3);
  for (std::uint32_t round = 0; round < 100; ++round) {
    stranger_connection stranger(a.place());
    std::vector<std::byte> noise(1 + random() % 5000);
    for (auto& byte : noise) byte = static_cast<std::byte>(round % 3 == 0 ? 0xff : random());
    if (round % 3 == 1) {
      // As far as a right one goes.
      const auto to = read_address(std::as_bytes(std::span(a.address())))->instance;
      const handshake_initiator right(cluster_of_tests().new_identity(), a.place(), to, false);
      std::copy_n(right.hello().begin(), std::min<std::size_t>(noise.size(), random() % hello_bytes), noise.begin());
    }
    stranger.say(noise);
    if (round % 10 == 0) expect_served(b, a, round);
    if (noise.size() >= hello_bytes) {
      EXPECT_TRUE(stranger.is_closed_by_the_other_side());
    }
  }
}

TEST(tcp_messenger, a_handshake_that_was_overheard_opens_nothing) {
  station a, b;
  const auto to = read_address(std::as_bytes(std::span(a.address())))->instance;
  const handshake_initiator right(cluster_of_tests().new_identity(), a.place(), to, false);
  stranger_connection replays(a.place());
  replays.say(right.hello());
  replays.say(std::vector<std::byte>(proof_bytes + 1000, std::byte{1}));
  EXPECT_TRUE(replays.is_closed_by_the_other_side());
  expect_served(b, a, 1);
  EXPECT_EQ(a.in.arrivals().size(), 1u);
}

TEST(tcp_messenger, what_a_member_says_after_its_handshake_is_checked_too) {
  station a, b;
  const auto to = read_address(std::as_bytes(std::span(a.address())))->instance;
  for (const bool sealed : {false, true}) {
    const handshake_initiator member(cluster_of_tests().new_identity(), a.place(), to, sealed);
    stranger_connection connection(a.place());
    connection.say(member.hello());
    std::array<std::byte, reply_bytes> reply;
    ASSERT_TRUE(connection.hears(reply));
    connection.say(member.replied(reply)->proof);
    connection.say(std::vector<std::byte>(100'000, std::byte{0x7f}));
    EXPECT_TRUE(connection.is_closed_by_the_other_side());
  }
  expect_served(b, a, 1);
}

TEST(tcp_messenger, idle_strangers_are_bounded_and_sent_away_while_members_come_and_go) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = std::max<rlim_t>(files.rlim_cur, std::min<rlim_t>(files.rlim_max, 4096));
  setrlimit(RLIMIT_NOFILE, &files);
  station a;
  std::vector<stranger_connection> idle;
  for (int i = 0; i < 500; ++i) idle.emplace_back(a.place());
  for (std::uint32_t step = 0; step < 10; ++step) {
    station newcomer;
    expect_served(newcomer, a, step);
  }
  // Who was one too many has pushed out an older one; the others are sent away when their time is over.
  EXPECT_TRUE(idle.front().is_closed_by_the_other_side());
  EXPECT_TRUE(idle.back().is_closed_by_the_other_side());
  const auto warnings = a.heard_warnings();
  EXPECT_FALSE(warnings.empty());
  EXPECT_LT(warnings.size(), 10u) << "strangers must not fill the log";
}

TEST(tcp_messenger, strangers_of_one_address_do_not_push_out_others) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = std::max<rlim_t>(files.rlim_cur, std::min<rlim_t>(files.rlim_max, 4096));
  setrlimit(RLIMIT_NOFILE, &files);
  station a({.host = "127.0.0.1"});
  stranger_connection slow(a.place(), "127.0.0.77");
  std::vector<stranger_connection> flood;
  for (std::size_t i = 0; i < tcp_connections::strangers_max + 50; ++i) flood.emplace_back(a.place(), "127.0.0.66");
  // Its handshake goes on after the flood has begun.
  const auto to = read_address(std::as_bytes(std::span(a.address())))->instance;
  const handshake_initiator member(cluster_of_tests().new_identity(), a.place(), to, false);
  slow.say(member.hello());
  std::array<std::byte, reply_bytes> reply;
  EXPECT_TRUE(slow.hears(reply));
}

TEST(tcp_messenger, no_file_descriptors_are_no_reason_to_spin_or_die) {
  station a, b;
  expect_served(b, a, 1);
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  stranger_connection one_more(a.place(), {}, stranger_connection::connect_later);
  auto none = before;
  none.rlim_cur = 3;  // nothing that is new
  setrlimit(RLIMIT_NOFILE, &none);
  one_more.connect();
  const auto cpu_s = [] {
    timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  };
  const double start = cpu_s();
  std::this_thread::sleep_for(1s);
  EXPECT_LT(cpu_s() - start, 0.3);
  expect_served(b, a, 2);
  setrlimit(RLIMIT_NOFILE, &before);
  station newcomer;
  expect_served(newcomer, a, 3);
}

}  // namespace
}  // namespace baton
