#include "runtime/device/staged_endpoint.hpp"

#include <array>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#include "kernels/fault.hpp"
#include "runtime/relay/relay_log.hpp"
#include "runtime/transport/local.hpp"
#include "tests/support/routes.hpp"

namespace baton {
namespace {

/// One device, or two, over one network; blocks are device memory. On a CPU the copies are done at once, on a GPU when they are.
class staged_endpoint_test : public testing::TestWithParam<bool> {
 protected:
  struct device {
    device(local_network& network, bool gpu)
        : kernels(gpu ? cuda::make_cuda_backend({}) : cpu::make_cpu_backend({.threads = 1})),
          queue(kernels->make_stream()),
          door(network.make_endpoint()),
          staged(std::make_unique<staged_endpoint>(*door, *kernels, *queue)) {}
    std::unique_ptr<device_memory> filled(std::size_t bytes, int value) {
      auto memory = kernels->allocate(bytes);
      const std::vector<std::byte> numbers(bytes, static_cast<std::byte>(value));
      kernels->upload(*queue, memory->data(), numbers.data(), bytes);
      kernels->synchronize(*queue);
      return memory;
    }
    [[nodiscard]] bool holds(const device_memory& memory, std::size_t first, std::size_t bytes, int value) const {
      std::vector<std::byte> numbers(bytes);
      kernels->download(*queue, numbers.data(), memory.data() + first, bytes);
      kernels->synchronize(*queue);
      return numbers == std::vector<std::byte>(bytes, static_cast<std::byte>(value));
    }
    std::unique_ptr<backend> kernels;
    std::unique_ptr<stream> queue;
    std::unique_ptr<endpoint> door;
    std::unique_ptr<staged_endpoint> staged;
  };

  void SetUp() override {
    if (GetParam() && cuda::device_count() == 0) GTEST_SKIP() << "no GPU here: staging has NOT been tested with one";
    ASSERT_TRUE(log.reserve(7, 1 << 20));
    for (auto& each : devices) each = std::make_unique<device>(network, GetParam());
  }

  static block_key key_of(int source, block_phase phase = block_phase::prefill) {
    return {.job = 7, .phase = phase, .layer = 3, .source = static_cast<std::uint16_t>(source)};
  }
  std::unique_ptr<transport> join(int which, int rank) {
    return devices[static_cast<std::size_t>(which)]->staged->join(7, rank, routes_of(3));
  }
  /// Until the transfer is done.
  void finish(transfer& moving) {
    for (int i = 0; i < 100'000 && !moving.done(); ++i) {
      for (const auto& each : devices) {
        each->kernels->synchronize(*each->queue);
        each->staged->progress();
      }
    }
    ASSERT_TRUE(moving.done());
  }
  static std::span<std::byte> part(const device_memory& memory, std::size_t first, std::size_t bytes) {
    return {memory.data() + first, bytes};
  }

  relay_log log{1 << 20};
  local_network network{log};
  std::array<std::unique_ptr<device>, 2> devices;
};

TEST_P(staged_endpoint_test, gives_blocks_to_ranks_of_this_device_and_of_another) {
  auto& here = *devices[0];
  auto& there = *devices[1];
  const auto r0 = join(0, 0);
  const auto r1 = join(0, 1);
  const auto r2 = join(1, 2);
  const auto keys = here.filled(1000, 1);
  const auto values = here.filled(500, 2);
  const auto got1 = here.filled(1500, 9);
  const auto got2 = there.filled(1500, 9);
  auto early = r2->exchange({}, std::vector<incoming_block>{{key_of(0), {part(*got2, 0, 1500)}}});
  EXPECT_FALSE(early.done());
  EXPECT_EQ(early.missing_rank(), 0);
  auto sent =
      r0->exchange(std::vector<outgoing_block>{{key_of(0), {part(*keys, 0, 1000), part(*values, 0, 500)}, {1, 3}}}, {});
  EXPECT_TRUE(sent.done());
  // What overwrites the block now is queued behind the copy.
  const auto other = here.filled(1000, 7);
  here.kernels->copy(*here.queue, {other->data(), element_type::bf16, 1, 500, 500},
                     {keys->data(), element_type::bf16, 1, 500, 500});
  auto late =
      r1->exchange({}, std::vector<incoming_block>{{key_of(0), {part(*got1, 0, 1200), part(*got1, 1200, 300)}}});
  finish(late);
  finish(early);
  for (const auto& [where, memory] : {std::pair{&here, got1.get()}, {&there, got2.get()}}) {
    EXPECT_TRUE(where->holds(*memory, 0, 1000, 1));
    EXPECT_TRUE(where->holds(*memory, 1000, 500, 2));
  }
  EXPECT_EQ(r0->counts().bytes_sent, 1500);
  EXPECT_EQ(r1->counts().bytes_received, 1500);
  EXPECT_EQ(r2->counts().blocks_received, 1);
}

TEST_P(staged_endpoint_test, gives_direct_blocks_to_all_by_one_way) {
  const bool together[] = {true, false};
  for (const bool all_here : together) {
    const auto r0 = join(0, 0);
    const auto r1 = join(0, 1);
    const auto r2 = join(all_here ? 0 : 1, 2);
    auto& there = *devices[all_here ? 0 : 1];
    const auto own = devices[0]->filled(300, 4);
    const auto got1 = devices[0]->filled(300, 9);
    const auto got2 = there.filled(300, 9);
    const auto key = key_of(0, block_phase::decode);
    auto sent = r0->exchange(std::vector<outgoing_block>{{key, {part(*own, 0, 300)}, {0, 3}, block_route::direct}}, {});
    auto first = r1->exchange({}, std::vector<incoming_block>{{key, {part(*got1, 0, 300)}, block_route::direct}});
    auto second = r2->exchange({}, std::vector<incoming_block>{{key, {part(*got2, 0, 300)}, block_route::direct}});
    finish(first);
    finish(second);
    EXPECT_TRUE(devices[0]->holds(*got1, 0, 300, 4));
    EXPECT_TRUE(there.holds(*got2, 0, 300, 4));
    EXPECT_EQ(r0->counts().blocks_sent, 1);
  }
}

TEST_P(staged_endpoint_test, leaves_host_memory_to_the_network) {
  const auto r0 = join(0, 0);
  const auto r2 = join(1, 2);
  std::int32_t token = 42;
  std::int32_t heard = 0;
  const auto key = key_of(0, block_phase::decode);
  auto moving = r2->exchange({}, std::vector<incoming_block>{
                                     {key, {std::as_writable_bytes(std::span(&heard, 1))}, block_route::direct, true}});
  auto sent = r0->exchange(
      std::vector<outgoing_block>{{key, {std::as_bytes(std::span(&token, 1))}, {0, 3}, block_route::direct, true}}, {});
  EXPECT_TRUE(moving.done());
  EXPECT_EQ(heard, 42);
}

TEST_P(staged_endpoint_test, a_stopped_rank_takes_and_gives_nothing_more) {
  const auto r0 = join(0, 0);
  const auto r1 = join(0, 1);
  const auto got = devices[0]->filled(10, 9);
  auto moving = r1->exchange({}, std::vector<incoming_block>{{key_of(0), {part(*got, 0, 10)}}});
  r1->abort();
  EXPECT_THROW((void)moving.done(), fault);
  EXPECT_THROW((void)r1->exchange({}, {}), fault);
}

TEST_P(staged_endpoint_test, a_job_that_is_dropped_half_way_leaves_nothing) {
  const auto own = devices[0]->filled(100, 1);
  const auto got = devices[0]->filled(100, 9);
  {
    const auto r0 = join(0, 0);
    const auto r1 = join(0, 1);
    auto sent = r0->exchange(std::vector<outgoing_block>{{key_of(0), {part(*own, 0, 100)}, {1, 3}}}, {});
    auto moving = r1->exchange({}, std::vector<incoming_block>{{key_of(1), {part(*got, 0, 100)}}});
  }
  const auto r0 = join(0, 0);
  const auto r1 = join(0, 1);
  auto moving = r1->exchange({}, std::vector<incoming_block>{{key_of(0), {part(*got, 0, 100)}}});
  EXPECT_FALSE(moving.done()) << "a block of the job that went before";
}

TEST_P(staged_endpoint_test, a_rank_that_comes_in_anothers_place_gets_what_was_given_before_it_came) {
  const auto r0 = join(0, 0);
  const auto r1 = join(0, 1);
  const auto own = devices[0]->filled(100, 1);
  const auto got = devices[0]->filled(100, 9);
  {
    const auto r2 = join(1, 2);
    auto sent = r0->exchange(std::vector<outgoing_block>{{key_of(0), {part(*own, 0, 100)}, {1, 3}}}, {});
  }
  // Rank 1 waits for nobody yet; rank 2 is lost and comes to this device.
  const auto r2 = join(0, 2);
  auto late = r2->exchange({}, std::vector<incoming_block>{{key_of(0), {part(*got, 0, 100)}}});
  finish(late);
  EXPECT_TRUE(devices[0]->holds(*got, 0, 100, 1));
  const auto also = devices[0]->filled(100, 9);
  auto first = r1->exchange({}, std::vector<incoming_block>{{key_of(0), {part(*also, 0, 100)}}});
  finish(first);
  EXPECT_TRUE(devices[0]->holds(*also, 0, 100, 1));
}

TEST_P(staged_endpoint_test, who_waits_for_a_rank_of_this_device_asks_the_network_once_one_was_replaced) {
  {
    const auto attempt_before = join(1, 0);
    const auto own = devices[1]->filled(100, 1);
    auto sent = attempt_before->exchange(std::vector<outgoing_block>{{key_of(0), {part(*own, 0, 100)}, {1, 3}}}, {});
    for (int i = 0; i < 1000; ++i) {  // until it is logged
      devices[1]->kernels->synchronize(*devices[1]->queue);
      devices[1]->staged->progress();
    }
  }
  const auto r0 = join(0, 0);  // leaves out what is logged
  const auto r2 = join(0, 2);
  const auto got = devices[0]->filled(100, 9);
  auto waiting = r2->exchange({}, std::vector<incoming_block>{{key_of(0), {part(*got, 0, 100)}}});
  EXPECT_FALSE(waiting.done());
  EXPECT_EQ(waiting.missing_rank(), 0);
  r2->rewire(0, {});
  finish(waiting);
  EXPECT_TRUE(devices[0]->holds(*got, 0, 100, 1));
}

INSTANTIATE_TEST_SUITE_P(on, staged_endpoint_test, testing::Values(false, true),
                         [](const auto& tested) { return tested.param ? "cuda" : "cpu"; });

}  // namespace
}  // namespace baton
