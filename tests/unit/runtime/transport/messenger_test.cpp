#include <algorithm>
#include <csignal>
#include <set>
#include <thread>

#include <gtest/gtest.h>
#include <time.h>

#include "kernels/fault.hpp"
#include "tests/support/message_inbox.hpp"
#include "tests/support/messenger_kinds.hpp"
#include "tests/support/peer_process.hpp"
#include "tests/support/places.hpp"

namespace baton {
namespace {

using namespace std::chrono_literals;

messenger_kind kind_in_test;

struct messengers : testing::TestWithParam<messenger_kind> {
  void SetUp() override { kind_in_test = GetParam(); }
};

/// A messenger with an inbox that listens.
struct station {
  explicit station(std::chrono::milliseconds delay = {}) : messages(kind_in_test.make(delay)) { messages->listen(&in); }
  [[nodiscard]] const std::string& address() const { return messages->address(); }
  void send(const station& to, message m) const { messages->send(to.address(), std::move(m)); }

  message_inbox in;
  std::unique_ptr<messenger> messages;
};

/// Sends until the answer of an echo has come: messages may be lost while a connection breaks or is made.
bool answers(station& asking, const std::string& peer, std::uint32_t step) {
  const auto deadline = std::chrono::steady_clock::now() + message_patience;
  while (std::chrono::steady_clock::now() < deadline) {
    asking.messages->send(peer, direct(step, payload_of(100, step)));
    for (int i = 0; i < 20; ++i) {
      const auto came = asking.in.arrivals();
      if (std::any_of(came.begin(), came.end(),
                      [&](const auto& a) { return a.from == peer && a.what.key.step == step; })) {
        return true;
      }
      std::this_thread::sleep_for(10ms);
    }
  }
  return false;
}

TEST_P(messengers, a_message_arrives_as_it_was_sent) {
  station a, b;
  auto sent = direct(9, payload_of(1000, 1));
  a.send(b, sent);
  ASSERT_TRUE(b.in.has(1));
  const auto came = b.in.arrivals().front();
  EXPECT_EQ(came.from, a.address());
  EXPECT_EQ(came.what.kind, sent.kind);
  EXPECT_EQ(came.what.delivery, sent.delivery);
  EXPECT_EQ(came.what.key, sent.key);
  EXPECT_EQ(came.what.key.attempt, sent.key.attempt);
  EXPECT_EQ(came.what.targets, sent.targets);
  ASSERT_NE(came.what.payload, nullptr);
  EXPECT_EQ(came.what.payload->bytes, sent.payload->bytes);
  EXPECT_EQ(came.what.payload->checksum, sent.payload->checksum);
}

TEST_P(messengers, no_payload_and_an_empty_one_are_told_apart) {
  station a, b;
  a.send(b, direct(0, nullptr));
  a.send(b, direct(1, payload_of(0, 1)));
  ASSERT_TRUE(b.in.has(2));
  const auto came = b.in.arrivals();
  EXPECT_EQ(came[0].what.payload, nullptr);
  ASSERT_NE(came[1].what.payload, nullptr);
  EXPECT_TRUE(came[1].what.payload->bytes.empty());
}

/// `stations` of them send each other every size at once; everybody finds everything intact.
void exchange_all_to_all(std::size_t stations, const std::vector<std::size_t>& sizes) {
  std::vector<std::unique_ptr<station>> all(stations);
  for (auto& s : all) s = std::make_unique<station>();
  std::vector<std::shared_ptr<const block>> payloads;
  for (const std::size_t bytes : sizes) payloads.push_back(payload_of(bytes, static_cast<unsigned>(payloads.size())));
  {
    std::vector<std::jthread> senders;
    for (const auto& from : all) {
      senders.emplace_back([&] {
        for (std::uint32_t i = 0; i < sizes.size(); ++i) {
          for (const auto& to : all) {
            if (to != from) from->send(*to, direct(i, payloads[i]));
          }
        }
      });
    }
  }
  for (const auto& s : all) {
    ASSERT_TRUE(s->in.has(sizes.size() * (stations - 1)));
    std::set<std::pair<std::string, std::uint32_t>> seen;
    for (const auto& [from, what, when] : s->in.arrivals()) {
      EXPECT_TRUE(seen.emplace(from, what.key.step).second);
      ASSERT_LT(what.key.step, sizes.size());
      ASSERT_NE(what.payload, nullptr);
      EXPECT_TRUE(what.payload->bytes == payloads[what.key.step]->bytes) << what.key.step;
      EXPECT_EQ(what.payload->checksum, payloads[what.key.step]->checksum);
    }
  }
}

TEST_P(messengers, two_exchange_payloads_of_all_sizes_at_once) {
  exchange_all_to_all(2, {0, 1, 4096, 65536, 65537, (1 << 20) + 3, 64 << 20});
}

TEST_P(messengers, three_exchange_payloads_of_all_sizes_at_once) {
  exchange_all_to_all(3, {(1 << 20) + 3, 0, 1, 4096, 8 << 20, 5 << 20, 7, 100'000});
}

TEST_P(messengers, many_small_messages_of_several_threads_arrive_once_each) {
  constexpr int threads = 4;
  constexpr int each = 2000;
  station a, b;
  {
    std::vector<std::jthread> senders;
    for (int t = 0; t < threads; ++t) {
      senders.emplace_back([&, t] {
        for (int i = 0; i < each; ++i) {
          const auto step = static_cast<std::uint32_t>(t * each + i);
          a.send(b, direct(step, i % 3 == 0 ? nullptr : payload_of(static_cast<std::size_t>(i % 300), step)));
        }
      });
    }
  }
  ASSERT_TRUE(b.in.has(threads * each));
  std::set<std::uint32_t> seen;
  for (const auto& [from, what, when] : b.in.arrivals()) {
    EXPECT_TRUE(seen.insert(what.key.step).second);
    if (what.payload) {
      EXPECT_EQ(checksum_of(what.payload->bytes), what.payload->checksum);
    }
  }
  EXPECT_EQ(seen.size(), static_cast<std::size_t>(threads * each));
}

TEST_P(messengers, both_sides_may_begin_at_once) {
  station a, b;
  for (std::uint32_t step = 0; step < 20; ++step) {
    a.send(b, direct(step, payload_of(100'000, step)));
    b.send(a, direct(step, payload_of(100'000, step)));
  }
  ASSERT_TRUE(a.in.has(20));
  ASSERT_TRUE(b.in.has(20));
  b.send(a, direct(20, nullptr));
  ASSERT_TRUE(a.in.has(21));
}

TEST_P(messengers, messages_that_come_before_somebody_listens_are_kept) {
  station a;
  message_inbox late;
  const auto b = kind_in_test.make({});
  a.messages->send(b->address(), direct(0, payload_of(10, 0)));
  a.messages->send(b->address(), direct(1, payload_of(1 << 20, 1)));
  while (b->traffic().messages_received < 2) std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(late.arrivals().empty());
  b->listen(&late);
  ASSERT_TRUE(late.has(2));
}

TEST_P(messengers, nobody_is_called_any_more_once_listening_has_ended) {
  station a;
  const auto b = kind_in_test.make({});
  {
    message_inbox first;
    b->listen(&first);
    a.messages->send(b->address(), direct(0, nullptr));
    ASSERT_TRUE(first.has(1));
    b->listen(nullptr);
  }
  a.messages->send(b->address(), direct(1, nullptr));
  while (b->traffic().messages_received < 2) std::this_thread::sleep_for(1ms);
  message_inbox second;
  b->listen(&second);
  ASSERT_TRUE(second.has(1));
  EXPECT_EQ(second.arrivals().front().what.key.step, 1U);
  b->listen(nullptr);
}

TEST_P(messengers, a_listener_may_answer_and_stop_listening_from_within_a_call) {
  struct once final : messenger::listener {
    messenger* messages = nullptr;
    void received(const std::string& from, message&& m) override {
      messages->listen(nullptr);
      messages->send(from, std::move(m));
    }
    void tick() override {}
  };
  station a;
  once answering;
  const auto b = kind_in_test.make({});
  answering.messages = b.get();
  b->listen(&answering);
  a.messages->send(b->address(), direct(3, payload_of(77, 3)));
  ASSERT_TRUE(a.in.has_step(3));
}

TEST_P(messengers, a_message_to_itself_arrives) {
  station a;
  a.send(a, direct(1, payload_of(100'000, 1)));
  ASSERT_TRUE(a.in.has(1));
  const auto came = a.in.arrivals().front();
  EXPECT_EQ(came.from, a.address());
  EXPECT_TRUE(came.what.payload->bytes == payload_of(100'000, 1)->bytes);
}

TEST_P(messengers, a_listener_hears_ticks) {
  station a;
  EXPECT_TRUE(a.in.ticks(3));
}

TEST_P(messengers, an_address_that_makes_no_sense_is_bad_input) {
  station a;
  const station b;
  auto damaged = b.address();
  damaged.back() = static_cast<char>(damaged.back() + 1);
  for (const auto& nonsense : {std::string(), std::string("10.0.0.1:4000"), std::string(99, 'x'), damaged}) {
    try {
      a.messages->send(nonsense, direct(0, nullptr));
      FAIL() << nonsense;
    } catch (const fault& why) {
      EXPECT_EQ(why.code(), fault_code::bad_input);
    }
    EXPECT_THROW(a.messages->forget(nonsense), fault);
  }
}

TEST_P(messengers, targets_that_are_no_ranks_are_refused) {
  station a;
  auto m = direct(0, nullptr);
  m.targets = {-1, 2};
  EXPECT_THROW(a.send(a, m), fault);
}

TEST_P(messengers, traffic_counts_headers_and_payloads_on_both_sides) {
  station a, b;
  for (std::uint32_t step = 0; step < 10; ++step) a.send(b, direct(step, payload_of(1 << 20, step)));
  ASSERT_TRUE(b.in.has(10));
  // The last bytes may be there before their sender has counted them.
  const auto in_vain = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  auto sent = a.messages->traffic();
  for (; sent.messages_sent < 10 && std::chrono::steady_clock::now() < in_vain; sent = a.messages->traffic())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const auto received = b.messages->traffic();
  EXPECT_EQ(sent.messages_sent, 10);
  EXPECT_EQ(received.messages_received, 10);
  EXPECT_GT(sent.bytes_sent, 10 << 20);
  EXPECT_EQ(sent.bytes_sent, received.bytes_received);
  EXPECT_EQ(sent.messages_received, 0);
}

TEST_P(messengers, a_destroyed_peer_hurts_nobody_and_its_successor_is_reached) {
  station a, b;
  auto c = std::make_unique<station>();
  a.send(*c, direct(0, payload_of(1 << 20, 0)));
  ASSERT_TRUE(c->in.has(1));
  c->send(a, direct(0, nullptr));
  ASSERT_TRUE(a.in.has(1));
  const std::string gone = c->address();
  for (std::uint32_t step = 1; step < 9; ++step) a.messages->send(gone, direct(step, eight_mib()));
  c.reset();
  for (std::uint32_t step = 10; step < 20; ++step) {
    a.messages->send(gone, direct(step, payload_of(1 << 20, step)));
    a.send(b, direct(step, payload_of(1 << 20, step)));
  }
  EXPECT_TRUE(b.in.has(10));
  c = std::make_unique<station>();
  a.send(*c, direct(99, payload_of(1 << 20, 99)));
  EXPECT_TRUE(c->in.has_step(99));
}

TEST_P(messengers, a_forgotten_peer_that_lives_is_reached_again_by_either_side) {
  station a, b;
  a.send(b, direct(0, payload_of(1 << 20, 0)));
  ASSERT_TRUE(b.in.has_step(0));
  b.send(a, direct(0, payload_of(1 << 20, 0)));
  ASSERT_TRUE(a.in.has_step(0));
  for (std::uint32_t step = 1; step < 4; ++step) {
    a.messages->forget(b.address());
    // What is under way when a connection ends may be lost, so it is sent again until it has come.
    const auto comes = [&](station& from, station& to) {
      for (int i = 0; i < 600; ++i) {
        from.send(to, direct(step, payload_of(1 << 20, step)));
        for (int j = 0; j < 10; ++j) {
          const auto came = to.in.arrivals();
          if (std::any_of(came.begin(), came.end(), [&](const auto& x) { return x.what.key.step == step; }))
            return true;
          std::this_thread::sleep_for(10ms);
        }
      }
      return false;
    };
    EXPECT_TRUE(comes(step % 2 == 0 ? a : b, step % 2 == 0 ? b : a)) << step;
    EXPECT_TRUE(comes(step % 2 == 0 ? b : a, step % 2 == 0 ? a : b)) << step;
  }
}

TEST_P(messengers, a_large_message_sent_again_while_it_is_under_way_goes_once) {
  station a;
  const peer_process slow(BATON_MESSENGER_PEER, kind_in_test.name);
  ASSERT_TRUE(answers(a, slow.address(), 1));
  const auto before = a.messages->traffic().messages_sent;
  slow.signal(SIGSTOP);
  const auto payload = payload_of(20 << 20, 2);
  for (int times = 0; times < 3; ++times) {
    a.messages->send(slow.address(), direct(2, payload));
    a.messages->send(slow.address(), direct(3, payload));  // no room for both at once: this one waits
  }
  slow.signal(SIGCONT);
  ASSERT_TRUE(a.in.has_step(2));
  ASSERT_TRUE(a.in.has_step(3));
  EXPECT_EQ(a.messages->traffic().messages_sent - before, 2);
}

TEST_P(messengers, a_killed_peer_blocks_nobody) {
  station a, b;
  for (std::uint32_t round = 0; round < 3; ++round) {
    peer_process dying(BATON_MESSENGER_PEER, kind_in_test.name);
    ASSERT_TRUE(answers(a, dying.address(), 100 + round));
    for (std::uint32_t i = 0; i < 20; ++i) {
      a.messages->send(dying.address(), direct(1000 * round + 200 + i, eight_mib()));
    }
    dying.kill();
    for (std::uint32_t i = 0; i < 5; ++i) {
      a.messages->send(dying.address(), direct(1000 * round + 300 + i, eight_mib()));
      a.send(b, direct(1000 * round + 400 + i, payload_of(1 << 20, i)));
    }
    EXPECT_TRUE(b.in.has_step(1000 * round + 404));
    if (round % 2 == 0) a.messages->forget(dying.address());
    const peer_process successor(BATON_MESSENGER_PEER, kind_in_test.name);
    EXPECT_TRUE(answers(a, successor.address(), 500 + round));
  }
}

TEST_P(messengers, a_stopped_peer_blocks_nobody_and_goes_on_when_it_is_continued) {
  station a, b;
  const peer_process stopped(BATON_MESSENGER_PEER, kind_in_test.name);
  ASSERT_TRUE(answers(a, stopped.address(), 1));
  stopped.signal(SIGSTOP);
  for (std::uint32_t i = 0; i < 20; ++i) {
    a.messages->send(stopped.address(), direct(100 + i, eight_mib()));
    a.messages->send(stopped.address(), direct(200 + i, payload_of(100, i)));
  }
  for (std::uint32_t i = 0; i < 5; ++i) a.send(b, direct(300 + i, eight_mib()));
  EXPECT_TRUE(b.in.has(5));
  stopped.signal(SIGCONT);
  EXPECT_TRUE(answers(a, stopped.address(), 2));
}

TEST_P(messengers, a_stopped_peer_that_was_forgotten_is_reached_again_when_it_is_continued) {
  station a;
  const peer_process stopped(BATON_MESSENGER_PEER, kind_in_test.name);
  ASSERT_TRUE(answers(a, stopped.address(), 1));
  stopped.signal(SIGSTOP);
  for (std::uint32_t i = 0; i < 10; ++i) a.messages->send(stopped.address(), direct(100 + i, eight_mib()));
  a.messages->forget(stopped.address());
  stopped.signal(SIGCONT);
  EXPECT_TRUE(answers(a, stopped.address(), 2));
}

TEST_P(messengers, destruction_returns_although_a_peer_is_stopped_or_dead) {
  const peer_process stopped(BATON_MESSENGER_PEER, kind_in_test.name);
  peer_process dead(BATON_MESSENGER_PEER, kind_in_test.name);
  {
    station a;
    ASSERT_TRUE(answers(a, stopped.address(), 1));
    ASSERT_TRUE(answers(a, dead.address(), 2));
    stopped.signal(SIGSTOP);
    for (std::uint32_t i = 0; i < 10; ++i) {
      a.messages->send(stopped.address(), direct(100 + i, eight_mib()));
      a.messages->send(dead.address(), direct(100 + i, eight_mib()));
    }
    dead.kill();
  }
  stopped.signal(SIGCONT);
  station b;
  EXPECT_TRUE(answers(b, stopped.address(), 3));
}

TEST_P(messengers, a_delay_holds_every_message_back_and_keeps_the_order) {
  constexpr auto delay = 120ms;
  station a(delay);
  station b;
  std::vector<std::chrono::steady_clock::time_point> sent;
  for (std::uint32_t step = 0; step < 50; ++step) {
    sent.push_back(std::chrono::steady_clock::now());
    a.send(b, direct(step, payload_of(100, step)));
    if (step % 10 == 0) std::this_thread::sleep_for(20ms);
  }
  ASSERT_TRUE(b.in.has(50));
  const auto came = b.in.arrivals();
  for (std::uint32_t step = 0; step < 50; ++step) {
    EXPECT_EQ(came[step].what.key.step, step);
    EXPECT_GE(came[step].when - sent[step], delay);
  }
}

TEST_P(messengers, messengers_without_work_sleep) {
  station a, b;
  a.send(b, direct(0, payload_of(1 << 20, 0)));
  ASSERT_TRUE(b.in.has(1));
  const auto cpu_s = [] {
    timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  };
  const double before = cpu_s();
  std::this_thread::sleep_for(2s);
  EXPECT_LT(cpu_s() - before, 2 * 0.02);  // with whatever threads UCX has: 1 % of a core for each
}

INSTANTIATE_TEST_SUITE_P(all, messengers, testing::ValuesIn(messenger_kinds()),
                         [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace baton
