#include "runtime/transport/process_network.hpp"

#include <atomic>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "kernels/fault.hpp"

namespace baton {

class process_transport final : public transport {
 public:
  process_transport(process_network& network, doorbell& bell, job_id job, int rank, const job_routes& routes)
      : network_(network), bell_(bell), job_(job), rank_(rank) {
    network_.enter(job, rank, routes, bell);
    attempt_ = routes.ranks[static_cast<std::size_t>(rank)].attempt;
  }
  ~process_transport() override { network_.leave(job_, rank_); }

  transfer exchange(std::span<const outgoing_block> sends, std::span<const incoming_block> receives) override {
    check_not_aborted();
    for (const auto& outgoing : sends) {
      std::size_t bytes = 0;
      for (const auto& part : outgoing.parts) bytes += part.size();
      auto copied = std::make_shared<block>();
      copied->bytes.reserve(bytes);
      for (const auto& part : outgoing.parts) copied->bytes.insert(copied->bytes.end(), part.begin(), part.end());
      copied->checksum = checksum_of(copied->bytes);
      ++counts_.blocks_sent;
      counts_.bytes_sent += static_cast<std::int64_t>(bytes);
      auto key = outgoing.key;
      key.attempt = attempt_;
      network_.give(key, outgoing.targets, outgoing.route, std::move(copied));
    }
    if (receives.empty()) return {};
    const auto id = ++last_transfer_;
    pending_[id].assign(receives.begin(), receives.end());
    return {*this, id};
  }

  void rewire(int source, const rank_place& place) override { network_.rewire(job_, source, place); }

  void abort() noexcept override {
    aborted_.store(true);
    bell_.ring();
  }

  [[nodiscard]] transport_counts counts() const override { return counts_; }

 private:
  bool poll(std::uint64_t id) override {
    check_not_aborted();
    auto& waiting = pending_.at(id);
    std::erase_if(waiting, [&](const incoming_block& incoming) {
      const auto taken = network_.take(rank_, incoming.key, incoming.route);
      if (!taken) return false;
      copy_block(incoming.key, *taken, incoming.parts);
      ++counts_.blocks_received;
      counts_.bytes_received += static_cast<std::int64_t>(taken->bytes.size());
      return true;
    });
    if (!waiting.empty()) return false;
    pending_.erase(id);
    return true;
  }

  [[nodiscard]] int missing_rank(std::uint64_t id) const override {
    const auto found = pending_.find(id);
    return found == pending_.end() || found->second.empty() ? -1 : found->second.front().key.source;
  }

  void cancel(std::uint64_t id) noexcept override { pending_.erase(id); }

  void check_not_aborted() const {
    if (aborted_.load()) throw fault(fault_code::cancelled, "the job was stopped");
  }

  process_network& network_;
  doorbell& bell_;
  const job_id job_;
  const int rank_;
  std::uint32_t attempt_ = 0;
  std::atomic<bool> aborted_ = false;
  std::uint64_t last_transfer_ = 0;
  std::map<std::uint64_t, std::vector<incoming_block>> pending_;
  transport_counts counts_;
};

class process_endpoint final : public endpoint {
 public:
  explicit process_endpoint(process_network& network) : network_(network) {}

  std::unique_ptr<transport> join(job_id job, int rank, const job_routes& routes) override {
    return std::make_unique<process_transport>(network_, bell_, job, rank, routes);
  }

  void wait(std::chrono::steady_clock::time_point deadline) override { bell_.wait(deadline); }
  void wake() override { bell_.ring(); }

 private:
  process_network& network_;
  doorbell bell_;
};

process_network::process_network(messenger& network) : network_(network) { network_.listen(this); }

process_network::~process_network() { network_.listen(nullptr); }

std::unique_ptr<endpoint> process_network::make_endpoint() { return std::make_unique<process_endpoint>(*this); }

// ---- what the ranks here do: compute threads ----

void process_network::enter(job_id id, int rank, const job_routes& routes, doorbell& bell) {
  const auto wrong = [&](const std::string& what) {
    return fault(fault_code::internal, what, fmt::format("job {}, rank {}", id, rank));
  };
  const int ranks = static_cast<int>(routes.ranks.size());
  if (rank < 0 || rank >= ranks) throw wrong(fmt::format("a job of {} ranks has no such rank", ranks));
  std::vector<addressed_message> messages;
  std::vector<std::string> elsewhere;
  {
    const std::lock_guard lock(mutex_);
    auto& job = jobs_.try_emplace(id, network_.address(), routes).first->second;
    if (job.ranks() != ranks) throw wrong(fmt::format("routes of {} ranks for a job of {}", ranks, job.ranks()));
    job.enter(rank, bell);
    job.set_relay(routes.relay);
    // A rank that takes another's place may know more than those that were here before it.
    for (int other = 0; other < job.ranks(); ++other) {
      auto moved = move(id, job, other, routes.ranks[static_cast<std::size_t>(other)]);
      std::move(moved.begin(), moved.end(), std::back_inserter(messages));
    }
    elsewhere = lead(id, job);
  }
  for (const auto& to : elsewhere) network_.forget(to);
  send(std::move(messages));
}

void process_network::leave(job_id id, int rank) noexcept {
  const std::lock_guard lock(mutex_);
  const auto job = jobs_.find(id);
  if (job == jobs_.end() || !job->second.leave(rank)) return;
  jobs_.erase(job);
  outbox_.forget_job(id);
  detours_.forget_job(id);
}

void process_network::give(const block_key& key, rank_range targets, block_route route,
                           std::shared_ptr<const block> b) {
  std::vector<addressed_message> messages;
  {
    const std::lock_guard lock(mutex_);
    auto& job = job_of(key.job);
    if (route == block_route::relayed) {
      messages.push_back(
          posted(job.relay(), {.kind = message_kind::put, .key = key, .targets = targets, .payload = b}));
      job.given_here(key, targets, std::move(b));
    } else {
      for (const auto& to : job.processes_of(targets, key.source)) {
        messages.push_back(posted(to, {.kind = message_kind::direct, .key = key, .targets = targets, .payload = b}));
      }
      job.came_direct(key, targets, b);
    }
  }
  send(std::move(messages));
}

std::shared_ptr<const block> process_network::take(int rank, const block_key& key, block_route route) {
  std::string relay;
  {
    const std::lock_guard lock(mutex_);
    auto& job = job_of(key.job);
    if (route == block_route::direct) return job.take_direct(rank, key);
    if (auto b = job.take_relayed(rank, key)) return b;
    if (!job.miss(rank, key, std::chrono::steady_clock::now())) return nullptr;
    relay = job.relay();
  }
  network_.send(relay, {.kind = message_kind::want, .key = key});
  return nullptr;
}

void process_network::rewire(job_id id, int rank, const rank_place& place) {
  std::vector<addressed_message> messages;
  std::string deserted;
  std::vector<std::string> elsewhere;
  {
    const std::lock_guard lock(mutex_);
    auto& job = job_of(id);
    const auto before = job.place_of(rank).address;
    messages = move(id, job, rank, place);
    elsewhere = lead(id, job);
    if (!before.empty() && before != network_.address() && !in_use(before)) {
      deserted = before;
      outbox_.forget(before);
      inbox_.forget(before);
    }
  }
  if (!deserted.empty()) network_.forget(deserted);
  for (const auto& to : elsewhere) network_.forget(to);
  send(std::move(messages));
}

// ---- with the mutex held ----

job_blocks& process_network::job_of(job_id id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) throw fault(fault_code::internal, fmt::format("no rank of job {} has joined here", id));
  return found->second;
}

addressed_message process_network::posted(const std::string& to, message&& m) {
  return {to, outbox_.post(to, std::move(m), std::chrono::steady_clock::now())};
}

std::vector<addressed_message> process_network::move(job_id id, job_blocks& job, int rank, const rank_place& place) {
  const auto before = job.place_of(rank).address;
  if (!job.move(rank, place) || place.address == before) return {};
  std::vector<addressed_message> messages;
  const rank_range alone{rank, rank + 1};
  for (const auto& m : outbox_.unacknowledged(before)) {
    if (m.kind != message_kind::direct || m.key.job != id || m.key.source == rank || !m.targets.contains(rank))
      continue;
    if (!job.processes_of(m.targets, m.key.source).contains(before)) outbox_.acknowledged(before, {&m.delivery, 1});
    if (job.lives_here(rank)) {
      job.came_direct(m.key, alone, m.payload);
    } else {
      messages.push_back(
          posted(place.address, {.kind = message_kind::direct, .key = m.key, .targets = alone, .payload = m.payload}));
    }
  }
  return messages;
}

bool process_network::in_use(const std::string& address) const {
  for (const auto& [id, job] : jobs_) {
    if (job.relay() == address) return true;
    for (int rank = 0; rank < job.ranks(); ++rank) {
      if (job.place_of(rank).address == address) return true;
    }
  }
  return false;
}

std::vector<std::string> process_network::lead(job_id id, const job_blocks& job) {
  std::map<std::string, std::string> ways;
  for (int rank = 0; rank < job.ranks(); ++rank) {
    if (const auto& place = job.place_of(rank); !place.via.empty()) ways[place.address] = place.via;
  }
  auto elsewhere = detours_.lead(id, std::move(ways));
  for (const auto& to : elsewhere) outbox_.send_again(to, std::chrono::steady_clock::now());
  return elsewhere;
}

// ---- what others say: the transport thread ----

void process_network::received(const std::string& from, message&& m) {
  // What was damaged on its way is neither taken nor acknowledged: it comes again, or is asked for again.
  if (m.payload && !is_intact(*m.payload)) return;
  m.kind == message_kind::carry ? open(from, m) : hear(from, std::move(m));
}

void process_network::open(const std::string& from, const message& carry) {
  const auto carried = read_carry(carry);
  if (!carried || carried->to != network_.address()) return;
  {
    const std::lock_guard lock(mutex_);
    if (!detours_.comes_by(from, *carried)) return;
  }
  if (auto m = opened(*carried)) hear(carried->from, std::move(*m));
}

void process_network::hear(const std::string& from, message&& m) {
  switch (m.kind) {
    case message_kind::direct: return received_direct(from, m);
    case message_kind::answer: return received_answer(m);
    case message_kind::acknowledge:
      if (const auto deliveries = acknowledged_by(m)) {
        const std::lock_guard lock(mutex_);
        outbox_.acknowledged(from, *deliveries);
      }
      return;
    case message_kind::put:
    case message_kind::forward:
    case message_kind::carry:
    case message_kind::probe:
    case message_kind::echo:
    case message_kind::want: return;  // for a relay
  }
}

void process_network::received_direct(const std::string& from, const message& m) {
  if (!m.payload) return;
  const std::lock_guard lock(mutex_);
  const auto job = jobs_.find(m.key.job);
  // Not acknowledged, so that it comes again: the rank that it is for may be about to join.
  if (job == jobs_.end() || !job->second.concerns(m.targets, m.key.source)) return;
  if (m.delivery != 0 && !inbox_.first_time(from, m.delivery)) return;
  job->second.came_direct(m.key, m.targets, m.payload);
}

void process_network::received_answer(const message& m) {
  if (!m.payload) return;
  const std::lock_guard lock(mutex_);
  const auto job = jobs_.find(m.key.job);
  if (job != jobs_.end()) job->second.answered(m.key, m.targets, m.payload);
}

void process_network::tick() {
  const auto now = std::chrono::steady_clock::now();
  std::vector<addressed_message> messages;
  {
    const std::lock_guard lock(mutex_);
    messages = outbox_.due(now);
    for (auto& [id, job] : jobs_) {
      for (const auto& key : job.due(now)) messages.push_back({job.relay(), {.kind = message_kind::want, .key = key}});
    }
    for (const auto& [to, deliveries] : inbox_.take_acknowledgements())
      messages.push_back({to, acknowledgement_of(deliveries)});
  }
  for (auto& m : messages) {
    try {
      send(m.to, std::move(m.what));
    } catch (const fault&) {
      // The address makes no sense, as the rank that sent there first has been told.
    }
  }
}

void process_network::send(std::vector<addressed_message>&& messages) {
  for (auto& m : messages) send(m.to, std::move(m.what));
}

void process_network::send(const std::string& to, message&& m) {
  std::string via;
  std::shared_ptr<carried_bytes> bytes;
  {
    const std::lock_guard lock(mutex_);
    if (const auto* way = detours_.way_to(to, m)) {
      via = *way;
      bytes = detours_.bytes_to(via);
    }
  }
  if (!bytes) return network_.send(to, std::move(m));
  auto carry = carry_of(network_.address(), to, m);
  if (!carry) return;
  carry->payload = bytes->admit(std::move(carry->payload));
  if (carry->payload) network_.send(via, std::move(*carry));
}

}  // namespace baton
