#pragma once

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "runtime/observe/trace.hpp"
#include "runtime/transport/transport.hpp"

namespace baton {

/// A rank's transport that notes when each block leaves and when it has been taken; blocks travel over `inner`, one transfer for each
/// that is awaited. Used by the compute thread, as any transport; borrows the recorder, which outlives it.
class traced_transport final : public transport {
 public:
  traced_transport(std::unique_ptr<transport> inner, int rank, trace_recorder& trace)
      : inner_(std::move(inner)), rank_(rank), trace_(trace) {}

  transfer exchange(std::span<const outgoing_block> sends, std::span<const incoming_block> receives) override;
  void rewire(int source, const rank_place& place) override { inner_->rewire(source, place); }
  void abort() noexcept override { inner_->abort(); }
  [[nodiscard]] transport_counts counts() const override { return inner_->counts(); }

 private:
  struct awaited_block {
    block_key key;
    transfer under_way;
  };
  struct flight {
    transfer sends;
    std::vector<awaited_block> blocks;  ///< those that are still to come
  };

  bool poll(std::uint64_t transfer) override;
  [[nodiscard]] int missing_rank(std::uint64_t transfer) const override;
  void cancel(std::uint64_t transfer) noexcept override { flights_.erase(transfer); }

  std::unique_ptr<transport> inner_;  ///< outlives the transfers of `flights_`
  const int rank_;
  trace_recorder& trace_;
  std::uint64_t last_transfer_ = 0;
  std::map<std::uint64_t, flight> flights_;
};

}  // namespace baton
