#include "runtime/cluster/client_outbox.hpp"

#include <gtest/gtest.h>

namespace baton {
namespace {

client_update token(int index) { return answer_token{1, 0, index, index}; }
client_update progress(job_id job, int layer) { return job_progress{job, {{.job = job, .layer = layer}}}; }

TEST(client_outbox, sends_as_much_as_was_granted_and_in_order) {
  client_outbox outbox({.credit = 2});
  for (int i = 0; i < 5; ++i) outbox.put(token(i), 0);
  EXPECT_EQ(outbox.take(), (std::vector{token(0), token(1)}));
  EXPECT_TRUE(outbox.take().empty());
  EXPECT_EQ(outbox.waiting(), 3u);
  outbox.granted(2, 1);
  EXPECT_EQ(outbox.take(), (std::vector{token(2), token(3)}));
  outbox.granted(9, 1);
  EXPECT_EQ(outbox.take(), (std::vector{token(4)}));
}

TEST(client_outbox, without_credit_sends_everything_at_once) {
  client_outbox outbox({});
  for (int i = 0; i < 1000; ++i) outbox.put(token(i), 0);
  EXPECT_EQ(outbox.take().size(), 1000u);
  EXPECT_FALSE(outbox.stalled(1e9));
}

TEST(client_outbox, keeps_only_the_newest_progress_of_each_job_that_waits) {
  client_outbox outbox({.credit = 1});
  outbox.put(token(0), 0);
  static_cast<void>(outbox.take());
  for (int layer = 0; layer < 100; ++layer) {
    outbox.put(progress(1, layer), 0);
    outbox.put(progress(2, layer), 0);
  }
  outbox.granted(10, 0);
  EXPECT_EQ(outbox.take(), (std::vector{progress(1, 99), progress(2, 99)}));
}

TEST(client_outbox, notices_who_lets_something_wait_without_granting_anything) {
  client_outbox outbox({.credit = 1, .stall_s = 10});
  outbox.put(token(0), 100);
  static_cast<void>(outbox.take());
  EXPECT_FALSE(outbox.stalled(500)) << "nothing waits";
  outbox.put(token(1), 500);
  EXPECT_FALSE(outbox.stalled(509));
  EXPECT_TRUE(outbox.stalled(511));
  outbox.put(token(2), 510);
  EXPECT_TRUE(outbox.stalled(511)) << "what comes later is no excuse";
  outbox.excuse(5);
  EXPECT_FALSE(outbox.stalled(511));
  outbox.granted(1, 600);
  static_cast<void>(outbox.take());
  EXPECT_FALSE(outbox.stalled(609));
}

TEST(client_outbox, overflows_by_bytes_and_recovers) {
  client_outbox outbox({.credit = 1, .bytes_max = 10'000});
  chosen_units units{1, 0, 0, 1, std::vector<std::int32_t>(1000)};
  outbox.put(units, 0);
  EXPECT_FALSE(outbox.overflows());
  outbox.put(units, 0);
  outbox.put(units, 0);
  EXPECT_TRUE(outbox.overflows());
  outbox.granted(2, 0);
  EXPECT_EQ(outbox.take().size(), 3u);
  EXPECT_FALSE(outbox.overflows());
}

}  // namespace
}  // namespace baton
