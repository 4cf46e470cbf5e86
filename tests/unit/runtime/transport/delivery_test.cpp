#include "runtime/transport/delivery.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <set>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace baton {
namespace {

using namespace std::chrono_literals;

const outbox::time start{};

message message_of(job_id job, std::size_t bytes = 0) {
  message m;
  m.kind = message_kind::direct;
  m.key.job = job;
  if (bytes > 0) {
    auto payload = std::make_shared<block>();
    payload->bytes.resize(bytes);
    m.payload = std::move(payload);
  }
  return m;
}

void acknowledge(outbox& box, const std::string& from, std::vector<std::uint64_t> deliveries) {
  box.acknowledged(from, deliveries);
}

TEST(outbox, numbers_count_from_one_for_each_receiver) {
  outbox box;
  EXPECT_EQ(box.post("a", message_of(1), start).delivery, 1u);
  EXPECT_EQ(box.post("a", message_of(1), start).delivery, 2u);
  EXPECT_EQ(box.post("b", message_of(1), start).delivery, 1u);
  EXPECT_EQ(box.retained(), 3u);
}

TEST(outbox, a_message_is_due_again_after_one_second_then_two_four_and_eight) {
  outbox box;
  static_cast<void>(box.post("a", message_of(1), start));
  auto now = start;
  for (const auto delay : {1s, 2s, 4s, 8s, 8s, 8s}) {
    EXPECT_TRUE(box.due(now + delay - 1ms).empty());
    now += delay;
    const auto due = box.due(now);
    ASSERT_EQ(due.size(), 1u);
    EXPECT_EQ(due[0].to, "a");
    EXPECT_EQ(due[0].what.delivery, 1u);
    EXPECT_EQ(due[0].what.key.job, 1u);
  }
}

TEST(outbox, an_acknowledged_message_is_never_due_again) {
  outbox box;
  static_cast<void>(box.post("a", message_of(1), start));
  static_cast<void>(box.post("a", message_of(2), start));
  static_cast<void>(box.post("b", message_of(3), start));
  acknowledge(box, "a", {1, 1, 77});
  acknowledge(box, "stranger", {1});
  const auto due = box.due(start + 1s);
  ASSERT_EQ(due.size(), 2u);
  EXPECT_EQ(due[0].what.key.job, 2u);
  EXPECT_EQ(due[1].what.key.job, 3u);
  acknowledge(box, "a", {2});
  acknowledge(box, "b", {1});
  EXPECT_EQ(box.retained(), 0u);
  EXPECT_TRUE(box.due(start + 100s).empty());
}

TEST(outbox, a_message_waits_longer_behind_megabytes_of_the_same_receiver) {
  outbox box;
  static_cast<void>(box.post("a", message_of(1, outbox::slow_bytes_per_s), start));
  static_cast<void>(box.post("a", message_of(2), start));
  static_cast<void>(box.post("b", message_of(3), start));
  auto due = box.due(start + 1s);
  ASSERT_EQ(due.size(), 1u);
  EXPECT_EQ(due[0].to, "b");
  EXPECT_EQ(box.due(start + 2s).size(), 2u);
  acknowledge(box, "a", {1});
  static_cast<void>(box.post("a", message_of(4), start + 3s));
  due = box.due(start + 4s);
  EXPECT_TRUE(std::any_of(due.begin(), due.end(), [](const auto& m) { return m.what.key.job == 4; }));
}

TEST(outbox, what_is_meant_for_a_forgotten_receiver_or_job_is_dropped) {
  outbox box;
  static_cast<void>(box.post("a", message_of(1), start));
  static_cast<void>(box.post("b", message_of(1), start));
  static_cast<void>(box.post("b", message_of(2), start));
  box.forget("a");
  EXPECT_EQ(box.retained(), 2u);
  box.forget_job(1);
  ASSERT_EQ(box.retained(), 1u);
  EXPECT_EQ(box.unacknowledged("b").at(0).key.job, 2u);
  EXPECT_TRUE(box.unacknowledged("a").empty());
  EXPECT_EQ(box.post("a", message_of(3), start).delivery, 2u) << "numbers of forgotten messages are not used again";
}

TEST(outbox, all_for_a_receiver_on_another_way_is_due_at_once_and_then_again_after_a_second) {
  outbox box;
  static_cast<void>(box.post("a", message_of(1), start));
  static_cast<void>(box.post("b", message_of(1), start));
  static_cast<void>(box.due(start + 1s));
  static_cast<void>(box.due(start + 3s));
  box.send_again("a", start + 4s);
  const auto again = box.due(start + 4s);
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].to, "a");
  EXPECT_EQ(again[0].what.delivery, 1u);
  EXPECT_TRUE(box.due(start + 4999ms).empty());
  EXPECT_EQ(box.due(start + 5s).size(), 1u);
}

TEST(inbox_filter, each_number_of_a_sender_comes_first_once) {
  inbox_filter filter;
  EXPECT_TRUE(filter.first_time("a", 1));
  EXPECT_FALSE(filter.first_time("a", 1));
  EXPECT_TRUE(filter.first_time("b", 1));
  EXPECT_TRUE(filter.first_time("a", 3));
  EXPECT_TRUE(filter.first_time("a", 2));
  EXPECT_FALSE(filter.first_time("a", 3));
}

TEST(inbox_filter, duplicates_are_acknowledged_too) {
  inbox_filter filter;
  static_cast<void>(filter.first_time("a", 1));
  static_cast<void>(filter.first_time("b", 5));
  EXPECT_EQ(filter.take_acknowledgements(),
            (std::map<std::string, std::vector<std::uint64_t>>{{"a", {1}}, {"b", {5}}}));
  static_cast<void>(filter.first_time("a", 1));
  EXPECT_EQ(filter.take_acknowledgements(), (std::map<std::string, std::vector<std::uint64_t>>{{"a", {1}}}));
  EXPECT_TRUE(filter.take_acknowledgements().empty());
}

TEST(inbox_filter, a_forgotten_sender_is_owed_nothing) {
  inbox_filter filter;
  static_cast<void>(filter.first_time("a", 1));
  filter.forget("a");
  EXPECT_TRUE(filter.take_acknowledgements().empty());
}

RC_GTEST_PROP(inbox_filter, agrees_with_a_set_in_any_order, ()) {
  const auto numbers = *rc::gen::container<std::vector<std::uint64_t>>(rc::gen::inRange<std::uint64_t>(1, 40));
  inbox_filter filter;
  std::set<std::uint64_t> seen;
  for (const auto number : numbers) RC_ASSERT(filter.first_time("a", number) == seen.insert(number).second);
}

TEST(acknowledgement, numbers_come_back_as_they_went) {
  const std::vector<std::uint64_t> numbers{1, 2, 0x0123456789abcdef, ~std::uint64_t{0}};
  const auto m = acknowledgement_of(numbers);
  EXPECT_EQ(m.kind, message_kind::acknowledge);
  EXPECT_EQ(m.delivery, 0u);
  EXPECT_EQ(m.payload->bytes[16], std::byte{0xef}) << "little-endian";
  EXPECT_EQ(acknowledged_by(m), numbers);
}

TEST(acknowledgement, what_is_damaged_or_something_else_acknowledges_nothing) {
  const auto good = acknowledgement_of(std::vector<std::uint64_t>{7, 8});
  auto damaged = good;
  auto bytes = *good.payload;
  bytes.bytes[3] ^= std::byte{1};
  damaged.payload = std::make_shared<block>(bytes);
  EXPECT_FALSE(acknowledged_by(damaged));
  auto cut = *good.payload;
  cut.bytes.resize(11);
  cut.checksum = checksum_of(cut.bytes);
  damaged.payload = std::make_shared<block>(cut);
  EXPECT_FALSE(acknowledged_by(damaged));
  damaged.payload = nullptr;
  EXPECT_FALSE(acknowledged_by(damaged));
  auto other = good;
  other.kind = message_kind::direct;
  EXPECT_FALSE(acknowledged_by(other));
}

TEST(delivery, everything_arrives_once_over_a_link_that_loses_half_of_it) {
  std::mt19937 random(7);
  outbox box;
  inbox_filter filter;
  std::vector<std::uint64_t> arrived;
  const auto lost = [&] { return random() % 2 == 0; };
  const auto travel = [&](const message& m) {
    if (!lost() && filter.first_time("sender", m.delivery)) arrived.push_back(m.delivery);
  };
  for (int i = 0; i < 200; ++i) travel(box.post("receiver", message_of(1), start));
  for (auto now = start; box.retained() > 0; now += 50ms) {
    ASSERT_LT(now - start, 1h);
    for (const auto& again : box.due(now)) travel(again.what);
    for (const auto& [to, numbers] : filter.take_acknowledgements()) {
      if (!lost()) box.acknowledged("receiver", acknowledged_by(acknowledgement_of(numbers)).value());
    }
  }
  std::sort(arrived.begin(), arrived.end());
  std::vector<std::uint64_t> all(200);
  std::iota(all.begin(), all.end(), 1);
  EXPECT_EQ(arrived, all);
}

}  // namespace
}  // namespace baton
