#include "tests/support/trace_checks.hpp"

#include <algorithm>
#include <map>

namespace baton {

std::vector<block_way> prefill_ways(std::span<const rank_trace> ranks) {
  std::map<block_key, std::int64_t> sent;
  for (const auto& rank : ranks) {
    for (const auto& b : rank.blocks) {
      if (b.event == trace_block::event_kind::sent) sent.emplace(b.key, b.at_ns);
    }
  }
  std::vector<block_way> ways;
  for (const auto& rank : ranks) {
    for (const auto& b : rank.blocks) {
      if (b.event != trace_block::event_kind::arrived || b.key.phase != block_phase::prefill) continue;
      if (const auto from = sent.find(b.key); from != sent.end())
        ways.push_back({b.key, b.targets.first, from->second, b.at_ns});
    }
  }
  return ways;
}

bool attends_while_blocks_travel(std::span<const rank_trace> ranks, int rank, int layer) {
  const auto& spans = ranks[static_cast<std::size_t>(rank)].spans;
  bool any = false;
  for (const auto& way : prefill_ways(ranks)) {
    if (way.target != rank || way.key.layer != layer) continue;
    any = true;
    const bool attends = std::ranges::any_of(spans, [&](const trace_span& span) {
      return span.what == activity::attend && span.stage == block_phase::prefill && span.layer == layer &&
             span.begin_ns < way.arrived_ns && span.end_ns > way.sent_ns;
    });
    if (!attends) return false;
  }
  return any;
}

}  // namespace baton
