#include "runtime/security/port_guard.hpp"

#include <atomic>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "runtime/security/tls_greeting.hpp"
#include "tests/support/strangers.hpp"

namespace baton {
namespace {

using namespace std::chrono_literals;
using stage = tls_greeting::stage;
using bytes = std::vector<std::byte>;

bytes record(unsigned type, std::size_t length) {
  bytes out{static_cast<std::byte>(type), std::byte{3}, std::byte{3}, static_cast<std::byte>(length >> 8),
            static_cast<std::byte>(length)};
  out.resize(out.size() + length, std::byte{7});
  return out;
}

bytes operator+(bytes a, const bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

const bytes hello = record(22, 500);
const bytes finished = record(20, 1) + record(23, 900);

/// Whoever is behind the guard: sends everything back. Closes what begins a record with 99, as TLS does with nonsense.
class echo_server {
 public:
  echo_server() : place_(*socket_place::of("127.0.0.1", 0)), listening_(listen_on(place_)) {
    thread_ = std::jthread([this](const std::stop_token& stop) {
      std::vector<std::jthread> serving;
      while (!stop.stop_requested()) {
        pollfd waits{listening_.get(), POLLIN, 0};
        if (::poll(&waits, 1, 10) != 1) continue;
        socket_place from;
        int error = 0;
        auto accepted = std::make_shared<descriptor>(accept_from(listening_, from, error));
        if (!*accepted) continue;
        ++accepted_;
        serving.emplace_back([accepted](const std::stop_token& stop_serving) {
          bytes buffer(100'000);
          while (!stop_serving.stop_requested()) {
            pollfd readable{accepted->get(), POLLIN, 0};
            if (::poll(&readable, 1, 10) != 1) continue;
            const auto n = ::recv(accepted->get(), buffer.data(), buffer.size(), 0);
            if (n <= 0) return;
            for (ssize_t sent = 0; sent < n && !stop_serving.stop_requested();) {
              const auto m =
                  ::send(accepted->get(), buffer.data() + sent, static_cast<std::size_t>(n - sent), MSG_NOSIGNAL);
              if (m > 0) sent += m;
              if (m < 0 && errno != EAGAIN) return;
            }
          }
        });
      }
    });
  }
  [[nodiscard]] const socket_place& place() const { return place_; }
  [[nodiscard]] int accepted() const { return accepted_; }

 private:
  socket_place place_;
  descriptor listening_;
  std::atomic<int> accepted_{0};
  std::jthread thread_;
};

struct port_guards : testing::Test {
  port_guards() {
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = std::max<rlim_t>(files.rlim_cur, std::min<rlim_t>(files.rlim_max, 4096));
    setrlimit(RLIMIT_NOFILE, &files);
  }
  [[nodiscard]] socket_place place() const { return *socket_place::of("127.0.0.1", guard.port()); }
  void expect_served() const {
    const stranger_connection member(place());
    const auto said = hello + finished + record(23, 5000);
    member.say(said);
    bytes heard(said.size());
    EXPECT_TRUE(member.hears(heard));
    EXPECT_EQ(heard, said);
  }
  [[nodiscard]] std::vector<std::string> warned() {
    const std::lock_guard lock(mutex);
    return warnings;
  }

  std::mutex mutex;
  std::vector<std::string> warnings;
  echo_server behind;
  const port_guard guard{
      {.listen = *socket_place::of("127.0.0.1", 0), .behind = behind.place(), .warn = [this](const std::string& text) {
         const std::lock_guard lock(mutex);
         warnings.push_back(text);
       }}};
};

TEST(tls_greeting, follows_a_client_in_pieces_of_any_size) {
  const auto all = hello + finished;
  for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, std::size_t{600}, all.size()}) {
    tls_greeting greeting;
    std::vector<stage> stages;
    for (std::size_t at = 0; at < all.size(); at += piece) {
      const auto now = greeting.heard(std::span(all).subspan(at, std::min(piece, all.size() - at)));
      if (stages.empty() || stages.back() != now) stages.push_back(now);
    }
    EXPECT_EQ(stages.back(), stage::finished);
    for (std::size_t i = 1; i < stages.size(); ++i) EXPECT_LT(stages[i - 1], stages[i]);
  }
}

TEST(tls_greeting, knows_what_no_client_says) {
  for (const auto& said :
       {record(23, 10), record(20, 1), record(99, 5), record(22, 0), hello + record(21, 2), bytes(32),
        record(22, 20'000), hello + hello + hello + hello + hello + hello + hello + hello + hello}) {
    tls_greeting greeting;
    EXPECT_EQ(greeting.heard(said), stage::nonsense);
    EXPECT_EQ(greeting.heard(finished), stage::nonsense);
  }
  auto old = hello;
  old[1] = std::byte{2};
  tls_greeting greeting;
  EXPECT_EQ(greeting.heard(old), stage::nonsense);
}

TEST_F(port_guards, pass_on_what_both_sides_say) {
  expect_served();
  // Far more than the buffers hold, while nobody reads.
  const stranger_connection member(place());
  const auto said = hello + finished + bytes(4 << 20, std::byte{9});
  std::jthread saying([&] { member.say(said); });
  bytes heard(said.size());
  EXPECT_TRUE(member.hears(heard));
  EXPECT_TRUE(heard == said);
}

TEST_F(port_guards, close_one_side_when_the_other_has_gone) {
  const int before = behind.accepted();
  for (int i = 0; i < 20; ++i) expect_served();
  EXPECT_EQ(behind.accepted(), before + 20);
}

TEST_F(port_guards, send_away_who_does_not_speak_tls_before_anybody_behind_hears_of_it) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 50; ++i) {
    const stranger_connection stranger(place());
    bytes noise(32 + random() % 1000);
    for (auto& b : noise) b = static_cast<std::byte>(random());
    noise[0] = static_cast<std::byte>(i);
    if (i == 22) noise[1] = std::byte{4};
    stranger.say(noise);
    EXPECT_TRUE(stranger.is_closed_by_the_other_side()) << i;
  }
  EXPECT_EQ(behind.accepted(), 0);
  expect_served();
  EXPECT_THAT(warned().at(0), testing::HasSubstr("does not speak TLS"));
  EXPECT_EQ(warned().size(), 1u);
}

TEST_F(port_guards, send_away_who_does_not_finish_and_serve_members_meanwhile) {
  std::vector<stranger_connection> idle;
  for (int i = 0; i < 500; ++i) {
    idle.emplace_back(place());
    if (i % 2 == 0) idle.back().say(hello);
    if (i % 50 == 0) expect_served();
  }
  expect_served();
  for (const auto& stranger : idle) EXPECT_TRUE(stranger.is_closed_by_the_other_side());
  expect_served();
}

TEST_F(port_guards, do_not_spin_when_there_are_no_file_descriptors) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "UBSan looks at objects through a pipe, and takes them for broken where there is none to be had";
#endif
  expect_served();
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  stranger_connection one_more(place(), {}, stranger_connection::connect_later);
  auto none = before;
  none.rlim_cur = 3;
  setrlimit(RLIMIT_NOFILE, &none);
  one_more.connect();
  const auto cpu_s = [] {
    timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  };
  const double start = cpu_s();
  std::this_thread::sleep_for(500ms);
  EXPECT_LT(cpu_s() - start, 0.25);
  setrlimit(RLIMIT_NOFILE, &before);
  expect_served();
}

}  // namespace
}  // namespace baton
