#include "runtime/transport/traced_transport.hpp"

#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "runtime/transport/local.hpp"
#include "tests/support/routes.hpp"

namespace baton {
namespace {

block_key key_of(int source) { return {.job = 1, .source = static_cast<std::uint16_t>(source)}; }

struct traced_transport_test : testing::Test {
  relay_log log{1 << 20};
  local_network network{log};
  std::unique_ptr<endpoint> door = network.make_endpoint();
  std::vector<trace_recorder> traces{3};
  std::vector<std::unique_ptr<transport>> ranks;
  std::vector<std::vector<std::byte>> got{3, std::vector<std::byte>(4)};

  void SetUp() override {
    ASSERT_TRUE(log.reserve(1, 1 << 20));
    for (int rank = 0; rank < 3; ++rank) {
      auto& trace = traces[static_cast<std::size_t>(rank)];
      ranks.push_back(std::make_unique<traced_transport>(door->join(1, rank, routes_of(3)), rank, trace));
    }
  }
  void send(int source) {
    const std::vector<std::byte> bytes(4, static_cast<std::byte>(source + 1));
    const std::vector<outgoing_block> sends{{key_of(source), {bytes}, {source + 1, 3}}};
    EXPECT_TRUE(ranks[static_cast<std::size_t>(source)]->exchange(sends, {}).done());
  }
  transfer await_both() {
    const std::vector<incoming_block> receives{{key_of(0), {got[0]}}, {key_of(1), {got[1]}}};
    return ranks[2]->exchange({}, receives);
  }
};

TEST_F(traced_transport_test, notes_blocks_where_they_leave_and_where_they_are_taken) {
  auto passing = await_both();
  EXPECT_FALSE(passing.done());
  EXPECT_EQ(passing.missing_rank(), 0);
  send(0);
  EXPECT_FALSE(passing.done());
  EXPECT_EQ(passing.missing_rank(), 1);
  send(1);
  EXPECT_TRUE(passing.done());
  EXPECT_EQ(got[0], std::vector<std::byte>(4, std::byte{1}));
  EXPECT_EQ(got[1], std::vector<std::byte>(4, std::byte{2}));

  const auto source = traces[0].take();
  const auto target = traces[2].take();
  ASSERT_EQ(source.blocks.size(), 1u);
  EXPECT_EQ(source.blocks[0].event, trace_block::event_kind::sent);
  EXPECT_EQ(source.blocks[0].key, key_of(0));
  EXPECT_EQ(source.blocks[0].targets, (rank_range{1, 3}));
  ASSERT_EQ(target.blocks.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(target.blocks[i].event, trace_block::event_kind::arrived);
    EXPECT_EQ(target.blocks[i].key, key_of(static_cast<int>(i)));
    EXPECT_EQ(target.blocks[i].targets, (rank_range{2, 3}));
  }
  EXPECT_LE(source.blocks[0].at_ns, target.blocks[0].at_ns);
  ASSERT_FALSE(target.spans.empty());
  EXPECT_EQ(target.spans.front().what, activity::exchange);
  EXPECT_LE(target.spans.front().begin_ns, target.blocks[0].at_ns);
  EXPECT_GE(target.spans.back().end_ns, target.blocks[1].at_ns);
}

TEST_F(traced_transport_test, counts_what_the_transport_below_moved) {
  send(0);
  send(1);
  EXPECT_TRUE(await_both().done());
  EXPECT_EQ(ranks[0]->counts().blocks_sent, 1);
  EXPECT_EQ(ranks[0]->counts().bytes_sent, 4);
  EXPECT_EQ(ranks[2]->counts().blocks_received, 2);
  EXPECT_EQ(ranks[2]->counts().bytes_received, 8);
}

TEST_F(traced_transport_test, a_transfer_that_is_given_up_takes_no_block) {
  { auto given_up = await_both(); }
  send(0);
  send(1);
  EXPECT_TRUE(traces[2].take().blocks.empty());
  EXPECT_TRUE(await_both().done());
}

TEST_F(traced_transport_test, an_abort_reaches_those_who_wait) {
  auto passing = await_both();
  ranks[2]->abort();
  EXPECT_THROW(static_cast<void>(passing.done()), fault);
}

}  // namespace
}  // namespace baton
