#include "runtime/observe/trace.hpp"

#include <gtest/gtest.h>

namespace baton {
namespace {

using namespace std::chrono_literals;

constexpr block_key block_of(int layer, int source) {
  return {.job = 1, .layer = static_cast<std::uint16_t>(layer), .source = static_cast<std::uint16_t>(source)};
}

struct trace_recorder_test : testing::Test {
  trace_recorder recorder;
  const trace_recorder::clock::time_point start = trace_recorder::clock::now();

  trace_recorder::clock::time_point at(std::chrono::nanoseconds later) const { return start + later; }
  /// Since the start.
  std::int64_t since(std::int64_t at_ns) const { return at_ns - trace_time_ns(start); }
  void did(activity what, std::chrono::nanoseconds begin, std::chrono::nanoseconds end) {
    recorder.did(what, at(begin), at(end));
  }
};

TEST(trace_time, is_the_system_clock_and_keeps_distances) {
  const auto now = std::chrono::steady_clock::now();
  const auto system = std::chrono::system_clock::now();
  const auto apart = std::chrono::nanoseconds(trace_time_ns(now)) - std::chrono::nanoseconds(system.time_since_epoch());
  EXPECT_LT(std::chrono::abs(apart), 1h);
  EXPECT_EQ(trace_time_ns(now + 1234ns) - trace_time_ns(now), 1234);
}

TEST_F(trace_recorder_test, a_span_belongs_to_the_layer_that_was_entered_last) {
  recorder.enter(block_phase::decode, 7, 3);
  did(activity::attend, 1us, 5us);
  const auto trace = recorder.take();
  ASSERT_EQ(trace.spans.size(), 1u);
  const auto& span = trace.spans[0];
  EXPECT_EQ(span.what, activity::attend);
  EXPECT_EQ(span.stage, block_phase::decode);
  EXPECT_EQ(span.step, 7u);
  EXPECT_EQ(span.layer, 3);
  EXPECT_EQ(span.waits_for, -1);
  EXPECT_EQ(since(span.begin_ns), 1000);
  EXPECT_EQ(since(span.end_ns), 5000);
}

TEST_F(trace_recorder_test, chunks_of_a_phase_that_touch_become_one_span) {
  did(activity::project, 0us, 10us);
  did(activity::project, 30us, 40us);  // 20 us later
  did(activity::project, 61us, 70us);  // 21 us later
  did(activity::compress, 71us, 80us);
  did(activity::project, 81us, 90us);
  recorder.enter(block_phase::prefill, 0, 1);
  did(activity::project, 91us, 99us);
  const auto trace = recorder.take();
  ASSERT_EQ(trace.spans.size(), 5u);
  EXPECT_EQ(since(trace.spans[0].end_ns), 40000);
  EXPECT_EQ(since(trace.spans[1].begin_ns), 61000);
  EXPECT_EQ(trace.spans[2].what, activity::compress);
  EXPECT_EQ(trace.spans[4].layer, 1);
}

TEST_F(trace_recorder_test, waiting_ends_where_work_begins_and_names_whom_it_was_for) {
  recorder.waits(0, at(10us));
  recorder.waits(0, at(15us));  // looked again: still the same wait
  did(activity::exchange, 20us, 21us);
  recorder.waits(1, at(22us));
  recorder.waits(2, at(30us));
  recorder.waited(at(40us));
  recorder.waited(at(41us));  // it did not wait any more
  did(activity::attend, 50us, 60us);
  const auto spans = recorder.take().spans;
  const auto expect = [&](std::size_t i, activity what, int waits_for, std::int64_t begin_us, std::int64_t end_us) {
    EXPECT_EQ(spans[i].what, what) << i;
    EXPECT_EQ(spans[i].waits_for, waits_for) << i;
    EXPECT_EQ(since(spans[i].begin_ns), begin_us * 1000) << i;
    EXPECT_EQ(since(spans[i].end_ns), end_us * 1000) << i;
  };
  ASSERT_EQ(spans.size(), 5u);
  expect(0, activity::wait, 0, 10, 20);
  expect(1, activity::exchange, -1, 20, 21);
  expect(2, activity::wait, 1, 22, 30);
  expect(3, activity::wait, 2, 30, 40);
  expect(4, activity::attend, -1, 50, 60);
}

TEST_F(trace_recorder_test, spans_have_a_length_and_never_overlap_however_coarse_the_clock) {
  did(activity::exchange, 5us, 5us);
  did(activity::attend, 5us, 5us);
  did(activity::exchange, 4us, 6us);
  const auto spans = recorder.take().spans;
  ASSERT_EQ(spans.size(), 3u);
  for (std::size_t i = 0; i < spans.size(); ++i) {
    EXPECT_LT(spans[i].begin_ns, spans[i].end_ns);
    if (i > 0) {
      EXPECT_LE(spans[i - 1].end_ns, spans[i].begin_ns);
    }
  }
}

TEST_F(trace_recorder_test, blocks_are_noted_where_they_leave_and_where_they_arrive) {
  recorder.sent(block_of(2, 1), {2, 4}, at(1us));
  recorder.arrived(block_of(2, 0), 1, at(2us));
  const auto blocks = recorder.take().blocks;
  ASSERT_EQ(blocks.size(), 2u);
  EXPECT_EQ(blocks[0].event, trace_block::event_kind::sent);
  EXPECT_EQ(blocks[0].key, block_of(2, 1));
  EXPECT_EQ(blocks[0].targets, (rank_range{2, 4}));
  EXPECT_EQ(blocks[1].event, trace_block::event_kind::arrived);
  EXPECT_EQ(blocks[1].targets, (rank_range{1, 2}));
  EXPECT_EQ(since(blocks[1].at_ns), 2000);
}

TEST_F(trace_recorder_test, what_does_not_fit_is_counted) {
  trace_recorder small(3);
  small.did(activity::project, at(0us), at(1us));
  small.did(activity::attend, at(1us), at(2us));
  small.sent(block_of(0, 0), {1, 2}, at(3us));
  small.did(activity::exchange, at(3us), at(4us));
  small.arrived(block_of(0, 1), 0, at(5us));
  const auto trace = small.take();
  EXPECT_EQ(trace.spans.size(), 2u);
  EXPECT_EQ(trace.blocks.size(), 1u);
  EXPECT_EQ(trace.dropped, 2);
  small.did(activity::project, at(6us), at(7us));
  EXPECT_EQ(small.take().spans.size(), 1u) << "taking makes room";
}

TEST_F(trace_recorder_test, what_a_rank_recorded_next_is_added_behind) {
  did(activity::project, 0us, 1us);
  auto all = recorder.take();
  did(activity::attend, 2us, 3us);
  recorder.sent(block_of(0, 0), {1, 2}, at(3us));
  auto next = recorder.take();
  next.dropped = 4;
  all.append(next);
  EXPECT_EQ(all.spans.size(), 2u);
  EXPECT_EQ(all.spans[1].what, activity::attend);
  EXPECT_EQ(all.blocks.size(), 1u);
  EXPECT_EQ(all.dropped, 4);
}

}  // namespace
}  // namespace baton
