#include <array>
#include <functional>
#include <map>
#include <random>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "tests/support/transport_fixture.hpp"

/// What every transport promises, whatever moves its blocks.
namespace baton {
namespace {

using namespace std::chrono_literals;

constexpr int ranks = transport_fixture::ranks;

struct network_kind {
  std::string name;
  std::function<std::unique_ptr<transport_fixture>()> make;
};

std::string name_of_kind(const testing::TestParamInfo<network_kind>& kind) { return kind.param.name; }

block_key compressed(job_id job, int layer, int source, int part = 0) {
  return {.job = job,
          .layer = static_cast<std::uint16_t>(layer),
          .source = static_cast<std::uint16_t>(source),
          .part = static_cast<std::uint16_t>(part)};
}

block_key partial(job_id job, int step, int layer, int source, int part = 0) {
  auto key = compressed(job, layer, source, part);
  key.phase = block_phase::decode;
  key.step = static_cast<std::uint32_t>(step);
  return key;
}

block_route route_of(const block_key& key) {
  return key.phase == block_phase::prefill ? block_route::relayed : block_route::direct;
}

/// A block to be sent with the bytes that belong to its key.
struct sending {
  sending(const block_key& its_key, std::size_t size, rank_range to)
      : key(its_key), bytes(bytes_for(its_key, size)), targets(to) {}
  [[nodiscard]] outgoing_block as_outgoing() const {
    // In two parts, of which one may be empty.
    const auto all = std::span(bytes);
    return {key, {all.first(bytes.size() / 3), all.subspan(bytes.size() / 3)}, targets, route_of(key)};
  }
  block_key key;
  std::vector<std::byte> bytes;
  rank_range targets;
};

/// Room for a block.
struct receiving {
  receiving(const block_key& its_key, std::size_t size) : key(its_key), bytes(size, std::byte{0xee}) {}
  [[nodiscard]] incoming_block as_incoming() {
    const auto all = std::span(bytes);
    return {key, {all.first(bytes.size() / 2), all.subspan(bytes.size() / 2)}, route_of(key)};
  }
  [[nodiscard]] bool is_right() const { return bytes == bytes_for(key, bytes.size()); }
  block_key key;
  std::vector<std::byte> bytes;
};

transfer exchange(transport& network, const std::vector<sending>& sends, std::vector<receiving>& receives) {
  std::vector<outgoing_block> out;
  std::vector<incoming_block> in;
  for (const auto& s : sends) out.push_back(s.as_outgoing());
  for (auto& r : receives) in.push_back(r.as_incoming());
  return network.exchange(out, in);
}

void send(rank_seat& seat, const block_key& key, std::size_t size, rank_range targets) {
  std::vector<receiving> nothing;
  EXPECT_TRUE(exchange(*seat.network, {sending(key, size, targets)}, nothing).done());
}

/// Sends, receives and checks the bytes.
void move(rank_seat& seat, const std::vector<sending>& sends, std::vector<receiving> receives) {
  auto moving = exchange(*seat.network, sends, receives);
  ASSERT_TRUE(arrives(moving, *seat.door)) << "rank " << moving.missing_rank() << " is missing";
  for (const auto& r : receives) EXPECT_TRUE(r.is_right()) << describe(r.key);
}

void expect_fault(fault_code code, const std::string& where, const std::function<void()>& body) {
  try {
    body();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const fault& why) {
    EXPECT_EQ(why.code(), code) << why.what();
    EXPECT_THAT(why.where(), testing::HasSubstr(where));
  }
}

/// Each on its own thread, as devices have them.
void on_ranks(std::vector<int> which, const std::function<void(int)>& body) {
  std::vector<std::jthread> threads;
  for (const int rank : which) {
    threads.emplace_back([&body, rank] {
      try {
        body(rank);
      } catch (const std::exception& why) {
        ADD_FAILURE() << "rank " << rank << ": " << why.what();
      }
    });
  }
}

void on_every_rank(const std::function<void(int)>& body) { on_ranks({0, 1, 2, 3, 4, 5, 6}, body); }

struct transport_conformance : testing::TestWithParam<network_kind> {
  std::unique_ptr<transport_fixture> fixture = GetParam().make();
  std::map<int, rank_seat> seats;  // of job 1

  void SetUp() override {
    fixture->admit(1);
    for (int rank = 0; rank < ranks; ++rank) seats[rank] = take_seat(*fixture, 1, rank);
  }
};

// ---- what moves ----

TEST_P(transport_conformance, blocks_arrive_whole_in_any_order_of_posting_and_reading) {
  constexpr std::array<std::size_t, 7> sizes{0, 1, 3, 17, 4095, 65'537, 200'001};
  for (const unsigned seed : {1U, 2U, 3U}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    std::vector<sending> blocks;
    for (int i = 0; i < 60; ++i) {
      const int source = static_cast<int>(random() % ranks);
      const int first = static_cast<int>(random() % ranks);
      const rank_range targets{first, first + 1 + static_cast<int>(random() % static_cast<unsigned>(ranks - first))};
      const int step = static_cast<int>(seed) * 1000 + i;
      blocks.emplace_back(random() % 2 ? compressed(1, step, source) : partial(1, step, 0, source),
                          sizes.at(random() % sizes.size()), targets);
    }
    const auto seed_of_ranks = random();
    on_every_rank([&](int rank) {
      std::mt19937 own_random(static_cast<unsigned>(seed_of_ranks) + static_cast<unsigned>(rank));
      // What a rank does, one block at a time, in an order of its own.
      struct receive_under_way {
        std::vector<receiving> room;
        transfer moving;
      };
      std::vector<receive_under_way> under_way;
      auto order = blocks;
      std::shuffle(order.begin(), order.end(), own_random);
      auto& seat = seats.at(rank);
      for (const auto& b : order) {
        if (b.key.source == rank) {
          std::vector<receiving> nothing;
          EXPECT_TRUE(exchange(*seat.network, {b}, nothing).done());
        } else if (b.targets.contains(rank)) {
          auto& added = under_way.emplace_back();
          added.room.emplace_back(b.key, b.bytes.size());
          added.moving = exchange(*seat.network, {}, added.room);
        }
        if (own_random() % 8 == 0) std::this_thread::yield();
      }
      std::shuffle(under_way.begin(), under_way.end(), own_random);
      for (auto& r : under_way) {
        ASSERT_TRUE(arrives(r.moving, *seat.door)) << describe(r.room.front().key);
        EXPECT_TRUE(r.room.front().is_right()) << describe(r.room.front().key);
      }
    });
  }
}

TEST_P(transport_conformance, one_block_may_have_sixty_four_megabytes) {
  constexpr std::size_t size = 64 << 20;
  const auto key = partial(1, 0, 0, 0);
  on_ranks({0, 3}, [&](int rank) {
    if (rank == 0) {
      send(seats.at(0), key, size, {3, 4});
    } else {
      move(seats.at(3), {}, {receiving(key, size)});
    }
  });
}

TEST_P(transport_conformance, blocks_go_round_a_ring) {
  constexpr int layers = 3;
  on_every_rank([&](int rank) {
    const int next = (rank + 1) % ranks;
    const int before = (rank + ranks - 1) % ranks;
    for (int layer = 0; layer < layers; ++layer) {
      // In round r a rank passes on what it got in round r - 1, which started r ranks before it.
      auto held = bytes_for(partial(1, 0, layer, rank), 1000);
      for (int round = 0; round < ranks - 1; ++round) {
        std::vector<std::byte> got(1000);
        auto moving = seats.at(rank).network->exchange(
            std::vector<outgoing_block>{
                {partial(1, 0, layer, rank, round), {held}, {next, next + 1}, block_route::direct}},
            std::vector<incoming_block>{{partial(1, 0, layer, before, round), {got}, block_route::direct}});
        ASSERT_TRUE(arrives(moving, *seats.at(rank).door));
        const int origin = (rank + 2 * ranks - 1 - round) % ranks;
        ASSERT_EQ(got, bytes_for(partial(1, 0, layer, origin), 1000)) << "rank " << rank << ", round " << round;
        held = std::move(got);
      }
    }
  });
}

TEST_P(transport_conformance, every_rank_gives_every_other_something_of_its_own) {
  on_every_rank([&](int rank) {
    for (int layer = 0; layer < 4; ++layer) {
      std::vector<sending> sends;
      std::vector<receiving> receives;
      for (int other = 0; other < ranks; ++other) {
        if (other == rank) continue;
        const auto size = [&](int target) { return static_cast<std::size_t>(100 * target + layer); };
        sends.emplace_back(partial(1, 0, layer, rank, other), size(other), rank_range{other, other + 1});
        receives.emplace_back(partial(1, 0, layer, other, rank), size(rank));
      }
      move(seats.at(rank), sends, std::move(receives));
    }
  });
}

/// Compressed blocks of one job go to all later ranks, layer by layer.
void pass_compressed_blocks(rank_seat& seat, job_id job, int rank, int layers) {
  for (int layer = 0; layer < layers; ++layer) {
    std::vector<sending> sends;
    std::vector<receiving> receives;
    const auto size = [&](int source) { return static_cast<std::size_t>(20'000 + 1000 * source + layer); };
    if (rank + 1 < ranks) sends.emplace_back(compressed(job, layer, rank), size(rank), rank_range{rank + 1, ranks});
    for (int source = 0; source < rank; ++source) receives.emplace_back(compressed(job, layer, source), size(source));
    move(seat, sends, std::move(receives));
  }
}

TEST_P(transport_conformance, compressed_blocks_go_to_all_later_ranks) {
  on_every_rank([&](int rank) { pass_compressed_blocks(seats.at(rank), 1, rank, 8); });
}

/// Partial results of one token go from every rank to all others, layer by layer; then the last rank gives away the token.
void decode(rank_seat& seat, job_id job, int rank, int tokens) {
  for (int token = 0; token < tokens; ++token) {
    for (int layer = 0; layer < 2; ++layer) {
      std::vector<receiving> receives;
      for (int source = 0; source < ranks; ++source) {
        if (source != rank) receives.emplace_back(partial(job, token, layer, source), 528);
      }
      move(seat, {sending(partial(job, token, layer, rank), 528, {0, ranks})}, std::move(receives));
    }
    const auto chosen = partial(job, token, 0, ranks - 1, 1);
    if (rank == ranks - 1) {
      move(seat, {sending(chosen, 4, {0, ranks - 1})}, {});
    } else {
      move(seat, {}, {receiving(chosen, 4)});
    }
  }
}

TEST_P(transport_conformance, partial_results_and_tokens_go_from_every_rank_to_all_others) {
  on_every_rank([&](int rank) { decode(seats.at(rank), 1, rank, 8); });
}

TEST_P(transport_conformance, two_jobs_on_the_same_devices_do_not_meet) {
  fixture->admit(2);
  std::map<int, std::unique_ptr<transport>> second;
  for (int rank = 0; rank < ranks; ++rank) second[rank] = seats.at(rank).door->join(2, rank, fixture->routes(rank));
  on_every_rank([&](int rank) {
    auto& seat = seats.at(rank);
    for (int layer = 0; layer < 5; ++layer) {
      struct half {
        transport* network;
        std::vector<receiving> room;
        transfer moving;
      };
      std::array<half, 2> halves{half{seat.network.get(), {}, {}}, half{second.at(rank).get(), {}, {}}};
      for (const job_id job : {job_id{1}, job_id{2}}) {
        auto& h = halves.at(job - 1);
        std::vector<sending> sends;
        if (rank + 1 < ranks) sends.emplace_back(compressed(job, layer, rank), 3000 * job, rank_range{rank + 1, ranks});
        for (int source = 0; source < rank; ++source) h.room.emplace_back(compressed(job, layer, source), 3000 * job);
        h.moving = exchange(*h.network, sends, h.room);
      }
      // The second job's first: the first one's blocks have to wait for their reader.
      for (const std::size_t i : {1, 0}) {
        ASSERT_TRUE(arrives(halves.at(i).moving, *seat.door));
        for (const auto& r : halves.at(i).room) EXPECT_TRUE(r.is_right()) << describe(r.key);
      }
    }
  });
}

TEST_P(transport_conformance, a_block_counts_once_whoever_reads_it) {
  send(seats.at(0), compressed(1, 0, 0), 100, {1, ranks});
  send(seats.at(0), partial(1, 0, 0, 0), 10, {0, ranks});
  EXPECT_EQ(seats.at(0).network->counts().blocks_sent, 2);
  EXPECT_EQ(seats.at(0).network->counts().bytes_sent, 110);
  EXPECT_EQ(seats.at(0).network->counts().bytes_received, 0);
  for (int rank = 1; rank < ranks; ++rank) {
    move(seats.at(rank), {}, {receiving(compressed(1, 0, 0), 100), receiving(partial(1, 0, 0, 0), 10)});
    EXPECT_EQ(seats.at(rank).network->counts().blocks_received, 2);
    EXPECT_EQ(seats.at(rank).network->counts().bytes_received, 110);
    EXPECT_EQ(seats.at(rank).network->counts().bytes_sent, 0);
  }
}

TEST_P(transport_conformance, what_was_sent_may_be_overwritten_at_once) {
  auto bytes = bytes_for(compressed(1, 0, 0), 5000);
  for (const bool is_relayed : {true, false}) {
    const auto key = is_relayed ? compressed(1, 0, 0) : partial(1, 0, 0, 0);
    EXPECT_TRUE(seats.at(0)
                    .network->exchange(std::vector<outgoing_block>{{key, {bytes}, {1, ranks}, route_of(key)}}, {})
                    .done());
    const auto sent = std::exchange(bytes, std::vector<std::byte>(5000, std::byte{1}));
    for (const int rank : {1, 2, 3}) {
      std::vector<std::byte> got(5000);
      auto moving = seats.at(rank).network->exchange({}, std::vector<incoming_block>{{key, {got}, route_of(key)}});
      ASSERT_TRUE(arrives(moving, *seats.at(rank).door));
      EXPECT_EQ(got, sent);
    }
    bytes = sent;
  }
}

// ---- waiting ----

TEST_P(transport_conformance, a_wait_ends_at_its_deadline) {
  const auto deadline = std::chrono::steady_clock::now() + 20ms;
  seats.at(3).door->wait(deadline);
  EXPECT_GE(std::chrono::steady_clock::now(), deadline);
}

TEST_P(transport_conformance, a_sleeper_is_woken_before_or_while_it_sleeps) {
  const auto in_vain = std::chrono::steady_clock::now() + 1min;
  seats.at(3).door->wake();
  seats.at(3).door->wait(in_vain);
  std::jthread waker([&] { seats.at(3).door->wake(); });
  seats.at(3).door->wait(in_vain);
  EXPECT_LT(std::chrono::steady_clock::now(), in_vain);
}

TEST_P(transport_conformance, a_sleeper_is_woken_by_a_block_that_arrives) {
  for (const auto& key : {compressed(1, 0, 0), partial(1, 0, 0, 0)}) {
    for (const int rank : {1, 2, 3}) {
      std::vector<receiving> room{receiving(key, 9)};
      auto moving = exchange(*seats.at(rank).network, {}, room);
      if (rank == 1) {
        EXPECT_FALSE(moving.done());
        EXPECT_EQ(moving.missing_rank(), 0);
        std::jthread sender([&] { send(seats.at(0), key, 9, {1, ranks}); });
        EXPECT_TRUE(arrives(moving, *seats.at(rank).door));
      } else {
        EXPECT_TRUE(arrives(moving, *seats.at(rank).door));
      }
      EXPECT_TRUE(room.front().is_right());
      EXPECT_EQ(moving.missing_rank(), -1);
    }
  }
}

// ---- what ends early ----

TEST_P(transport_conformance, a_cancelled_transfer_leaves_the_rest_alone) {
  for (int layer = 0; layer < 3; ++layer) {
    {
      std::vector<receiving> room{receiving(compressed(1, layer, 0), 500), receiving(partial(1, layer, 0, 0), 500)};
      auto given_up = exchange(*seats.at(3).network, {}, room);
      EXPECT_FALSE(given_up.done());
    }
    send(seats.at(0), compressed(1, layer, 0), 500, {1, ranks});
    send(seats.at(0), partial(1, layer, 0, 0), 500, {1, ranks});
    for (const int rank : {3, 1, 2, 5, 6, 4})
      move(seats.at(rank), {}, {receiving(partial(1, layer, 0, 0), 500), receiving(compressed(1, layer, 0), 500)});
  }
}

TEST_P(transport_conformance, an_abort_ends_one_job_alone) {
  fixture->admit(2);
  std::map<int, std::unique_ptr<transport>> second;
  for (int rank = 0; rank < ranks; ++rank) second[rank] = seats.at(rank).door->join(2, rank, fixture->routes(rank));
  std::vector<receiving> room{receiving(compressed(1, 0, 0), 50)};
  auto stopped = exchange(*seats.at(3).network, {}, room);
  EXPECT_FALSE(stopped.done());
  std::jthread stopper([&] { seats.at(3).network->abort(); });
  const auto in_vain = std::chrono::steady_clock::now() + 1min;
  seats.at(3).door->wait(in_vain);
  stopper.join();
  EXPECT_LT(std::chrono::steady_clock::now(), in_vain);
  expect_fault(fault_code::cancelled, "", [&] { static_cast<void>(stopped.done()); });
  expect_fault(fault_code::cancelled, "", [&] { send(seats.at(3), compressed(1, 0, 3), 50, {4, ranks}); });
  stopped = transfer();
  for (auto& [rank, network] : second) seats.at(rank).network = std::move(network);
  on_every_rank([&](int rank) { pass_compressed_blocks(seats.at(rank), 2, rank, 2); });
}

TEST_P(transport_conformance, a_length_other_than_planned_is_corruption) {
  send(seats.at(1), compressed(1, 4, 1), 64, {2, ranks});
  send(seats.at(1), partial(1, 0, 5, 1), 64, {0, ranks});
  std::vector<receiving> longer{receiving(compressed(1, 4, 1), 65)};
  auto first = exchange(*seats.at(3).network, {}, longer);
  expect_fault(fault_code::corruption, "job 1, layer 4, rank 1",
               [&] { static_cast<void>(arrives(first, *seats.at(3).door)); });
  std::vector<receiving> shorter{receiving(partial(1, 0, 5, 1), 63)};
  auto second = exchange(*seats.at(3).network, {}, shorter);
  expect_fault(fault_code::corruption, "job 1, layer 5, rank 1",
               [&] { static_cast<void>(arrives(second, *seats.at(3).door)); });
  move(seats.at(2), {}, {receiving(partial(1, 0, 5, 1), 64), receiving(compressed(1, 4, 1), 64)});
}

// ---- many processes ----

struct many_processes_conformance : transport_conformance {
  process_fixture& cluster() { return dynamic_cast<process_fixture&>(*fixture); }

  /// A rank in a process where it did not begin.
  rank_seat take_seat_in(int process, int rank, std::uint32_t attempt) {
    auto routes = cluster().routes_in(process);
    routes.ranks.at(static_cast<std::size_t>(rank)) = {cluster().address(process), attempt};
    rank_seat seat;
    seat.door = cluster().network(process).make_endpoint();
    seat.network = seat.door->join(1, rank, routes);
    return seat;
  }
};

std::shared_ptr<const block> block_with(std::vector<std::byte> bytes, bool is_damaged = false) {
  block b;
  b.bytes.assign(bytes.begin(), bytes.end());
  b.checksum = checksum_of(b.bytes);
  if (is_damaged) b.bytes.at(0) ^= std::byte{1};
  return std::make_shared<block>(std::move(b));
}

TEST_P(many_processes_conformance, damaged_blocks_are_not_taken_and_whole_ones_after_them_are) {
  const auto compressed_key = compressed(1, 3, 0);
  const auto partial_key = partial(1, 0, 2, 0);
  for (const bool is_damaged : {true, false}) {
    cluster().stranger().send(cluster().relay_address(1),
                              {.kind = message_kind::forward,
                               .delivery = 1,
                               .key = compressed_key,
                               .targets = {1, ranks},
                               .payload = block_with(bytes_for(compressed_key, 40), is_damaged)});
    cluster().stranger().send(cluster().address(2), {.kind = message_kind::direct,
                                                     .delivery = 1,
                                                     .key = partial_key,
                                                     .targets = {1, ranks},
                                                     .payload = block_with(bytes_for(partial_key, 40), is_damaged)});
  }
  for (const int rank : {3, 5, 6}) {
    move(seats.at(rank), {}, {receiving(compressed_key, 40)});
    move(seats.at(rank), {}, {receiving(partial_key, 40)});
  }
}

TEST_P(many_processes_conformance, a_message_that_comes_twice_changes_nothing) {
  const auto first = partial(1, 0, 0, 0);
  const auto second = partial(1, 1, 0, 0);
  const auto direct = [&](std::uint64_t delivery, const block_key& key) {
    return message{.kind = message_kind::direct,
                   .delivery = delivery,
                   .key = key,
                   .targets = {1, ranks},
                   .payload = block_with(bytes_for(key, 40))};
  };
  cluster().stranger().send(cluster().address(2), direct(1, first));
  move(seats.at(3), {}, {receiving(first, 40)});
  // What has been read is not there again, neither after the same delivery nor by itself.
  cluster().stranger().send(cluster().address(2), direct(1, first));
  cluster().stranger().send(cluster().address(2), direct(2, second));
  move(seats.at(3), {}, {receiving(second, 40)});
  std::vector<receiving> room{receiving(first, 40)};
  auto again = exchange(*seats.at(3).network, {}, room);
  EXPECT_FALSE(again.done());
  for (const int rank : {5, 6}) move(seats.at(rank), {}, {receiving(first, 40), receiving(second, 40)});
}

TEST_P(many_processes_conformance, blocks_for_a_rank_that_joins_late_come_again) {
  fixture->admit(2);
  auto early = take_seat(*fixture, 2, 0);
  send(early, partial(2, 0, 0, 0), 70, {1, ranks});
  send(early, compressed(2, 0, 0), 70, {1, ranks});
  // Another block that goes the same way shows that the first one has been there.
  send(seats.at(0), partial(1, 0, 0, 0), 70, {1, ranks});
  move(seats.at(2), {}, {receiving(partial(1, 0, 0, 0), 70)});
  auto late = take_seat(*fixture, 2, 2);
  move(late, {}, {receiving(partial(2, 0, 0, 0), 70), receiving(compressed(2, 0, 0), 70)});
}

TEST_P(many_processes_conformance, a_process_that_was_stopped_goes_on_where_it_was) {
  cluster().stop(2);
  on_every_rank([&](int rank) {
    if (rank == 0) {
      pass_compressed_blocks(seats.at(0), 1, 0, 4);
      cluster().go_on(2);
    } else {
      pass_compressed_blocks(seats.at(rank), 1, rank, 4);
    }
  });
}

TEST_P(many_processes_conformance, a_killed_process_leaves_its_transfers_pending_and_others_go_on) {
  std::vector<receiving> room{receiving(compressed(1, 0, 2), 30), receiving(partial(1, 0, 0, 2), 30)};
  auto pending = exchange(*seats.at(3).network, {}, room);
  EXPECT_FALSE(pending.done());
  seats.erase(2);
  cluster().kill(1);
  for (int step = 0; step < 3; ++step) {
    on_ranks({0, 1, 3, 4, 5, 6}, [&](int rank) {
      std::vector<receiving> receives;
      for (const int source : {0, 1, 3, 4, 5, 6}) {
        if (source != rank) receives.emplace_back(partial(1, step, 1, source), 300);
        if (source < rank) receives.emplace_back(compressed(1, step + 1, source), 3000);
      }
      move(seats.at(rank),
           {sending(partial(1, step, 1, rank), 300, {0, ranks}),
            sending(compressed(1, step + 1, rank), 3000, {rank + 1, ranks})},
           std::move(receives));
    });
  }
  EXPECT_FALSE(pending.done());
  EXPECT_EQ(pending.missing_rank(), 2);
}

TEST_P(many_processes_conformance, a_rank_that_was_lost_is_replaced_in_another_process) {
  seats.erase(2);
  cluster().kill(1);
  // Nobody is there to take these.
  send(seats.at(0), partial(1, 0, 0, 0), 90, {1, ranks});
  send(seats.at(3), partial(1, 0, 0, 3), 90, {0, ranks});
  send(seats.at(0), compressed(1, 0, 0), 90, {1, ranks});
  seats[2] = take_seat_in(process_fixture::spare, 2, 1);
  for (const int rank : {0, 1, 3, 4, 5, 6})
    seats.at(rank).network->rewire(2, {cluster().address(process_fixture::spare), 1});
  move(seats.at(2), {},
       {receiving(partial(1, 0, 0, 0), 90), receiving(partial(1, 0, 0, 3), 90), receiving(compressed(1, 0, 0), 90)});
  on_every_rank([&](int rank) {
    for (int step = 1; step < 4; ++step) {
      std::vector<receiving> receives;
      for (int source = 0; source < ranks; ++source) {
        if (source != rank) receives.emplace_back(partial(1, step, 0, source), 200);
      }
      move(seats.at(rank), {sending(partial(1, step, 0, rank), 200, {0, ranks})}, std::move(receives));
    }
  });
}

TEST_P(many_processes_conformance, late_blocks_of_an_earlier_attempt_are_not_taken) {
  const auto unread = partial(1, 0, 0, 2);
  const auto late = partial(1, 1, 0, 2);
  const auto marker = partial(1, 2, 0, 2);
  send(seats.at(2), unread, 50, {3, 4});
  send(seats.at(2), marker, 50, {5, 6});
  move(seats.at(5), {}, {receiving(marker, 50)});
  auto replacement = take_seat_in(process_fixture::spare, 2, 1);
  for (const int rank : {0, 1, 3, 4, 5, 6})
    seats.at(rank).network->rewire(2, {cluster().address(process_fixture::spare), 1});
  // The lost one was only slow. It says something else than its replacement, so that one can tell.
  std::vector<std::byte> wrong(50, std::byte{0x55});
  EXPECT_TRUE(seats.at(2)
                  .network
                  ->exchange(std::vector<outgoing_block>{{unread, {wrong}, {3, 4}, block_route::direct},
                                                         {late, {wrong}, {3, 4}, block_route::direct}},
                             {})
                  .done());
  std::vector<receiving> room{receiving(late, 50), receiving(unread, 50)};
  auto moving = exchange(*seats.at(3).network, {}, room);
  seats.at(3).door->wait(std::chrono::steady_clock::now() + 100ms);
  EXPECT_FALSE(moving.done());
  send(replacement, late, 50, {3, 4});
  send(replacement, unread, 50, {3, 4});
  ASSERT_TRUE(arrives(moving, *seats.at(3).door));
  for (const auto& r : room) EXPECT_TRUE(r.is_right()) << describe(r.key);
  // An earlier place is never gone back to.
  seats.at(3).network->rewire(2, {cluster().address(1), 0});
  send(seats.at(3), partial(1, 3, 0, 3), 50, {2, 3});
  move(replacement, {}, {receiving(partial(1, 3, 0, 3), 50)});
}

TEST_P(many_processes_conformance, a_rank_may_move_to_where_others_of_its_job_are) {
  // Rank 5 leaves process 2, where others stay, and goes to process 0.
  seats.erase(5);
  seats[5] = take_seat_in(0, 5, 1);
  for (const int rank : {0, 1, 2, 3, 4, 6}) seats.at(rank).network->rewire(5, {cluster().address(0), 1});
  on_every_rank([&](int rank) {
    decode(seats.at(rank), 1, rank, 2);
    pass_compressed_blocks(seats.at(rank), 1, rank, 2);
  });
}

TEST_P(many_processes_conformance, an_address_that_makes_no_sense_is_bad_input) {
  auto routes = fixture->routes(0);
  for (auto& place : routes.ranks) {
    if (place.address != routes.ranks[0].address) place.address = "nowhere";
  }
  routes.relay = "nowhere";
  fixture->admit(3);
  rank_seat seat;
  seat.door = fixture->make_endpoint(0);
  seat.network = seat.door->join(3, 0, routes);
  expect_fault(fault_code::bad_input, "", [&] { send(seat, partial(3, 0, 0, 0), 5, {1, ranks}); });
  expect_fault(fault_code::bad_input, "", [&] { send(seat, compressed(3, 0, 0), 5, {1, ranks}); });
  seat.network = nullptr;
  pass_compressed_blocks(seats.at(0), 1, 0, 1);
  move(seats.at(2), {}, {receiving(compressed(1, 0, 0), 20'000)});
}

// ---- a network that loses, delays, damages and doubles ----

struct faulty_conformance : testing::Test {
  static constexpr fault_plan quiet{};

  static std::map<int, rank_seat> seats_in(transport_fixture& fixture) {
    fixture.admit(1);
    std::map<int, rank_seat> seats;
    for (int rank = 0; rank < ranks; ++rank) seats[rank] = take_seat(fixture, 1, rank);
    return seats;
  }
};

TEST_F(faulty_conformance, everything_arrives_over_a_network_that_loses_a_tenth) {
  faulty_fixture fixture({.seed = 5, .drop = 0.1, .duplicate = 0.2, .delay = 0.5, .delay_max = 20ms});
  auto seats = seats_in(fixture);
  on_every_rank([&](int rank) {
    std::vector<sending> sends;
    std::vector<receiving> receives;
    for (int layer = 0; layer < 6; ++layer) {
      sends.emplace_back(compressed(1, layer, rank), 900, rank_range{rank + 1, ranks});
      sends.emplace_back(partial(1, layer, 0, rank), 90, rank_range{0, ranks});
      for (int source = 0; source < ranks; ++source) {
        if (source < rank) receives.emplace_back(compressed(1, layer, source), 900);
        if (source != rank) receives.emplace_back(partial(1, layer, 0, source), 90);
      }
    }
    move(seats.at(rank), sends, std::move(receives));
  });
  EXPECT_GT(fixture.faults().what_happened().dropped, 0);
  EXPECT_GT(fixture.faults().what_happened().duplicated, 0);
}

TEST_F(faulty_conformance, any_one_message_may_be_lost) {
  faulty_fixture fixture(quiet);
  auto seats = seats_in(fixture);
  for (const auto kind : {message_kind::put, message_kind::forward, message_kind::want, message_kind::answer,
                          message_kind::direct, message_kind::acknowledge})
    fixture.faults().drop_next(kind);
  send(seats.at(0), compressed(1, 0, 0), 900, {1, ranks});
  send(seats.at(0), partial(1, 0, 0, 0), 90, {1, ranks});
  on_ranks({1, 2, 3, 4, 5, 6}, [&](int rank) {
    move(seats.at(rank), {}, {receiving(compressed(1, 0, 0), 900), receiving(partial(1, 0, 0, 0), 90)});
  });
  EXPECT_EQ(fixture.faults().what_happened().dropped, 6);
}

TEST_F(faulty_conformance, a_block_goes_once_to_each_process_and_relay) {
  faulty_fixture fixture(quiet);
  auto seats = seats_in(fixture);
  on_every_rank([&](int rank) {
    std::vector<sending> sends;
    std::vector<receiving> receives;
    if (rank == 0) {
      sends.emplace_back(compressed(1, 0, 0), 900, rank_range{1, ranks});
      sends.emplace_back(partial(1, 0, 0, 0), 90, rank_range{0, ranks});
    } else {
      receives.emplace_back(compressed(1, 0, 0), 900);
      receives.emplace_back(partial(1, 0, 0, 0), 90);
    }
    move(seats.at(rank), sends, std::move(receives));
  });
  auto& faults = fixture.faults();
  EXPECT_EQ(faults.sent(message_kind::direct), 2) << "processes 1 and 2";
  EXPECT_EQ(faults.sent(message_kind::put), 1);
  EXPECT_EQ(faults.sent(message_kind::forward), 1);
  EXPECT_EQ(faults.sent(message_kind::answer), 2) << "process 0 has it already";
}

TEST_F(faulty_conformance, what_is_damaged_on_its_way_comes_again) {
  faulty_fixture fixture(quiet);
  auto seats = seats_in(fixture);
  fixture.faults().corrupt_next(message_kind::direct);
  fixture.faults().corrupt_next(message_kind::put);
  fixture.faults().corrupt_next(message_kind::forward);
  fixture.faults().corrupt_next(message_kind::answer);
  send(seats.at(0), partial(1, 0, 0, 0), 90, {3, 4});
  send(seats.at(0), compressed(1, 1, 0), 90, {1, ranks});
  for (const auto& key : {partial(1, 0, 0, 0), compressed(1, 1, 0)}) move(seats.at(3), {}, {receiving(key, 90)});
  move(seats.at(1), {}, {receiving(compressed(1, 1, 0), 90)});
  EXPECT_EQ(fixture.faults().what_happened().corrupted, 4);
}

TEST_F(faulty_conformance, a_damaged_acknowledgement_acknowledges_nothing) {
  faulty_fixture fixture(quiet);
  auto seats = seats_in(fixture);
  fixture.faults().corrupt_next(message_kind::acknowledge);
  send(seats.at(0), partial(1, 0, 0, 0), 90, {3, 4});
  move(seats.at(3), {}, {receiving(partial(1, 0, 0, 0), 90)});
  const auto in_vain = std::chrono::steady_clock::now() + 1min;
  while (fixture.faults().sent(message_kind::direct) < 2 && std::chrono::steady_clock::now() < in_vain)
    std::this_thread::sleep_for(20ms);
  EXPECT_EQ(fixture.faults().what_happened().corrupted, 1);
  EXPECT_EQ(fixture.faults().sent(message_kind::direct), 2) << "it was not sent again";
}

TEST_F(faulty_conformance, a_block_that_was_held_up_since_an_earlier_attempt_is_not_taken) {
  faulty_fixture fixture(quiet);
  auto seats = seats_in(fixture);
  fixture.faults().hold_next(message_kind::direct);
  EXPECT_TRUE(seats.at(2)
                  .network
                  ->exchange(
                      std::vector<outgoing_block>{
                          {partial(1, 0, 0, 2), {std::vector<std::byte>(8)}, {3, 4}, block_route::direct}},
                      {})
                  .done());
  seats.erase(2);
  fixture.kill(1);
  auto routes = fixture.routes_in(process_fixture::spare);
  const rank_place place{fixture.address(process_fixture::spare), 1};
  routes.ranks[2] = place;
  seats[2].door = fixture.network(process_fixture::spare).make_endpoint();
  seats[2].network = seats[2].door->join(1, 2, routes);
  for (const int rank : {0, 1, 3, 4, 5, 6}) seats.at(rank).network->rewire(2, place);
  fixture.faults().release_held();
  send(seats.at(2), partial(1, 0, 0, 2), 8, {3, 4});
  move(seats.at(3), {}, {receiving(partial(1, 0, 0, 2), 8)});
}

// ---- the kinds ----

const network_kind local_kind{"local", [] { return std::make_unique<local_fixture>(); }};
const network_kind faulty_kind{"faulty", [] {
                                 return std::make_unique<faulty_fixture>(
                                     fault_plan{.drop = 0.002, .duplicate = 0.1, .delay = 0.3, .delay_max = 2ms});
                               }};
const network_kind ucx_kind{"ucx", [] { return std::make_unique<ucx_fixture>(); }};
const network_kind tcp_kind{"tcp", [] { return std::make_unique<tcp_fixture>(false); }};
const network_kind sealed_tcp_kind{"sealed_tcp", [] { return std::make_unique<tcp_fixture>(true); }};

INSTANTIATE_TEST_SUITE_P(networks, transport_conformance,
                         testing::Values(local_kind, faulty_kind, ucx_kind, tcp_kind, sealed_tcp_kind), name_of_kind);
INSTANTIATE_TEST_SUITE_P(networks, many_processes_conformance,
                         testing::Values(faulty_kind, ucx_kind, tcp_kind, sealed_tcp_kind), name_of_kind);

}  // namespace
}  // namespace baton
