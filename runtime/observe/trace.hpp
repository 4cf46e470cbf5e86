#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "runtime/transport/block.hpp"

namespace baton {

/// What a rank does at a moment: a phase of a layer, or nothing, because it waits for another rank's block.
enum class activity : std::uint8_t { project, compress, exchange, attend, feed_forward, wait };
inline constexpr std::size_t activity_count = 6;
std::string_view name_of(activity what);

/// When something was, in nanoseconds of std::chrono::system_clock. Derived from steady_clock with an offset that is taken once
/// per process: moments of one process never run backwards, and those of the processes of one machine line up.
std::int64_t trace_time_ns(std::chrono::steady_clock::time_point at);

/// A stretch of one rank's time.
struct trace_span {
  activity what = activity::project;
  block_phase stage = block_phase::prefill;
  std::uint32_t step = 0;  ///< as in block_key: query pieces, then new tokens
  std::uint16_t layer = 0;
  std::int32_t waits_for = -1;  ///< rank, where `what` is wait
  std::int64_t begin_ns = 0;
  std::int64_t end_ns = 0;  ///< after begin_ns

  bool operator==(const trace_span&) const = default;
};

/// A block that left its source for `targets`, or that one target has taken.
struct trace_block {
  enum class event_kind : std::uint8_t { sent, arrived };
  event_kind event = event_kind::sent;
  block_key key;
  rank_range targets;  ///< arrived: the one rank that took it
  std::int64_t at_ns = 0;

  bool operator==(const trace_block&) const = default;
};

/// How much of its device's memory for jobs was lent to passes and shards, of all jobs, when a rank looked: whenever it had taken or given
/// back some.
struct trace_memory {
  std::int64_t bytes = 0;
  std::int64_t at_ns = 0;

  bool operator==(const trace_memory&) const = default;
};

/// What one rank recorded.
struct rank_trace {
  std::vector<trace_span> spans;     ///< ascending, none overlaps another
  std::vector<trace_block> blocks;   ///< ascending
  std::vector<trace_memory> memory;  ///< ascending
  std::int64_t dropped = 0;          ///< of all these, those for which there was no room

  /// Adds what the rank recorded next.
  void append(const rank_trace& next);
  bool operator==(const rank_trace&) const = default;
};

/// Records what one rank does, within bounded memory. Belongs to the compute thread of the rank's device.
class trace_recorder {
 public:
  using clock = std::chrono::steady_clock;

  static constexpr std::size_t events_max = 200'000;
  /// Spans of one layer and activity that lie no further apart become one: the chunks of a phase.
  static constexpr std::chrono::nanoseconds gap_max = std::chrono::microseconds(20);

  /// Keeps at most `limit` entries, and counts the rest.
  explicit trace_recorder(std::size_t limit = events_max) : limit_(limit) {}

  /// What follows belongs to this layer.
  void enter(block_phase stage, std::uint32_t step, int layer);
  /// Spans come in the order of time. One that begins while the rank waits cuts the waiting.
  void did(activity what, clock::time_point begin, clock::time_point end);
  /// The rank waits for `rank` from `since` on, if it does not do so already.
  void waits(int rank, clock::time_point since);
  /// It does no more.
  void waited(clock::time_point until);
  void sent(const block_key& key, rank_range targets, clock::time_point at);
  void arrived(const block_key& key, int at_rank, clock::time_point at);
  void lent(std::size_t bytes, clock::time_point at);

  /// All of it so far; begins anew.
  [[nodiscard]] rank_trace take();

 private:
  struct waiting {
    int rank;
    clock::time_point since;
  };

  void add(trace_span span);
  void add(const trace_block& b);
  [[nodiscard]] bool has_room();

  const std::size_t limit_;
  block_phase stage_ = block_phase::prefill;
  std::uint32_t step_ = 0;
  std::uint16_t layer_ = 0;
  std::optional<waiting> waiting_;
  std::int64_t last_end_ns_ = 0;
  rank_trace recorded_;
};

}  // namespace baton
