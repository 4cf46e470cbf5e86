#include "runtime/device/staged_endpoint.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <exception>
#include <list>
#include <map>
#include <utility>

#include "kernels/fault.hpp"

namespace baton {
namespace {

template <class Parts>
std::size_t bytes_of_parts(const Parts& parts) {
  std::size_t bytes = 0;
  for (const auto& part : parts) bytes += part.size();
  return bytes;
}

}  // namespace

class staged_transport final : public transport {
 public:
  staged_transport(staged_endpoint& owner, std::unique_ptr<transport> inner, job_id job, int rank, int ranks)
      : owner_(owner), inner_(std::move(inner)), job_(job), rank_(rank), ranks_(ranks) {
    owner_.transports_.push_back(this);
  }
  ~staged_transport() override {
    std::erase(owner_.transports_, this);
    leaving_.clear();
    // What the job's last rank here leaves unread belongs to nobody.
    if (owner_.ranks_here(job_, {0, ranks_}) > 0) return;
    std::erase_if(owner_.kept_, [this](const auto& kept) { return kept.first.job == job_; });
    owner_.under_way_.erase(job_);
    owner_.by_the_network_.erase(job_);
  }

  [[nodiscard]] job_id job() const { return job_; }
  [[nodiscard]] int rank() const { return rank_; }

  /// Done with the sends at once: whatever overwrites the device's memory is queued behind the copy.
  transfer exchange(std::span<const outgoing_block> sends, std::span<const incoming_block> receives) override {
    rethrow();
    owner_.under_way_.insert(job_);
    for (const auto& outgoing : sends) {
      if (outgoing.on_host) {
        leaving_.push_back({outgoing, nullptr, inner_->exchange(std::span(&outgoing, 1), {}), true});
      } else {
        copy_down(outgoing);
      }
    }
    if (receives.empty()) return {};
    arrival taking;
    std::vector<incoming_block> by_network;
    for (const auto& incoming : receives) {
      const bool here = passes_here(incoming.route, incoming.key.source) && !incoming.on_host;
      (here ? taking.here : by_network).push_back(incoming);
    }
    if (!by_network.empty()) taking.by_network.push_back(ask_network(std::move(by_network)));
    if (std::ranges::any_of(receives, [](const incoming_block& b) { return !b.on_host; }))
      taking.overwritable = owner_.kernels_.record(owner_.queue_);
    const auto id = ++last_transfer_;
    arriving_.emplace(id, std::move(taking));
    return {*this, id};
  }

  void rewire(int source, const rank_place& place) override {
    inner_->rewire(source, place);
    owner_.leave_to_the_network(job_);
  }
  /// What is kept here is taken; the rest of what was to come from ranks of this device is asked for.
  void leave_to_the_network() {
    try {
      for (auto& [id, taking] : arriving_) {
        take_what_is_kept(taking);
        if (!taking.here.empty()) taking.by_network.push_back(ask_network(std::exchange(taking.here, {})));
      }
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  void abort() noexcept override {
    aborted_.store(true);
    inner_->abort();
  }
  [[nodiscard]] transport_counts counts() const override {
    auto all = inner_->counts();
    all.blocks_sent += here_.blocks_sent;
    all.bytes_sent += here_.bytes_sent;
    all.blocks_received += here_.blocks_received;
    all.bytes_received += here_.bytes_received;
    return all;
  }

  /// True if a block was given away. What fails is told to whoever exchanges or polls next.
  bool progress() {
    bool any = false;
    try {
      for (auto& leaving : leaving_) {
        if (leaving.given || !leaving.staged->complete->reached()) continue;
        leaving.under_way = inner_->exchange(std::span(&leaving.block, 1), {});
        leaving.given = true;
        any = true;
      }
      std::erase_if(leaving_, [](departure& leaving) { return leaving.given && leaving.under_way.done(); });
    } catch (...) {
      failure_ = std::current_exception();
      leaving_.clear();
    }
    return any;
  }

 private:
  using staged_block = staged_endpoint::staged_block;

  /// A block on its way to the network.
  struct departure {
    outgoing_block block;  ///< in host memory
    std::shared_ptr<staged_block> staged;
    transfer under_way;
    bool given = false;
  };
  /// Blocks that the network was asked for at once.
  struct network_arrival {
    std::unique_ptr<device_memory> memory;    ///< where they come; null: where they are wanted, which is host memory
    std::vector<std::span<std::byte>> parts;  ///< of the device, as they lie in `memory` one after another
    transfer under_way;
  };
  /// Blocks on their way in.
  struct arrival {
    std::vector<incoming_block> here;  ///< from ranks of this device, not yet taken
    std::vector<network_arrival> by_network;
    std::unique_ptr<event> overwritable;  ///< what was launched before the exchange no longer reads the parts
  };

  [[nodiscard]] network_arrival ask_network(std::vector<incoming_block> blocks) {
    network_arrival asked;
    std::size_t bytes = 0;
    for (const auto& incoming : blocks) bytes += incoming.on_host ? 0 : bytes_of_parts(incoming.parts);
    if (bytes > 0) asked.memory = owner_.take(bytes);
    std::size_t at = 0;
    for (auto& incoming : blocks) {
      if (incoming.on_host) continue;
      const std::size_t length = bytes_of_parts(incoming.parts);
      asked.parts.insert(asked.parts.end(), incoming.parts.begin(), incoming.parts.end());
      incoming.parts = {std::span(asked.memory->data() + at, length)};
      incoming.on_host = true;
      at += length;
    }
    asked.under_way = inner_->exchange({}, blocks);
    return asked;
  }

  /// Whether a block of this source comes to the device's ranks without the network. A relayed one is in the log besides; a direct
  /// one that others read too goes to all by the network.
  [[nodiscard]] bool passes_here(block_route route, int source) const {
    if (owner_.by_the_network_.contains(job_)) return false;
    if (route == block_route::direct) return owner_.ranks_here(job_, {0, ranks_}) == ranks_;
    return owner_.ranks_here(job_, {source, source + 1}) == 1;
  }

  void copy_down(const outgoing_block& outgoing) {
    auto& kernels = owner_.kernels_;
    auto staged = std::make_shared<staged_block>(owner_, bytes_of_parts(outgoing.parts));
    std::size_t at = 0;
    for (const auto& part : outgoing.parts) {
      kernels.download(owner_.queue_, staged->memory->data() + at, part.data(), part.size());
      at += part.size();
    }
    staged->complete = kernels.record(owner_.queue_);
    const bool here = passes_here(outgoing.route, rank_);
    const int readers = owner_.ranks_here(job_, outgoing.targets) - (outgoing.targets.contains(rank_) ? 1 : 0);
    if (here && readers > 0) owner_.kept_[outgoing.key] = {staged, readers};
    if (here && outgoing.route == block_route::direct) {
      ++here_.blocks_sent;
      here_.bytes_sent += static_cast<std::int64_t>(staged->bytes);
      return;
    }
    departure leaving{outgoing, staged, {}, false};
    leaving.block.parts = {std::span<const std::byte>(staged->memory->data(), staged->bytes)};
    leaving.block.on_host = true;
    leaving_.push_back(std::move(leaving));
    kernels.when_done(owner_.queue_, [&network = owner_.network_] { network.wake(); });
  }

  void copy_up(const device_memory& from, std::span<const std::span<std::byte>> parts) {
    std::size_t at = 0;
    for (const auto& part : parts) {
      owner_.kernels_.upload(*owner_.uploads_, part.data(), from.data() + at, part.size());
      at += part.size();
    }
  }

  void take_what_is_kept(arrival& taking) {
    auto& kernels = owner_.kernels_;
    std::erase_if(taking.here, [&](const incoming_block& incoming) {
      const auto kept = owner_.kept_.find(incoming.key);
      if (kept == owner_.kept_.end()) return false;
      const auto& block = *kept->second.block;
      const std::size_t bytes = bytes_of_parts(incoming.parts);
      if (block.bytes != bytes)
        throw fault(fault_code::corruption, "a block of another length", describe(incoming.key));
      kernels.wait_for(*owner_.uploads_, *taking.overwritable);
      kernels.wait_for(*owner_.uploads_, *block.complete);
      copy_up(*block.memory, incoming.parts);
      ++here_.blocks_received;
      here_.bytes_received += static_cast<std::int64_t>(bytes);
      if (--kept->second.readers == 0) owner_.kept_.erase(kept);
      return true;
    });
  }

  bool poll(std::uint64_t id) override {
    rethrow();
    auto& taking = arriving_.at(id);
    auto& kernels = owner_.kernels_;
    take_what_is_kept(taking);
    if (!taking.here.empty()) return false;
    if (!std::ranges::all_of(taking.by_network, [](network_arrival& asked) { return asked.under_way.done(); }))
      return false;
    for (auto& asked : taking.by_network) {
      if (!asked.memory) continue;
      kernels.wait_for(*owner_.uploads_, *taking.overwritable);
      copy_up(*asked.memory, asked.parts);
      owner_.give_back(std::move(asked.memory), nullptr);
    }
    if (taking.overwritable) kernels.wait_for(owner_.queue_, *kernels.record(*owner_.uploads_));
    arriving_.erase(id);
    return true;
  }
  [[nodiscard]] int missing_rank(std::uint64_t id) const override {
    const auto found = arriving_.find(id);
    if (found == arriving_.end()) return -1;
    const auto& taking = found->second;
    if (!taking.here.empty()) return static_cast<int>(taking.here.front().key.source);
    for (const auto& asked : taking.by_network) {
      if (const int missing = asked.under_way.missing_rank(); missing >= 0) return missing;
    }
    return -1;
  }
  void cancel(std::uint64_t id) noexcept override {
    const auto found = arriving_.find(id);
    if (found == arriving_.end()) return;
    for (auto& asked : found->second.by_network) asked.under_way = {};
    arriving_.erase(found);
  }
  void rethrow() {
    if (aborted_.load()) throw fault(fault_code::cancelled, "the job was stopped");
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

  staged_endpoint& owner_;
  std::unique_ptr<transport> inner_;
  const job_id job_;
  const int rank_;
  const int ranks_;
  std::atomic<bool> aborted_ = false;
  std::list<departure> leaving_;
  std::map<std::uint64_t, arrival> arriving_;
  std::uint64_t last_transfer_ = 0;
  transport_counts here_;  ///< of blocks that the network does not see, or does not give
  std::exception_ptr failure_;
};

staged_endpoint::staged_endpoint(endpoint& network, backend& kernels, stream& queue)
    : network_(network), kernels_(kernels), queue_(queue), uploads_(kernels.make_stream()) {}

staged_endpoint::~staged_endpoint() {
  try {
    kernels_.synchronize(queue_);
    kernels_.synchronize(*uploads_);
  } catch (...) {
    // The device is gone, and so is whatever it would have copied.
  }
}

std::unique_ptr<transport> staged_endpoint::join(job_id job, int rank, const job_routes& routes) {
  // All ranks of a device join before the first of them exchanges, unless one comes in another's place.
  if (under_way_.contains(job)) leave_to_the_network(job);
  return std::make_unique<staged_transport>(*this, network_.join(job, rank, routes), job, rank,
                                            static_cast<int>(routes.ranks.size()));
}

void staged_endpoint::wait(std::chrono::steady_clock::time_point deadline) {
  if (progress()) return;
  network_.wait(deadline);
  progress();
}

bool staged_endpoint::progress() {
  bool any = false;
  for (auto* const each : transports_) any = each->progress() || any;
  return any;
}

std::unique_ptr<device_memory> staged_endpoint::take(std::size_t bytes) {
  // Sizes are rounded, so that few pieces serve many blocks: taking pinned memory is slow.
  const std::size_t wanted = std::max<std::size_t>(std::bit_ceil(bytes), 4096);
  const auto fits = std::ranges::find_if(unused_, [&](const lent_memory& piece) {
    return piece.memory->bytes() == wanted && piece.free_after->reached();
  });
  if (fits == unused_.end()) return kernels_.allocate_host(wanted);
  auto memory = std::move(fits->memory);
  unused_.erase(fits);
  return memory;
}

void staged_endpoint::give_back(std::unique_ptr<device_memory> memory, const event* complete) noexcept {
  if (!memory) return;
  try {
    if (complete != nullptr) kernels_.wait_for(*uploads_, *complete);
    auto free_after = kernels_.record(*uploads_);
    unused_.push_back({std::move(memory), std::move(free_after)});
  } catch (...) {
    // A device that does not answer: the memory goes back to the system.
  }
}

void staged_endpoint::leave_to_the_network(job_id job) {
  if (!by_the_network_.insert(job).second) return;
  for (auto* const each : transports_) {
    if (each->job() == job) each->leave_to_the_network();
  }
  std::erase_if(kept_, [job](const auto& kept) { return kept.first.job == job; });
}

int staged_endpoint::ranks_here(job_id job, rank_range ranks) const {
  return static_cast<int>(std::ranges::count_if(
      transports_, [&](const staged_transport* each) { return each->job() == job && ranks.contains(each->rank()); }));
}

}  // namespace baton
