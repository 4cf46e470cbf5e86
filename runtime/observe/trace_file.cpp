#include "runtime/observe/trace_file.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "kernels/fault.hpp"

namespace baton {
namespace {

constexpr int process = 1;
/// A thread that has its process's number is shown first, whatever its rank.
int thread_of(int rank) { return process + 1 + rank; }

std::string_view name_of(block_phase stage) {
  constexpr std::array<std::string_view, 3> names{"prefill", "query", "decode"};
  return names[static_cast<std::size_t>(stage)];
}

std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

/// An event of the file but for its time.
struct timed_event {
  std::int64_t at_ns = 0;
  std::string text;
};

/// Nanoseconds as microseconds, exactly.
std::string microseconds(std::int64_t ns) { return fmt::format("{}.{:03}", ns / 1000, ns % 1000); }

timed_event slice_of(const trace_span& span, int rank) {
  std::string arguments = fmt::format(R"("layer":{})", span.layer);
  if (span.stage != block_phase::prefill) arguments += fmt::format(R"(,"step":{})", span.step);
  if (span.what == activity::wait) arguments += fmt::format(R"(,"for rank":{})", span.waits_for);
  return {span.begin_ns, fmt::format(R"("ph":"X","pid":{},"tid":{},"name":"{}","cat":"{}","dur":{},"args":{{{}}})",
                                     process, thread_of(rank), name_of(span.what), name_of(span.stage),
                                     microseconds(span.end_ns - span.begin_ns), arguments)};
}

/// The moment at which an arrow touches the slice that a rank was in, or nothing where it was in none: then an arrow would
/// end anywhere.
std::optional<std::int64_t> inside_slice(std::span<const trace_span> spans, std::int64_t at_ns) {
  const auto next = std::ranges::upper_bound(spans, at_ns, {}, &trace_span::begin_ns);
  if (next == spans.begin()) return {};
  const auto& span = *std::prev(next);
  if (at_ns > span.end_ns) return {};
  return std::min(at_ns, span.end_ns - 1);
}

/// Both ends of every block's way to each of its targets.
void add_flows(std::span<const rank_trace> ranks, std::vector<timed_event>& events) {
  std::map<std::pair<block_key, int>, std::int64_t> arrivals;
  for (const auto& rank : ranks) {
    for (const auto& b : rank.blocks) {
      if (b.event == trace_block::event_kind::arrived) arrivals.emplace(std::pair(b.key, b.targets.first), b.at_ns);
    }
  }
  std::int64_t flow = 0;
  for (std::size_t source = 0; source < ranks.size(); ++source) {
    for (const auto& b : ranks[source].blocks) {
      if (b.event != trace_block::event_kind::sent) continue;
      const auto leaves = inside_slice(ranks[source].spans, b.at_ns);
      if (!leaves) continue;
      for (auto at = arrivals.lower_bound({b.key, b.targets.first});
           at != arrivals.end() && at->first.first == b.key && at->first.second < b.targets.last; ++at) {
        const int target = at->first.second;
        if (static_cast<std::size_t>(target) >= ranks.size()) continue;
        const auto comes = inside_slice(ranks[static_cast<std::size_t>(target)].spans, at->second);
        if (!comes) continue;
        const auto end = [&](std::string_view kind, int rank) {
          return fmt::format(R"("ph":{},"id":{},"pid":{},"tid":{},"name":"block","cat":"{}",)"
                             R"("args":{{"layer":{},"step":{},"source":{},"target":{}}})",
                             kind, flow, process, thread_of(rank), name_of(b.key.phase), b.key.layer, b.key.step,
                             source, target);
        };
        events.push_back({*leaves, end(R"("s")", static_cast<int>(source))});
        events.push_back({*comes, end(R"("f","bp":"e")", target)});
        ++flow;
      }
    }
  }
}

/// How much of the compressed blocks is under way: it grows when a block is sent, and falls when a target has taken its copy.
void add_bytes_in_flight(const job_plan& plan, std::span<const rank_trace> ranks, std::int64_t unit_bytes,
                         std::vector<timed_event>& events) {
  std::map<std::pair<block_key, int>, std::int64_t> sent;
  for (const auto& rank : ranks) {
    for (const auto& b : rank.blocks) {
      if (b.event != trace_block::event_kind::sent || b.key.phase != block_phase::prefill) continue;
      for (int target = b.targets.first; target < b.targets.last; ++target)
        sent.emplace(std::pair(b.key, target), b.at_ns);
    }
  }
  std::vector<std::pair<std::int64_t, std::int64_t>> changes;  // at, bytes
  for (const auto& rank : ranks) {
    for (const auto& b : rank.blocks) {
      if (b.event != trace_block::event_kind::arrived) continue;
      const auto left = sent.find({b.key, b.targets.first});
      const auto source = static_cast<std::size_t>(b.key.source);
      if (left == sent.end() || source >= plan.shards.size()) continue;
      const std::int64_t bytes = plan.shards[source].compressed_units * unit_bytes;
      changes.emplace_back(left->second, bytes);
      // Clocks of two processes may be a little apart.
      changes.emplace_back(std::max(b.at_ns, left->second), -bytes);
    }
  }
  std::ranges::stable_sort(changes, {}, &std::pair<std::int64_t, std::int64_t>::first);
  std::int64_t in_flight = 0;
  for (std::size_t i = 0; i < changes.size(); ++i) {
    in_flight += changes[i].second;
    if (i + 1 < changes.size() && changes[i + 1].first == changes[i].first) continue;
    events.push_back(
        {changes[i].first,
         fmt::format(R"("ph":"C","pid":{},"name":"blocks in flight","args":{{"bytes":{}}})", process, in_flight)});
  }
}

/// What a device has lent of its memory for jobs, as its ranks saw it. Two jobs of one device show in each other's traces.
void add_memory(const job_plan& plan, std::span<const rank_trace> ranks, std::vector<timed_event>& events) {
  for (const auto& shard : plan.shards) {
    const auto rank = static_cast<std::size_t>(shard.rank);
    if (rank >= ranks.size()) continue;
    const auto name = quoted(fmt::format("memory of {}/{}", shard.node, shard.device));
    for (const auto& m : ranks[rank].memory) {
      events.push_back(
          {m.at_ns, fmt::format(R"("ph":"C","pid":{},"name":{},"args":{{"bytes":{}}})", process, name, m.bytes)});
    }
  }
}

}  // namespace

void write_trace(std::ostream& out, const job_plan& plan, std::span<const rank_trace> ranks, std::int64_t unit_bytes) {
  // Slices before arrows: at one moment a slice must be open before an arrow can be fixed to it.
  std::vector<timed_event> events;
  std::int64_t dropped = 0;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    for (const auto& span : ranks[rank].spans) events.push_back(slice_of(span, static_cast<int>(rank)));
    dropped += ranks[rank].dropped;
  }
  add_flows(ranks, events);
  if (unit_bytes > 0) add_bytes_in_flight(plan, ranks, unit_bytes, events);
  add_memory(plan, ranks, events);
  std::ranges::stable_sort(events, {}, &timed_event::at_ns);
  const std::int64_t begin_ns = events.empty() ? 0 : events.front().at_ns;

  out << fmt::format(
      "{{\n\"displayTimeUnit\":\"ms\",\n\"otherData\":{{\"strategy\":{},\"ranks\":{},\"document_tokens\":{},"
      "\"begin_unix_us\":{},\"dropped\":{}}},\n\"traceEvents\":[\n",
      quoted(plan.strategy), plan.ranks(), plan.document_tokens, begin_ns / 1000, dropped);
  out << fmt::format(R"({{"ph":"M","pid":{},"name":"process_name","args":{{"name":{}}}}})", process,
                     quoted(fmt::format("baton, {} on {} ranks", plan.strategy, plan.ranks())));
  for (const auto& shard : plan.shards) {
    out << fmt::format(
        ",\n"
        R"({{"ph":"M","pid":{},"tid":{},"name":"thread_name","args":{{"name":{}}}}})",
        process, thread_of(shard.rank), quoted(fmt::format("rank {} ({}/{})", shard.rank, shard.node, shard.device)));
    out << fmt::format(
        ",\n"
        R"({{"ph":"M","pid":{},"tid":{},"name":"thread_sort_index","args":{{"sort_index":{}}}}})",
        process, thread_of(shard.rank), shard.rank);
  }
  for (const auto& event : events)
    out << fmt::format(
        ",\n"
        R"({{"ts":{},{}}})",
        microseconds(event.at_ns - begin_ns), event.text);
  out << "\n]}\n";
}

void write_trace(const std::filesystem::path& path, const job_plan& plan, std::span<const rank_trace> ranks,
                 std::int64_t unit_bytes) {
  std::ofstream file(path, std::ios::binary);
  write_trace(file, plan, ranks, unit_bytes);
  if (!file.flush()) throw fault(fault_code::bad_input, "cannot be written", path.string());
}

}  // namespace baton
