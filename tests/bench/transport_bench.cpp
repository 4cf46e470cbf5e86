// How fast blocks go from one messenger to another over UCX and over TCP, plain and sealed, beside a raw copy through a TCP socket in the same process and run:
// the two take turns within every iteration, so that what else the machine does disturbs both. All of it on the loopback device.
// The rates are those of the whole run; `ratio` compares them.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/messenger_kinds.hpp"

namespace baton {
namespace {

constexpr std::size_t block_size = std::size_t{8} << 20;
constexpr int blocks_per_turn = 32;
constexpr int blocks_under_way = 8;

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// The blocks that the sender has: more than one, as it would be.
std::vector<std::shared_ptr<block>> make_blocks() {
  std::vector<std::shared_ptr<block>> made(blocks_under_way);
  for (auto& b : made) {
    b = std::make_shared<block>();
    b->bytes.resize(block_size);
    for (std::size_t i = 0; i < block_size; ++i) b->bytes[i] = static_cast<std::byte>(i * 31 / 7);
    b->checksum = checksum_of(b->bytes);
  }
  return made;
}

/// A connected pair of TCP sockets on the loopback device.
class socket_pair {
 public:
  socket_pair() {
    const int listening = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof at;
    sender_ = socket(AF_INET, SOCK_STREAM, 0);
    auto* address = reinterpret_cast<sockaddr*>(&at);
    if (bind(listening, address, length) != 0 || listen(listening, 1) != 0 ||
        getsockname(listening, address, &length) != 0 || connect(sender_, address, length) != 0) {
      throw std::runtime_error("no TCP on the loopback device");
    }
    receiver_ = accept(listening, nullptr, nullptr);
    close(listening);
  }
  ~socket_pair() {
    close(sender_);
    close(receiver_);
  }
  socket_pair(const socket_pair&) = delete;
  socket_pair& operator=(const socket_pair&) = delete;

  void send(std::span<const std::byte> bytes) const {
    while (!bytes.empty()) bytes = bytes.subspan(checked(::send(sender_, bytes.data(), bytes.size(), 0)));
  }
  void receive(std::span<std::byte> bytes) const {
    while (!bytes.empty()) bytes = bytes.subspan(checked(::recv(receiver_, bytes.data(), bytes.size(), 0)));
  }

 private:
  static std::size_t checked(ssize_t moved) {
    if (moved <= 0) throw std::runtime_error("the TCP connection ended");
    return static_cast<std::size_t>(moved);
  }
  int sender_ = -1;
  int receiver_ = -1;
};

/// Takes blocks as a reader would: verifies or not, and drops them.
class receiver final : public messenger::listener {
 public:
  explicit receiver(bool verify) : verify_(verify) {}

  void received(const std::string& /*from*/, message&& m) override {
    if (verify_ && m.payload && checksum_of(m.payload->bytes) != m.payload->checksum) ++damaged_;
    m.payload.reset();
    ++received_;
    received_.notify_all();
  }
  void tick() override {}

  void wait_for(std::int64_t count) const {
    for (auto now = received_.load(); now < count; now = received_.load()) received_.wait(now);
  }
  [[nodiscard]] std::int64_t received_so_far() const { return received_; }
  [[nodiscard]] std::int64_t damaged() const { return damaged_; }

 private:
  const bool verify_;
  std::atomic<std::int64_t> received_{0};
  std::atomic<std::int64_t> damaged_{0};
};

message message_of(std::uint64_t number, std::shared_ptr<const block> payload) {
  message m;
  m.kind = message_kind::direct;
  m.delivery = number;
  m.payload = std::move(payload);
  return m;
}

struct totals {
  double raw_s = 0;
  double raw_cpu_s = 0;
  double own_s = 0;
  double own_cpu_s = 0;
};

/// 8 MiB blocks, `verify`: with a checksum made by the sender and compared by the receiver, on both ways.
void blocks(benchmark::State& state, const std::string& kind, bool verify) {
  const auto made = messenger_kind_of(kind);
  const auto payloads = make_blocks();
  const socket_pair tcp;
  receiver in(verify);
  const auto from = made.make({});
  const auto to = made.make({});
  to->listen(&in);
  from->listen(nullptr);
  std::vector<std::byte> into(block_size);
  std::uint64_t number = 0;
  std::uint64_t damaged = 0;

  const auto over_tcp = [&] {
    std::jthread sender([&] {
      for (int i = 0; i < blocks_per_turn; ++i) {
        const auto& payload = *payloads[static_cast<std::size_t>(i % blocks_under_way)];
        if (verify) benchmark::DoNotOptimize(checksum_of(payload.bytes));
        tcp.send(payload.bytes);
      }
    });
    for (int i = 0; i < blocks_per_turn; ++i) {
      tcp.receive(into);
      if (verify && checksum_of(into) != payloads[static_cast<std::size_t>(i % blocks_under_way)]->checksum) ++damaged;
    }
  };
  const auto over_messengers = [&] {
    const auto before = in.received_so_far();
    for (int i = 0; i < blocks_per_turn; ++i) {
      // A block is free again once the one that followed it by `blocks_under_way` has to go.
      in.wait_for(before + i - blocks_under_way + 1);
      const auto& payload = payloads[static_cast<std::size_t>(i % blocks_under_way)];
      if (verify) payload->checksum = checksum_of(payload->bytes);
      from->send(to->address(), message_of(++number, payload));
    }
    in.wait_for(before + blocks_per_turn);
  };
  const auto timed = [](auto&& turn, double& wall_s, double& cpu_s) {
    const double wall = seconds(), cpu = cpu_seconds();
    turn();
    wall_s += seconds() - wall;
    cpu_s += cpu_seconds() - cpu;
  };

  over_tcp();  // both warm: connections made, buffers touched
  over_messengers();
  totals sum;
  for (auto _ : state) {
    timed(over_tcp, sum.raw_s, sum.raw_cpu_s);
    timed(over_messengers, sum.own_s, sum.own_cpu_s);
  }
  to->listen(nullptr);
  if (damaged != 0 || in.damaged() != 0) state.SkipWithError("blocks arrived damaged");
  const double gigabytes =
      1e-9 * static_cast<double>(block_size) * blocks_per_turn * static_cast<double>(state.iterations());
  state.counters["raw_GB/s"] = gigabytes / sum.raw_s;
  state.counters["GB/s"] = gigabytes / sum.own_s;
  state.counters["ratio"] = sum.raw_s / sum.own_s;
  state.counters["raw_cpu_s/GB"] = sum.raw_cpu_s / gigabytes;
  state.counters["cpu_s/GB"] = sum.own_cpu_s / gigabytes;
}

/// There and back: a message of `range` bytes that the other side answers from its transport thread.
void round_trip(benchmark::State& state, const std::string& kind) {
  const auto made = messenger_kind_of(kind);
  struct echo final : messenger::listener {
    messenger* messages = nullptr;
    void received(const std::string& from, message&& m) override { messages->send(from, std::move(m)); }
    void tick() override {}
  };
  auto payload = std::make_shared<block>();
  payload->bytes.resize(static_cast<std::size_t>(state.range(0)));
  receiver in(false);
  echo back;
  const auto near = made.make({});
  const auto far = made.make({});
  back.messages = far.get();
  near->listen(&in);
  far->listen(&back);
  std::int64_t asked = 0;
  for (auto _ : state) {
    near->send(far->address(), message_of(static_cast<std::uint64_t>(++asked), payload));
    in.wait_for(asked);
  }
}

/// What two connected messengers cost that have nothing to do, with all their threads, in percent of a core.
void idle(benchmark::State& state, const std::string& kind) {
  const auto made = messenger_kind_of(kind);
  receiver first(false), second(false);
  const auto a = made.make({});
  const auto b = made.make({});
  a->listen(&first);
  b->listen(&second);
  a->send(b->address(), message_of(1, nullptr));
  second.wait_for(1);
  double wall_s = 0, cpu_s = 0;
  for (auto _ : state) {
    const double wall = seconds(), cpu = cpu_seconds();
    std::this_thread::sleep_for(std::chrono::seconds(2));
    wall_s += seconds() - wall;
    cpu_s += cpu_seconds() - cpu;
  }
  state.counters["cpu_%"] = 100 * cpu_s / wall_s;
}

const bool registered = [] {
  for (const auto& kind : messenger_kinds()) {
    const auto add = [&](const std::string& what, auto body) {
      return benchmark::RegisterBenchmark((kind.name + "/" + what).c_str(), body)->UseRealTime();
    };
    const std::string name = kind.name;
    add("blocks", [=](auto& state) { blocks(state, name, false); })->Unit(benchmark::kMillisecond)->MinTime(3);
    add("blocks_with_checksums", [=](auto& state) { blocks(state, name, true); })
        ->Unit(benchmark::kMillisecond)
        ->MinTime(3);
    add("round_trip", [=](auto& state) { round_trip(state, name); })
        ->Arg(0)
        ->Arg(4096)
        ->Arg(65536)
        ->Arg(1 << 20)
        ->Unit(benchmark::kMicrosecond);
    add("idle", [=](auto& state) { idle(state, name); })->Unit(benchmark::kSecond)->Iterations(1);
  }
  return true;
}();

}  // namespace
}  // namespace baton
