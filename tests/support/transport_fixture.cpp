#include "tests/support/transport_fixture.hpp"

#include <algorithm>
#include <chrono>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>

#include "tests/support/messenger_kinds.hpp"

namespace baton {
namespace {

constexpr std::int64_t log_bytes_of_a_job = 64 << 20;

}  // namespace

void local_fixture::admit(job_id job) {
  if (!log_.reserve(job, log_bytes_of_a_job)) throw std::logic_error("the log is too small for this test");
}

process_fixture::process_fixture(messenger_maker make) : make_(std::move(make)), stranger_(make_()) {
  for (int n = 0; n < 2; ++n) {
    auto& added =
        relays_.emplace_back(relay_process{make_(), std::make_unique<relay_log>(std::int64_t{1} << 30), nullptr});
    added.listener =
        std::make_unique<relay>("node " + std::to_string(n), *added.log, added.post.get(), [](const relay_report&) {});
  }
  for (int p = 0; p < processes; ++p) {
    auto& added = workers_.emplace_back(worker_process{make_(), nullptr});
    added.network = std::make_unique<process_network>(*added.post);
    added.address = added.post->address();
  }
}

std::unique_ptr<endpoint> process_fixture::make_endpoint(int rank) { return network(process_of(rank)).make_endpoint(); }

job_routes process_fixture::routes_in(int process) const {
  job_routes routes;
  for (int rank = 0; rank < ranks; ++rank) routes.ranks.push_back({address(process_of(rank)), 0});
  routes.relay = relay_address(node_of(process));
  return routes;
}

void process_fixture::admit(job_id job) {
  reserve_log command{job, log_bytes_of_a_job};
  for (int rank = 0; rank < ranks; ++rank) command.relays.push_back(relay_address(node_of(process_of(rank))));
  for (auto& r : relays_) r.listener->coordinator_said(command);
}

const std::string& process_fixture::address(int process) const {
  return workers_.at(static_cast<std::size_t>(process)).address;
}

const std::string& process_fixture::relay_address(int node) const {
  return relays_.at(static_cast<std::size_t>(node)).post->address();
}

void process_fixture::introduce_everybody() {
  std::vector<messenger*> all{stranger_.get()};
  for (auto& r : relays_) all.push_back(r.post.get());
  for (auto& w : workers_) all.push_back(w.post.get());
  for (auto* from : all) {
    for (auto* to : all) {
      // Of no job: nobody minds it.
      if (from != to) from->send(to->address(), {.kind = message_kind::want});
    }
  }
  const auto others = static_cast<std::int64_t>(all.size()) - 1;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  const auto waits = [&](messenger* who) { return who->traffic().messages_received < others; };
  while (std::any_of(all.begin(), all.end(), waits)) {
    if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("the processes do not reach each other");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void process_fixture::stop(int process) { workers_.at(static_cast<std::size_t>(process)).post->listen(nullptr); }

void process_fixture::go_on(int process) {
  const auto& stopped = workers_.at(static_cast<std::size_t>(process));
  stopped.post->listen(stopped.network.get());
}

void process_fixture::kill(int process) {
  auto& dying = workers_.at(static_cast<std::size_t>(process));
  dying.network = nullptr;
  dying.post = nullptr;
}

void faulty_fixture::kill(int process) {
  faults_->kill(address(process));
  process_fixture::kill(process);
}

ucx_fixture::ucx_fixture() : process_fixture([] { return make_ucx_messenger(ucx_options{}); }) {
  introduce_everybody();
}

tcp_fixture::tcp_fixture(bool sealed)
    : process_fixture([kind = messenger_kind_of(sealed ? "sealed_tcp" : "tcp")] { return kind.make({}); }) {}

rank_seat take_seat(transport_fixture& fixture, job_id job, int rank) {
  rank_seat seat;
  seat.door = fixture.make_endpoint(rank);
  seat.network = seat.door->join(job, rank, fixture.routes(rank));
  return seat;
}

bool arrives(transfer& moving, endpoint& door) {
  // One long sleep, not many short ones: a bell that does not ring is to be noticed.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!moving.done()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    door.wait(deadline);
  }
  return true;
}

std::vector<std::byte> bytes_for(const block_key& key, std::size_t size) {
  std::seed_seq seed{static_cast<unsigned>(key.job),
                     static_cast<unsigned>(key.phase),
                     key.question,
                     key.step,
                     static_cast<unsigned>(key.layer),
                     static_cast<unsigned>(key.source),
                     static_cast<unsigned>(key.part)};
  std::minstd_rand random(seed);
  auto state = static_cast<std::uint64_t>(random()) << 32 | random();
  std::vector<std::byte> bytes(size);
  for (auto& b : bytes) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    b = static_cast<std::byte>(state >> 56);
  }
  return bytes;
}

}  // namespace baton
