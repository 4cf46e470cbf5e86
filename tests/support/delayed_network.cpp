#include "tests/support/delayed_network.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace baton {

class delayed_transport final : public transport {
 public:
  delayed_transport(delayed_network& network, std::unique_ptr<transport> inner)
      : network_(network), inner_(std::move(inner)) {}

  transfer exchange(std::span<const outgoing_block> sends, std::span<const incoming_block> receives) override {
    for (const auto& b : sends) network_.put(b.key);
    static_cast<void>(inner_->exchange(sends, {}).done());
    if (receives.empty()) return {};
    const auto id = ++last_transfer_;
    for (const auto& b : receives) awaited_[id].push_back({b.key, inner_->exchange({}, std::span(&b, 1))});
    return {*this, id};
  }
  void rewire(int source, const rank_place& place) override { inner_->rewire(source, place); }
  void abort() noexcept override { inner_->abort(); }
  [[nodiscard]] transport_counts counts() const override { return inner_->counts(); }

 private:
  struct awaited_block {
    block_key key;
    transfer under_way;
  };

  bool poll(std::uint64_t id) override {
    auto& blocks = awaited_.at(id);
    std::erase_if(blocks, [&](awaited_block& b) { return network_.shows(b.key) && b.under_way.done(); });
    if (!blocks.empty()) return false;
    awaited_.erase(id);
    return true;
  }
  [[nodiscard]] int missing_rank(std::uint64_t id) const override {
    const auto found = awaited_.find(id);
    return found == awaited_.end() || found->second.empty() ? -1 : found->second.front().key.source;
  }
  void cancel(std::uint64_t id) noexcept override { awaited_.erase(id); }

  delayed_network& network_;
  std::unique_ptr<transport> inner_;
  std::uint64_t last_transfer_ = 0;
  std::map<std::uint64_t, std::vector<awaited_block>> awaited_;
};

namespace {

class delayed_endpoint final : public endpoint {
 public:
  delayed_endpoint(delayed_network& network, std::unique_ptr<endpoint> inner)
      : network_(network), inner_(std::move(inner)) {}

  std::unique_ptr<transport> join(job_id job, int rank, const job_routes& routes) override {
    return std::make_unique<delayed_transport>(network_, inner_->join(job, rank, routes));
  }
  /// Nobody rings when a delay is over: looks again every millisecond.
  void wait(std::chrono::steady_clock::time_point deadline) override {
    inner_->wait(std::min(deadline, std::chrono::steady_clock::now() + std::chrono::milliseconds(1)));
  }
  void wake() override { inner_->wake(); }

 private:
  delayed_network& network_;
  std::unique_ptr<endpoint> inner_;
};

}  // namespace

std::unique_ptr<endpoint> delayed_network::make_endpoint() {
  return std::make_unique<delayed_endpoint>(*this, inner_.make_endpoint());
}

void delayed_network::put(const block_key& key) {
  const std::lock_guard lock(mutex_);
  put_.emplace(key, std::chrono::steady_clock::now());
}

bool delayed_network::shows(const block_key& key) {
  const std::lock_guard lock(mutex_);
  const auto found = put_.find(key);
  if (found == put_.end() || std::chrono::steady_clock::now() - found->second < delay_) return false;
  auto next = key;
  ++next.layer;
  return next.layer == layers_ || put_.contains(next);
}

}  // namespace baton
