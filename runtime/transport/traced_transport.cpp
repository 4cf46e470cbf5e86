#include "runtime/transport/traced_transport.hpp"

#include <utility>

namespace baton {

transfer traced_transport::exchange(std::span<const outgoing_block> sends, std::span<const incoming_block> receives) {
  // Noted before it is given away: its reader may have it before this call returns.
  for (const auto& b : sends) trace_.sent(b.key, b.targets, trace_recorder::clock::now());
  auto sending = inner_->exchange(sends, {});
  if (receives.empty()) return sending;
  flight f{std::move(sending), {}};
  for (const auto& b : receives) f.blocks.push_back({b.key, inner_->exchange({}, std::span(&b, 1))});
  const auto id = ++last_transfer_;
  flights_.emplace(id, std::move(f));
  return {*this, id};
}

bool traced_transport::poll(std::uint64_t id) {
  auto& f = flights_.at(id);
  std::erase_if(f.blocks, [&](awaited_block& b) {
    const auto looked = trace_recorder::clock::now();
    if (!b.under_way.done()) return false;
    // Taking a block copies and checks it: that is the rank's work, not its waiting.
    const auto taken = trace_recorder::clock::now();
    trace_.did(activity::exchange, looked, taken);
    trace_.arrived(b.key, rank_, taken);
    return true;
  });
  if (!f.blocks.empty() || !f.sends.done()) return false;
  flights_.erase(id);
  return true;
}

int traced_transport::missing_rank(std::uint64_t id) const {
  const auto found = flights_.find(id);
  if (found == flights_.end()) return -1;
  const auto& f = found->second;
  return f.blocks.empty() ? f.sends.missing_rank() : static_cast<int>(f.blocks.front().key.source);
}

}  // namespace baton
