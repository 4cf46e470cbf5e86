#include "runtime/transport/local.hpp"

#include <numeric>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "tests/support/routes.hpp"

namespace baton {
namespace {

using namespace std::chrono_literals;

block_key key_of(block_phase phase, int source, int layer = 0) {
  return {.job = 1,
          .phase = phase,
          .layer = static_cast<std::uint16_t>(layer),
          .source = static_cast<std::uint16_t>(source)};
}

std::vector<std::byte> bytes_of_rank(int rank, std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(rank * 31 + static_cast<int>(i % 251));
  return bytes;
}

block_route route_of(block_phase phase) {
  return phase == block_phase::prefill ? block_route::relayed : block_route::direct;
}

struct local_transport_test : testing::Test {
  relay_log log{1 << 20};
  local_network network{log};
  void SetUp() override { ASSERT_TRUE(log.reserve(1, 1 << 20)); }

  static outgoing_block out(block_phase phase, int source, std::span<const std::byte> bytes, rank_range targets) {
    return {key_of(phase, source), {bytes}, targets, route_of(phase)};
  }
};

TEST_F(local_transport_test, a_transfer_is_done_when_all_blocks_have_arrived_in_any_order) {
  const auto door = network.make_endpoint();
  const auto r0 = door->join(1, 0, routes_of(3));
  const auto r1 = door->join(1, 1, routes_of(3));
  const auto r2 = door->join(1, 2, routes_of(3));
  std::vector<std::byte> from0(5), from1(7);
  const std::vector<incoming_block> wanted{{key_of(block_phase::prefill, 0), {from0}},
                                           {key_of(block_phase::prefill, 1), {from1}}};
  auto passing = r2->exchange({}, wanted);
  EXPECT_FALSE(passing.done());
  EXPECT_EQ(passing.missing_rank(), 0);
  const auto b1 = bytes_of_rank(1, 7);
  EXPECT_TRUE(r1->exchange(std::vector{out(block_phase::prefill, 1, b1, {2, 3})}, {}).done());
  EXPECT_FALSE(passing.done());
  EXPECT_EQ(from1, b1);
  const auto b0 = bytes_of_rank(0, 5);
  EXPECT_TRUE(r0->exchange(std::vector{out(block_phase::prefill, 0, b0, {1, 3})}, {}).done());
  EXPECT_TRUE(passing.done());
  EXPECT_EQ(from0, b0);
  EXPECT_EQ(r2->counts().bytes_received, 12);
  EXPECT_EQ(r0->counts().bytes_sent, 5);
}

TEST_F(local_transport_test, compressed_blocks_stay_in_the_log_and_partial_results_do_not) {
  const auto door = network.make_endpoint();
  const auto r0 = door->join(1, 0, routes_of(2));
  const auto r1 = door->join(1, 1, routes_of(2));
  const auto bytes = bytes_of_rank(0, 16);
  static_cast<void>(r0->exchange(std::vector{out(block_phase::prefill, 0, bytes, {1, 2})}, {}));
  static_cast<void>(r0->exchange(std::vector{out(block_phase::query, 0, bytes, {0, 2})}, {}));
  EXPECT_TRUE(log.holds(key_of(block_phase::prefill, 0)));
  EXPECT_FALSE(log.holds(key_of(block_phase::query, 0)));
  std::vector<std::byte> got(16);
  auto direct =
      r1->exchange({}, std::vector<incoming_block>{{key_of(block_phase::query, 0), {got}, block_route::direct}});
  EXPECT_TRUE(direct.done());
  EXPECT_EQ(got, bytes);
}

TEST_F(local_transport_test, an_abort_throws_cancelled_and_wakes_the_sleeper) {
  const auto door = network.make_endpoint();
  const auto r1 = door->join(1, 1, routes_of(2));
  std::vector<std::byte> got(4);
  auto passing = r1->exchange({}, std::vector<incoming_block>{{key_of(block_phase::prefill, 0), {got}}});
  std::jthread stopper([&] { r1->abort(); });
  door->wait(std::chrono::steady_clock::now() + 60s);
  stopper.join();
  try {
    static_cast<void>(passing.done());
    FAIL();
  } catch (const fault& why) {
    EXPECT_EQ(why.code(), fault_code::cancelled);
  }
}

TEST_F(local_transport_test, a_wait_ends_at_its_deadline) {
  const auto door = network.make_endpoint();
  const auto deadline = std::chrono::steady_clock::now() + 20ms;
  door->wait(deadline);
  EXPECT_GE(std::chrono::steady_clock::now(), deadline);
}

TEST_F(local_transport_test, a_damaged_block_throws_corruption_at_the_receiver) {
  const auto door = network.make_endpoint();
  const auto r1 = door->join(1, 1, routes_of(2));
  block damaged;
  damaged.bytes.assign(8, std::byte{7});
  damaged.checksum = checksum_of(damaged.bytes) + 1;
  log.put(key_of(block_phase::prefill, 0), std::move(damaged));
  std::vector<std::byte> got(8);
  auto passing = r1->exchange({}, std::vector<incoming_block>{{key_of(block_phase::prefill, 0), {got}}});
  EXPECT_THROW(static_cast<void>(passing.done()), fault);
}

TEST_F(local_transport_test, ranks_on_their_own_threads_exchange_all_to_all_in_random_order) {
  constexpr int ranks = 5;
  constexpr int rounds = 40;
  std::vector<std::jthread> threads;
  std::atomic<int> right{0};
  std::vector<std::unique_ptr<endpoint>> doors;
  std::vector<std::unique_ptr<transport>> transports;
  for (int rank = 0; rank < ranks; ++rank) {
    doors.push_back(network.make_endpoint());
    transports.push_back(doors.back()->join(1, rank, routes_of(ranks)));
  }
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      std::mt19937 random(static_cast<unsigned>(rank));
      for (int round = 0; round < rounds; ++round) {
        std::vector<std::vector<std::byte>> got(ranks, std::vector<std::byte>(64));
        std::vector<incoming_block> wanted;
        for (int source = 0; source < ranks; ++source) {
          if (source != rank)
            wanted.push_back({key_of(block_phase::decode, source, round),
                              {got[static_cast<std::size_t>(source)]},
                              block_route::direct});
        }
        if (random() % 2) std::this_thread::sleep_for(std::chrono::microseconds(random() % 200));
        const auto mine = bytes_of_rank(rank + round, 64);
        auto moving = transports[static_cast<std::size_t>(rank)]->exchange(
            std::vector<outgoing_block>{
                {key_of(block_phase::decode, rank, round), {mine}, {0, ranks}, block_route::direct}},
            wanted);
        while (!moving.done()) doors[static_cast<std::size_t>(rank)]->wait(std::chrono::steady_clock::now() + 5s);
        for (int source = 0; source < ranks; ++source) {
          if (source != rank && got[static_cast<std::size_t>(source)] == bytes_of_rank(source + round, 64)) ++right;
        }
      }
    });
  }
  threads.clear();
  EXPECT_EQ(right.load(), rounds * ranks * (ranks - 1));
}

}  // namespace
}  // namespace baton
