#include "runtime/device/staged_endpoint.hpp"

#include <algorithm>
#include <bit>
#include <exception>
#include <list>
#include <map>
#include <utility>

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
  staged_transport(staged_endpoint& owner, std::unique_ptr<transport> inner) : owner_(owner), inner_(std::move(inner)) {
    owner_.transports_.push_back(this);
  }
  ~staged_transport() override {
    for (auto& leaving : leaving_) owner_.give_back(std::move(leaving.memory), owner_.queue_);
    std::erase(owner_.transports_, this);
  }

  /// Done with the sends at once: whatever overwrites the device's memory is queued behind the copy.
  transfer exchange(std::span<const outgoing_block> sends, std::span<const incoming_block> receives) override {
    rethrow();
    for (const auto& outgoing : sends) {
      if (outgoing.on_host) {
        leaving_.push_back({outgoing, nullptr, nullptr, inner_->exchange(std::span(&outgoing, 1), {}), true});
      } else {
        leaving_.push_back(copied_down(outgoing));
      }
    }
    if (receives.empty()) return {};
    arrival taking;
    std::size_t bytes = 0;
    for (const auto& incoming : receives) bytes += incoming.on_host ? 0 : bytes_of_parts(incoming.parts);
    if (bytes > 0) taking.memory = owner_.take(bytes);
    std::size_t at = 0;
    std::vector<incoming_block> on_host;
    for (const auto& incoming : receives) {
      auto& wanted = on_host.emplace_back(incoming);
      if (incoming.on_host) continue;
      const std::size_t length = bytes_of_parts(incoming.parts);
      wanted.parts = {std::span(taking.memory->data() + at, length)};
      wanted.on_host = true;
      for (const auto& part : incoming.parts) {
        taking.parts.push_back(part);
      }
      at += length;
    }
    taking.under_way = inner_->exchange({}, on_host);
    if (bytes > 0) taking.overwritable = owner_.kernels_.record(owner_.queue_);
    const auto id = ++last_transfer_;
    arriving_.emplace(id, std::move(taking));
    return {*this, id};
  }

  void rewire(int source, const rank_place& place) override { inner_->rewire(source, place); }
  void abort() noexcept override { inner_->abort(); }
  [[nodiscard]] transport_counts counts() const override { return inner_->counts(); }

  /// True if a block was given away. What fails is told to whoever exchanges or polls next.
  bool progress() {
    bool any = false;
    try {
      for (auto& leaving : leaving_) {
        if (leaving.given || !leaving.complete->reached()) continue;
        leaving.under_way = inner_->exchange(std::span(&leaving.block, 1), {});
        leaving.given = true;
        any = true;
      }
      std::erase_if(leaving_, [this](departure& leaving) {
        if (!leaving.given || !leaving.under_way.done()) return false;
        owner_.give_back(std::move(leaving.memory), owner_.queue_);
        return true;
      });
    } catch (...) {
      failure_ = std::current_exception();
      for (auto& leaving : leaving_) {
        owner_.give_back(std::move(leaving.memory), owner_.queue_);
      }
      leaving_.clear();
    }
    return any;
  }

 private:
  /// A block on its way out.
  struct departure {
    outgoing_block block;  ///< in host memory
    std::unique_ptr<device_memory> memory;
    std::unique_ptr<event> complete;
    transfer under_way;
    bool given = false;
  };
  /// Blocks on their way in.
  struct arrival {
    std::unique_ptr<device_memory> memory;
    std::vector<std::span<std::byte>> parts;  ///< of the device, as they lie in `memory` one after another
    std::unique_ptr<event> overwritable;      ///< what was launched before the exchange no longer reads `parts`
    transfer under_way;
  };

  departure copied_down(const outgoing_block& outgoing) {
    const std::size_t bytes = bytes_of_parts(outgoing.parts);
    departure leaving{outgoing, owner_.take(bytes), nullptr, {}, false};
    std::size_t at = 0;
    for (const auto& part : outgoing.parts) {
      owner_.kernels_.download(owner_.queue_, leaving.memory->data() + at, part.data(), part.size());
      at += part.size();
    }
    leaving.block.parts = {std::span<const std::byte>(leaving.memory->data(), bytes)};
    leaving.block.on_host = true;
    leaving.complete = owner_.kernels_.record(owner_.queue_);
    owner_.kernels_.when_done(owner_.queue_, [&network = owner_.network_] { network.wake(); });
    return leaving;
  }

  bool poll(std::uint64_t id) override {
    rethrow();
    auto& taking = arriving_.at(id);
    if (!taking.under_way.done()) return false;
    if (taking.memory) {
      auto& kernels = owner_.kernels_;
      kernels.wait_for(*owner_.uploads_, *taking.overwritable);
      const std::byte* from = taking.memory->data();
      for (const auto& part : taking.parts) {
        kernels.upload(*owner_.uploads_, part.data(), from, part.size());
        from += part.size();
      }
      kernels.wait_for(owner_.queue_, *kernels.record(*owner_.uploads_));
      owner_.give_back(std::move(taking.memory), *owner_.uploads_);
    }
    arriving_.erase(id);
    return true;
  }
  [[nodiscard]] int missing_rank(std::uint64_t id) const override {
    const auto found = arriving_.find(id);
    return found == arriving_.end() ? -1 : found->second.under_way.missing_rank();
  }
  void cancel(std::uint64_t id) noexcept override {
    const auto found = arriving_.find(id);
    if (found == arriving_.end()) return;
    found->second.under_way = {};
    arriving_.erase(found);
  }
  void rethrow() {
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

  staged_endpoint& owner_;
  std::unique_ptr<transport> inner_;
  std::list<departure> leaving_;
  std::map<std::uint64_t, arrival> arriving_;
  std::uint64_t last_transfer_ = 0;
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
  return std::make_unique<staged_transport>(*this, network_.join(job, rank, routes));
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

void staged_endpoint::give_back(std::unique_ptr<device_memory> memory, stream& last_used_by) noexcept {
  if (!memory) return;
  try {
    auto free_after = kernels_.record(last_used_by);
    unused_.push_back({std::move(memory), std::move(free_after)});
  } catch (...) {
    // A device that does not answer: the memory goes back to the system.
  }
}

}  // namespace baton
