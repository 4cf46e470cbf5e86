#include "runtime/transport/process_network.hpp"

#include <algorithm>
#include <condition_variable>
#include <iterator>
#include <mutex>
#include <stdexcept>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "runtime/transport/detours.hpp"
#include "tests/support/faulty_messenger.hpp"

namespace baton {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;

/// A peer that says only what a test makes it say, and remembers what it hears.
class scripted_peer final : public messenger::listener {
 public:
  explicit scripted_peer(faulty_network& network) : post_(network.make_messenger()) { post_->listen(this); }
  ~scripted_peer() override { post_->listen(nullptr); }

  [[nodiscard]] const std::string& address() const { return post_->address(); }
  void say(const std::string& to, message m) { post_->send(to, std::move(m)); }

  /// The n-th message (from 1) of a kind that it has heard; waits for it.
  [[nodiscard]] message heard(message_kind kind, std::size_t n) {
    std::unique_lock lock(mutex_);
    const auto is_there = [&] { return of(kind).size() >= n; };
    if (!came_.wait_for(lock, 1min, is_there)) throw std::runtime_error("it did not come");
    return of(kind)[n - 1];
  }
  [[nodiscard]] std::size_t count(message_kind kind) {
    const std::lock_guard lock(mutex_);
    return of(kind).size();
  }

 private:
  void received(const std::string&, message&& m) override {
    const std::lock_guard lock(mutex_);
    heard_.push_back(std::move(m));
    came_.notify_all();
  }
  void tick() override {}
  [[nodiscard]] std::vector<message> of(message_kind kind) const {
    std::vector<message> some;
    std::copy_if(heard_.begin(), heard_.end(), std::back_inserter(some), [&](const auto& m) { return m.kind == kind; });
    return some;
  }

  std::unique_ptr<messenger> post_;
  std::mutex mutex_;
  std::condition_variable came_;
  std::vector<message> heard_;
};

block_key key_of(block_phase phase, int source, int layer = 0, std::uint32_t attempt = 0) {
  return {.job = 1,
          .phase = phase,
          .layer = static_cast<std::uint16_t>(layer),
          .source = static_cast<std::uint16_t>(source),
          .attempt = attempt};
}

std::shared_ptr<const block> block_of(std::size_t size) {
  block b;
  b.bytes.assign(size, std::byte{7});
  b.checksum = checksum_of(b.bytes);
  return std::make_shared<block>(std::move(b));
}

/// Ranks 0 and 1 are in the process under test, rank 2 is a scripted peer.
struct process_network_test : testing::Test {
  faulty_network wire;
  scripted_peer peer{wire};
  scripted_peer node_relay{wire};
  std::unique_ptr<messenger> post = wire.make_messenger();
  process_network network{*post};
  std::unique_ptr<endpoint> door = network.make_endpoint();
  job_routes routes{{{post->address()}, {post->address()}, {peer.address()}}, node_relay.address()};
  std::unique_ptr<transport> rank0 = door->join(1, 0, routes);
  std::unique_ptr<transport> rank1 = door->join(1, 1, routes);
  const std::vector<std::byte> bytes = std::vector<std::byte>(12, std::byte{7});

  void send(const block_key& key, rank_range targets, block_route route) {
    EXPECT_TRUE(rank0->exchange(std::vector<outgoing_block>{{key, {bytes}, targets, route}}, {}).done());
  }
  message direct(std::uint64_t delivery, const block_key& key) {
    return {.kind = message_kind::direct, .delivery = delivery, .key = key, .targets = {0, 2}, .payload = block_of(12)};
  }
  bool arrives(transfer& moving) {
    const auto in_vain = std::chrono::steady_clock::now() + 1min;
    while (!moving.done() && std::chrono::steady_clock::now() < in_vain) door->wait(in_vain);
    return moving.done();
  }
};

TEST_F(process_network_test, what_is_given_away_comes_again_until_it_is_acknowledged) {
  for (const int layer : {0, 1}) {
    send(key_of(block_phase::query, 0, layer), {0, 3}, block_route::direct);
    send(key_of(block_phase::prefill, 0, layer), {1, 3}, block_route::relayed);
  }
  for (const std::size_t n : {1, 2}) {
    const auto m = peer.heard(message_kind::direct, n);
    EXPECT_EQ(m.key, key_of(block_phase::query, 0, static_cast<int>(n) - 1));
    EXPECT_EQ(m.targets, (rank_range{0, 3}));
    EXPECT_EQ(m.delivery, n);
    EXPECT_EQ(m.payload->bytes, block_of(12)->bytes);
    EXPECT_EQ(node_relay.heard(message_kind::put, n).delivery, n);
  }
  const std::vector<std::uint64_t> first{1};
  peer.say(post->address(), acknowledgement_of(first));
  node_relay.say(post->address(), acknowledgement_of(first));
  EXPECT_EQ(peer.heard(message_kind::direct, 3).delivery, 2U);
  EXPECT_EQ(node_relay.heard(message_kind::put, 3).delivery, 2U);
}

TEST_F(process_network_test, a_want_is_for_all_ranks_here_and_comes_again_until_it_is_answered) {
  const auto key = key_of(block_phase::prefill, 2);
  std::vector<std::byte> got0(12), got1(12);
  auto moving0 = rank0->exchange({}, std::vector<incoming_block>{{key, {got0}}});
  auto moving1 = rank1->exchange({}, std::vector<incoming_block>{{key, {got1}}});
  EXPECT_FALSE(moving0.done());
  EXPECT_FALSE(moving1.done());
  EXPECT_FALSE(moving0.done());
  EXPECT_EQ(node_relay.heard(message_kind::want, 2).key, key);
  EXPECT_EQ(node_relay.count(message_kind::want), 2U);
  node_relay.say(post->address(),
                 {.kind = message_kind::answer, .key = key, .targets = {0, 2}, .payload = block_of(12)});
  EXPECT_TRUE(arrives(moving0));
  EXPECT_TRUE(arrives(moving1));
  EXPECT_EQ(got0, bytes);
  EXPECT_EQ(got1, bytes);
  EXPECT_EQ(node_relay.count(message_kind::want), 2U);
}

TEST_F(process_network_test, acknowledges_what_it_takes_or_will_never_take_and_nothing_else) {
  auto stranger = direct(1, key_of(block_phase::query, 2));
  stranger.key.job = 9;
  peer.say(post->address(), stranger);
  auto for_others = direct(2, key_of(block_phase::query, 2));
  for_others.targets = {2, 3};
  peer.say(post->address(), for_others);
  rank0->rewire(2, {peer.address(), 1});
  peer.say(post->address(), direct(3, key_of(block_phase::query, 2, 0, 0)));  // of an earlier attempt
  peer.say(post->address(), direct(4, key_of(block_phase::query, 2, 1, 1)));
  std::vector<std::uint64_t> acknowledged;
  for (std::size_t n = 1; acknowledged.size() < 2; ++n) {
    const auto some = acknowledged_by(peer.heard(message_kind::acknowledge, n)).value();
    acknowledged.insert(acknowledged.end(), some.begin(), some.end());
  }
  EXPECT_THAT(acknowledged, ElementsAre(3, 4));
  // One that comes twice is acknowledged twice, for the first time may have been lost.
  const auto before = peer.count(message_kind::acknowledge);
  peer.say(post->address(), direct(4, key_of(block_phase::query, 2, 1, 1)));
  EXPECT_THAT(acknowledged_by(peer.heard(message_kind::acknowledge, before + 1)).value(), ElementsAre(4));
}

TEST_F(process_network_test, the_last_rank_to_leave_takes_along_what_nobody_acknowledged) {
  send(key_of(block_phase::query, 0), {2, 3}, block_route::direct);
  std::vector<std::byte> got(12);
  {
    auto moving = rank1->exchange({}, std::vector<incoming_block>{{key_of(block_phase::prefill, 2), {got}}});
    EXPECT_FALSE(moving.done());
  }
  static_cast<void>(peer.heard(message_kind::direct, 1));
  static_cast<void>(node_relay.heard(message_kind::want, 1));
  rank0 = nullptr;
  rank1 = nullptr;
  // Another job's block comes again after the first one's would have.
  rank0 = door->join(2, 0, routes);
  auto key = key_of(block_phase::query, 0);
  key.job = 2;
  send(key, {2, 3}, block_route::direct);
  EXPECT_EQ(peer.heard(message_kind::direct, 2).key.job, 2U);
  EXPECT_EQ(peer.heard(message_kind::direct, 3).key.job, 2U);
  EXPECT_EQ(node_relay.count(message_kind::want), 1U);
  // What comes for the job that is over is not taken, and not acknowledged.
  peer.say(post->address(), direct(1, key_of(block_phase::query, 2)));
  peer.say(post->address(), [&] {
    auto m = direct(2, key_of(block_phase::query, 2));
    m.key.job = 2;
    return m;
  }());
  EXPECT_THAT(acknowledged_by(peer.heard(message_kind::acknowledge, 1)).value(), ElementsAre(2));
}

TEST_F(process_network_test, unacknowledged_blocks_follow_a_rank_and_the_old_place_is_left_alone) {
  scripted_peer other(wire);
  send(key_of(block_phase::query, 0), {0, 3}, block_route::direct);
  static_cast<void>(peer.heard(message_kind::direct, 1));
  rank0->rewire(2, {other.address(), 1});
  rank1->rewire(2, {other.address(), 1});
  const auto moved = other.heard(message_kind::direct, 1);
  EXPECT_EQ(moved.key, key_of(block_phase::query, 0));
  EXPECT_EQ(moved.targets, (rank_range{2, 3}));
  EXPECT_EQ(other.heard(message_kind::direct, 2).delivery, moved.delivery);
  EXPECT_EQ(peer.count(message_kind::direct), 1U);
}

TEST_F(process_network_test, a_rank_that_cannot_join_is_an_internal_fault) {
  const auto refused = [&](int rank, const job_routes& its_routes) {
    try {
      static_cast<void>(door->join(1, rank, its_routes));
      return false;
    } catch (const fault& why) {
      return why.code() == fault_code::internal;
    }
  };
  EXPECT_TRUE(refused(0, routes)) << "is there";
  EXPECT_TRUE(refused(3, routes)) << "there are three";
  EXPECT_TRUE(refused(-1, routes));
  auto longer = routes;
  longer.ranks.push_back(longer.ranks[0]);
  EXPECT_TRUE(refused(3, longer)) << "there were three";
}

TEST_F(process_network_test, messages_without_a_block_change_nothing) {
  const auto key = key_of(block_phase::query, 2);
  auto empty = direct(1, key);
  empty.payload = nullptr;
  peer.say(post->address(), empty);
  peer.say(post->address(), {.kind = message_kind::answer, .key = key});
  peer.say(post->address(), {.kind = message_kind::acknowledge});
  peer.say(post->address(), {.kind = message_kind::put, .delivery = 2, .key = key, .payload = block_of(12)});
  peer.say(post->address(), direct(3, key));
  std::vector<std::byte> got(12);
  auto moving = rank0->exchange({}, std::vector<incoming_block>{{key, {got}, block_route::direct}});
  EXPECT_TRUE(arrives(moving));
  EXPECT_EQ(got, bytes);
  EXPECT_THAT(acknowledged_by(peer.heard(message_kind::acknowledge, 1)).value(), ElementsAre(3));
}

TEST_F(process_network_test,
       a_rank_behind_a_cut_link_is_reached_through_the_relay_in_between_and_heard_from_there_only) {
  scripted_peer between(wire), somebody(wire);
  const auto key = key_of(block_phase::query, 0);
  send(key, {0, 3}, block_route::direct);
  EXPECT_EQ(peer.heard(message_kind::direct, 1).delivery, 1U);
  rank0->rewire(2, {peer.address(), 0, between.address()});
  // What has not been acknowledged goes again on the new way, as the same delivery.
  const auto carry = between.heard(message_kind::carry, 1);
  const auto carried = read_carry(carry).value();
  EXPECT_EQ(carried.from, post->address());
  EXPECT_EQ(carried.to, peer.address());
  EXPECT_EQ(carried.what.kind, message_kind::direct);
  EXPECT_EQ(carried.what.key, key);
  EXPECT_EQ(carried.what.delivery, 1U);
  EXPECT_EQ(opened(carried).value().payload->bytes, block_of(12)->bytes);
  // Its answers come the same way, and only so.
  const auto its = key_of(block_phase::query, 2);
  std::vector<std::byte> got(12);
  auto moving = rank0->exchange({}, std::vector<incoming_block>{{its, {got}, block_route::direct}});
  const auto brought = *carry_of(peer.address(), post->address(), direct(1, its));
  somebody.say(post->address(), brought);
  between.say(post->address(), *carry_of(somebody.address(), post->address(), direct(1, its)));
  std::this_thread::sleep_for(200ms);
  EXPECT_FALSE(moving.done());
  between.say(post->address(), brought);
  EXPECT_TRUE(arrives(moving));
  const auto is_acknowledged = [&] {
    for (std::size_t n = 1; n <= between.count(message_kind::carry); ++n) {
      const auto sent = between.heard(message_kind::carry, n);
      const auto said = read_carry(sent).value();
      if (said.what.kind == message_kind::acknowledge && acknowledged_by(opened(said).value())->front() == 1)
        return true;
    }
    return false;
  };
  const auto in_vain = std::chrono::steady_clock::now() + 1min;
  while (!is_acknowledged() && std::chrono::steady_clock::now() < in_vain) std::this_thread::sleep_for(10ms);
  EXPECT_TRUE(is_acknowledged());
  // An acknowledgement ends it.
  const std::vector<std::uint64_t> first{1};
  between.say(post->address(), *carry_of(peer.address(), post->address(), acknowledgement_of(first)));
  std::this_thread::sleep_for(300ms);
  const auto count = between.count(message_kind::carry);
  std::this_thread::sleep_for(2500ms);
  EXPECT_EQ(between.count(message_kind::carry), count);
}

}  // namespace
}  // namespace baton
