#include "runtime/transport/local.hpp"

#include <atomic>
#include <utility>

#include "kernels/fault.hpp"

namespace baton {

class local_transport final : public transport {
 public:
  local_transport(local_network& network, doorbell& bell, local_network::place who, const job_routes& routes)
      : network_(network), bell_(bell), who_(who), routes_(routes) {
    network_.enter(who_, bell_);
  }
  ~local_transport() override { network_.leave(who_, static_cast<int>(routes_.ranks.size())); }

  transfer exchange(std::span<const outgoing_block> sends, std::span<const incoming_block> receives) override {
    check_not_aborted();
    for (const auto& outgoing : sends) {
      block copied;
      for (const auto& part : outgoing.parts) copied.bytes.insert(copied.bytes.end(), part.begin(), part.end());
      copied.checksum = checksum_of(copied.bytes);
      ++counts_.blocks_sent;
      counts_.bytes_sent += static_cast<std::int64_t>(copied.bytes.size());
      auto stamped = outgoing;
      stamped.key.attempt = routes_.ranks.at(static_cast<std::size_t>(who_.rank)).attempt;
      network_.deliver(stamped, std::move(copied));
    }
    if (receives.empty()) return {};
    const auto id = ++last_transfer_;
    pending_[id].assign(receives.begin(), receives.end());
    return {*this, id};
  }

  void rewire(int source, const rank_place& place) override {
    routes_.ranks.at(static_cast<std::size_t>(source)) = place;
  }

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
      if (!network_.take(who_, incoming)) return false;
      ++counts_.blocks_received;
      for (const auto& part : incoming.parts) counts_.bytes_received += static_cast<std::int64_t>(part.size());
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

  local_network& network_;
  doorbell& bell_;
  const local_network::place who_;
  job_routes routes_;
  std::atomic<bool> aborted_ = false;
  std::uint64_t last_transfer_ = 0;
  std::map<std::uint64_t, std::vector<incoming_block>> pending_;
  transport_counts counts_;
};

class local_endpoint final : public endpoint {
 public:
  explicit local_endpoint(local_network& network) : network_(network) {}

  std::unique_ptr<transport> join(job_id job, int rank, const job_routes& routes) override {
    return std::make_unique<local_transport>(network_, bell_, local_network::place{job, rank}, routes);
  }

  void wait(std::chrono::steady_clock::time_point deadline) override { bell_.wait(deadline); }
  void wake() override { bell_.ring(); }

 private:
  local_network& network_;
  doorbell bell_;
};

std::unique_ptr<endpoint> local_network::make_endpoint() { return std::make_unique<local_endpoint>(*this); }

void local_network::deliver(const outgoing_block& outgoing, block&& b) {
  const bool logged = outgoing.route == block_route::relayed;
  if (logged) log_.put(outgoing.key, std::move(b));
  const std::lock_guard lock(mutex_);
  for (int rank = outgoing.targets.first; rank < outgoing.targets.last; ++rank) {
    if (rank == outgoing.key.source) continue;
    auto& box = mailboxes_[{outgoing.key.job, rank}];
    if (!logged) box.blocks.emplace(outgoing.key, b);
    if (box.bell) box.bell->ring();
  }
}

bool local_network::take(const place& who, const incoming_block& incoming) {
  if (incoming.route == block_route::relayed) return log_.read(incoming.key, incoming.parts);
  block taken;
  {
    const std::lock_guard lock(mutex_);
    auto& blocks = mailboxes_.at(who).blocks;
    const auto found = blocks.find(incoming.key);
    if (found == blocks.end()) return false;
    taken = std::move(found->second);
    blocks.erase(found);
  }
  copy_block(incoming.key, taken, incoming.parts);
  return true;
}

void local_network::enter(const place& who, doorbell& bell) {
  const std::lock_guard lock(mutex_);
  mailboxes_[who].bell = &bell;
}

void local_network::leave(const place& who, int ranks) {
  const std::lock_guard lock(mutex_);
  mailboxes_.at(who).bell = nullptr;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto peer = mailboxes_.find({who.job, rank});
    if (peer != mailboxes_.end() && peer->second.bell) return;
  }
  // The job's last rank has left: whatever was not read belongs to nobody.
  mailboxes_.erase(mailboxes_.lower_bound({who.job, 0}), mailboxes_.lower_bound({who.job, ranks}));
}

}  // namespace baton
