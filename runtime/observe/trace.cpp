#include "runtime/observe/trace.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace baton {

std::string_view name_of(activity what) {
  constexpr std::array<std::string_view, activity_count> names{"project", "compress",     "exchange",
                                                               "attend",  "feed_forward", "wait"};
  return names[static_cast<std::size_t>(what)];
}

std::int64_t trace_time_ns(std::chrono::steady_clock::time_point at) {
  using std::chrono::duration_cast;
  using std::chrono::nanoseconds;
  static const nanoseconds offset = duration_cast<nanoseconds>(std::chrono::system_clock::now().time_since_epoch()) -
                                    duration_cast<nanoseconds>(std::chrono::steady_clock::now().time_since_epoch());
  return (duration_cast<nanoseconds>(at.time_since_epoch()) + offset).count();
}

void rank_trace::append(const rank_trace& next) {
  spans.insert(spans.end(), next.spans.begin(), next.spans.end());
  blocks.insert(blocks.end(), next.blocks.begin(), next.blocks.end());
  memory.insert(memory.end(), next.memory.begin(), next.memory.end());
  dropped += next.dropped;
}

void trace_recorder::enter(block_phase stage, std::uint32_t step, int layer) {
  stage_ = stage;
  step_ = step;
  layer_ = static_cast<std::uint16_t>(layer);
}

void trace_recorder::did(activity what, clock::time_point begin, clock::time_point end) {
  waited(begin);
  add({what, stage_, step_, layer_, -1, trace_time_ns(begin), trace_time_ns(end)});
}

void trace_recorder::waits(int rank, clock::time_point since) {
  if (waiting_ && waiting_->rank == rank) return;
  waited(since);
  waiting_ = {rank, since};
}

void trace_recorder::waited(clock::time_point until) {
  if (!waiting_) return;
  const auto w = *std::exchange(waiting_, std::nullopt);
  if (until > w.since)
    add({activity::wait, stage_, step_, layer_, w.rank, trace_time_ns(w.since), trace_time_ns(until)});
}

void trace_recorder::sent(const block_key& key, rank_range targets, clock::time_point at) {
  add({trace_block::event_kind::sent, key, targets, trace_time_ns(at)});
}

void trace_recorder::arrived(const block_key& key, int at_rank, clock::time_point at) {
  add({trace_block::event_kind::arrived, key, {at_rank, at_rank + 1}, trace_time_ns(at)});
}

void trace_recorder::lent(std::size_t bytes, clock::time_point at) {
  if (has_room()) recorded_.memory.push_back({static_cast<std::int64_t>(bytes), trace_time_ns(at)});
}

rank_trace trace_recorder::take() { return std::exchange(recorded_, {}); }

void trace_recorder::add(trace_span span) {
  // A clock may tick coarsely: a span still has a length, since an arrow must find it, and leaves the next one its place.
  span.begin_ns = std::max(span.begin_ns, last_end_ns_);
  span.end_ns = std::max(span.end_ns, span.begin_ns + 1);
  last_end_ns_ = span.end_ns;
  auto& spans = recorded_.spans;
  if (!spans.empty()) {
    auto& last = spans.back();
    if (last.what == span.what && last.stage == span.stage && last.step == span.step && last.layer == span.layer &&
        last.waits_for == span.waits_for && span.begin_ns - last.end_ns <= gap_max.count()) {
      last.end_ns = span.end_ns;
      return;
    }
  }
  if (has_room()) spans.push_back(span);
}

void trace_recorder::add(const trace_block& b) {
  if (has_room()) recorded_.blocks.push_back(b);
}

bool trace_recorder::has_room() {
  if (recorded_.spans.size() + recorded_.blocks.size() + recorded_.memory.size() < limit_) return true;
  ++recorded_.dropped;
  return false;
}

}  // namespace baton
