#include "runtime/observe/trace_file.hpp"

#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "kernels/fault.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using nlohmann::json;

constexpr std::int64_t base_ns = 1'700'000'000'000'000'123;

job_plan plan_of(int ranks, const std::string& device = "cpu0") {
  const std::vector<device_view> devices{{"local", device, "avx2"}};
  return make_job_plan({.document_tokens = 800, .query_tokens = 2, .options = {.strategy = "star", .ranks = ranks}},
                       devices);
}

trace_span span_of(activity what, std::int64_t begin_ns, std::int64_t end_ns, int layer = 0, int waits_for = -1) {
  return {what,
          block_phase::prefill,
          0,
          static_cast<std::uint16_t>(layer),
          waits_for,
          base_ns + begin_ns,
          base_ns + end_ns};
}

trace_block block_of(trace_block::event_kind event, int source, rank_range targets, std::int64_t at_ns) {
  return {event, {.job = 1, .source = static_cast<std::uint16_t>(source)}, targets, base_ns + at_ns};
}

constexpr auto sent = trace_block::event_kind::sent;
constexpr auto arrived = trace_block::event_kind::arrived;

json written(const job_plan& plan, const std::vector<rank_trace>& ranks) {
  std::ostringstream out;
  write_trace(out, plan, ranks);
  return json::parse(out.str());
}

std::vector<json> events_of(const json& file, const std::string& kind) {
  std::vector<json> events;
  for (const auto& event : file.at("traceEvents")) {
    if (event.at("ph") == kind) events.push_back(event);
  }
  return events;
}

TEST(trace_file, names_a_track_for_each_rank_in_order) {
  const auto file = written(plan_of(3, "cpu \"0\" \xff"), std::vector<rank_trace>(3));
  std::map<int, std::string> names;
  std::map<int, int> places;
  for (const auto& event : events_of(file, "M")) {
    EXPECT_EQ(event.at("pid"), 1);
    if (event.at("name") == "thread_name") names[event.at("tid")] = event.at("args").at("name");
    if (event.at("name") == "thread_sort_index") places[event.at("tid")] = event.at("args").at("sort_index");
  }
  ASSERT_EQ(names.size(), 3u);
  EXPECT_FALSE(names.contains(1)) << "the process's own thread would be shown first";
  EXPECT_EQ(names.at(4), "rank 2 (local/cpu \"0\" \xEF\xBF\xBD)");
  EXPECT_EQ(places, (std::map<int, int>{{2, 0}, {3, 1}, {4, 2}}));
}

TEST(trace_file, spans_become_complete_events_in_microseconds_from_the_first_one) {
  std::vector<rank_trace> ranks(2);
  ranks[0].spans = {span_of(activity::project, 500, 2500, 3)};
  ranks[1].spans = {span_of(activity::wait, 0, 10'000'001, 3, 0)};
  ranks[1].dropped = 5;
  auto answering = span_of(activity::attend, 20'000'000, 20'000'001, 1);
  answering.stage = block_phase::query;
  answering.step = 2;
  ranks[1].spans.push_back(answering);
  const auto file = written(plan_of(2), ranks);
  const auto events = events_of(file, "X");
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0], (json{{"ph", "X"},
                             {"pid", 1},
                             {"tid", 3},
                             {"ts", 0.0},
                             {"dur", 10000.001},
                             {"name", "wait"},
                             {"cat", "prefill"},
                             {"args", {{"layer", 3}, {"for rank", 0}}}}));
  EXPECT_EQ(events[1].at("ts"), 0.5);
  EXPECT_EQ(events[1].at("dur"), 2.0);
  EXPECT_EQ(events[1].at("name"), "project");
  EXPECT_EQ(events[2].at("cat"), "query");
  EXPECT_EQ(events[2].at("args"), (json{{"layer", 1}, {"step", 2}}));
  EXPECT_EQ(file.at("otherData").at("begin_unix_us"), base_ns / 1000);
  EXPECT_EQ(file.at("otherData").at("dropped"), 5);
}

TEST(trace_file, a_block_is_an_arrow_to_each_rank_that_took_it) {
  std::vector<rank_trace> ranks(3);
  ranks[0].spans = {span_of(activity::exchange, 0, 100)};
  ranks[0].blocks = {block_of(sent, 0, {1, 3}, 50)};
  // Taken at the last moment of one slice, and in the middle of another.
  ranks[1].spans = {span_of(activity::exchange, 200, 300), span_of(activity::attend, 310, 400)};
  ranks[1].blocks = {block_of(arrived, 0, {1, 2}, 300)};
  ranks[2].spans = {span_of(activity::exchange, 500, 600)};
  ranks[2].blocks = {block_of(arrived, 0, {2, 3}, 550)};
  const auto file = written(plan_of(3), ranks);
  const auto starts = events_of(file, "s");
  const auto ends = events_of(file, "f");
  ASSERT_EQ(starts.size(), 2u);
  ASSERT_EQ(ends.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(starts[i].at("tid"), 2);
    EXPECT_EQ(starts[i].at("ts"), 0.05);
    EXPECT_EQ(ends[i].at("bp"), "e");
    EXPECT_EQ(ends[i].at("tid"), 3 + static_cast<int>(i));
    EXPECT_EQ(ends[i].at("args").at("target"), 1 + static_cast<int>(i));
    for (const char* key : {"id", "name", "cat", "args"}) EXPECT_EQ(starts[i].at(key), ends[i].at(key)) << key;
  }
  EXPECT_NE(starts[0].at("id"), starts[1].at("id"));
  EXPECT_EQ(ends[0].at("ts"), 0.299) << "inside the slice that took it";
  EXPECT_EQ(ends[1].at("ts"), 0.55);
}

TEST(trace_file, an_arrow_that_would_touch_no_slice_at_one_end_is_left_out) {
  std::vector<rank_trace> ranks(2);
  ranks[0].spans = {span_of(activity::exchange, 0, 100)};
  ranks[0].blocks = {block_of(sent, 0, {1, 2}, 50)};
  ranks[1].spans = {span_of(activity::exchange, 200, 300)};
  const auto arrows = [&](std::int64_t arrived_ns) {
    ranks[1].blocks = {block_of(arrived, 0, {1, 2}, arrived_ns)};
    return events_of(written(plan_of(2), ranks), "s").size();
  };
  EXPECT_EQ(arrows(199), 0u);
  EXPECT_EQ(arrows(200), 1u);
  EXPECT_EQ(arrows(301), 0u);
  ranks[1].blocks.clear();
  EXPECT_TRUE(events_of(written(plan_of(2), ranks), "s").empty()) << "nobody took it";
}

TEST(trace_file, events_ascend_and_a_slice_comes_before_its_arrow) {
  std::vector<rank_trace> ranks(2);
  ranks[0].spans = {span_of(activity::project, 0, 10), span_of(activity::exchange, 20, 40)};
  ranks[0].blocks = {block_of(sent, 0, {1, 2}, 20)};
  ranks[1].spans = {span_of(activity::project, 5, 15), span_of(activity::exchange, 30, 40)};
  ranks[1].blocks = {block_of(arrived, 0, {1, 2}, 40)};
  const auto file = written(plan_of(2), ranks);
  std::string kinds;
  double last = -1;
  for (const auto& event : file.at("traceEvents")) {
    if (event.at("ph") == "M") continue;
    kinds += event.at("ph");
    EXPECT_GE(event.at("ts").get<double>(), last);
    last = event.at("ts");
  }
  EXPECT_EQ(kinds, "XXXsXf");
}

TEST(trace_file, a_counter_tells_the_bytes_of_blocks_that_were_sent_and_not_yet_taken) {
  const std::vector<device_view> devices{{"n", "d", ""}};
  job_options options;
  options.ranks = 3;
  options.anchor_tokens = 20;
  options.passing_tokens = 10;
  const auto plan = make_job_plan({.document_tokens = 800, .query_tokens = 2, .options = options}, devices);
  std::vector<rank_trace> ranks(3);
  ranks[0].spans = {span_of(activity::exchange, 0, 100)};
  ranks[0].blocks = {block_of(sent, 0, {1, 3}, 50)};
  ranks[1].blocks = {block_of(arrived, 0, {1, 2}, 300)};
  ranks[2].blocks = {block_of(arrived, 0, {2, 3}, 20)};  // by a clock that is a little behind
  std::ostringstream out;
  write_trace(out, plan, ranks, 8);
  const auto counters = events_of(json::parse(out.str()), "C");
  ASSERT_EQ(counters.size(), 2u);
  EXPECT_EQ(counters[0],
            (json{{"ph", "C"}, {"pid", 1}, {"ts", 0.05}, {"name", "blocks in flight"}, {"args", {{"bytes", 80}}}}));
  EXPECT_EQ(counters[1].at("ts"), 0.3);
  EXPECT_EQ(counters[1].at("args").at("bytes"), 0);
  EXPECT_TRUE(events_of(written(plan, ranks), "C").empty());
}

TEST(trace_file, a_counter_of_each_device_tells_its_memory) {
  auto plan = plan_of(3);
  plan.shards[2].device = "cpu1";
  std::vector<rank_trace> ranks(3);
  ranks[0].memory = {{100, base_ns}, {50, base_ns + 4000}};
  ranks[1].memory = {{300, base_ns + 1000}};
  ranks[2].memory = {{7, base_ns + 2000}};
  std::vector<std::tuple<std::string, double, std::int64_t>> seen;
  for (const auto& event : events_of(written(plan, ranks), "C"))
    seen.emplace_back(event.at("name"), event.at("ts"), event.at("args").at("bytes"));
  EXPECT_EQ(seen, (std::vector<std::tuple<std::string, double, std::int64_t>>{{"memory of local/cpu0", 0, 100},
                                                                              {"memory of local/cpu0", 1, 300},
                                                                              {"memory of local/cpu1", 2, 7},
                                                                              {"memory of local/cpu0", 4, 50}}));
}

TEST(trace_file, a_trace_of_nothing_is_valid) {
  EXPECT_TRUE(events_of(written(plan_of(2), std::vector<rank_trace>(2)), "X").empty());
}

TEST(trace_file, a_file_that_cannot_be_written_is_named) {
  const temporary_directory folder;
  const auto path = folder.path() / "missing" / "trace.json";
  try {
    write_trace(path, plan_of(1), std::vector<rank_trace>(1));
    FAIL();
  } catch (const fault& why) {
    EXPECT_EQ(why.code(), fault_code::bad_input);
    EXPECT_EQ(why.where(), path.string());
  }
  write_trace(folder.path() / "trace.json", plan_of(1), std::vector<rank_trace>(1));
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "trace.json"));
}

}  // namespace
}  // namespace baton
