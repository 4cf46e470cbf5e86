#include "runtime/transport/detours.hpp"

#include <cstring>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/transport/message_header.hpp"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::shared_ptr<const block> block_of(std::size_t bytes) {
  auto b = std::make_shared<block>();
  b->bytes.assign(bytes, std::byte{5});
  b->checksum = checksum_of(b->bytes);
  return b;
}

message direct(job_id job, std::size_t bytes) {
  return {.kind = message_kind::direct,
          .delivery = 17,
          .key = {.job = job,
                  .phase = block_phase::query,
                  .question = 3,
                  .step = 4,
                  .layer = 5,
                  .source = 6,
                  .part = 7,
                  .attempt = 8},
          .targets = {1, 9},
          .payload = bytes == 0 ? nullptr : block_of(bytes)};
}

TEST(carry, a_message_comes_out_as_it_went_in) {
  for (const std::size_t bytes : std::vector<std::size_t>{0, 1, 5000}) {
    const auto carry = carry_of("from here", "to there", direct(2, bytes)).value();
    EXPECT_EQ(carry.kind, message_kind::carry);
    EXPECT_TRUE(is_intact(*carry.payload));
    const auto carried = read_carry(carry).value();
    EXPECT_EQ(carried.from, "from here");
    EXPECT_EQ(carried.to, "to there");
    const auto m = opened(carried).value();
    const auto sent = direct(2, bytes);
    EXPECT_EQ(m.kind, sent.kind);
    EXPECT_EQ(m.delivery, sent.delivery);
    EXPECT_EQ(m.key, sent.key);
    EXPECT_EQ(m.key.attempt, sent.key.attempt);
    EXPECT_EQ(m.targets, sent.targets);
    ASSERT_EQ(m.payload != nullptr, bytes > 0);
    if (bytes == 0) continue;
    EXPECT_EQ(m.payload->bytes, sent.payload->bytes);
    EXPECT_EQ(m.payload->checksum, sent.payload->checksum);
  }
}

TEST(carry, no_bytes_that_are_cut_short_or_changed_are_read_past_their_end) {
  const auto carry = carry_of("from", "to", direct(2, 40)).value();
  const auto& whole = carry.payload->bytes;
  const auto read = [&](block_bytes bytes) {
    auto b = std::make_shared<block>();
    b->bytes = std::move(bytes);
    message m{.kind = message_kind::carry, .payload = b};
    const auto carried = read_carry(m);
    return carried && opened(*carried).has_value();
  };
  EXPECT_TRUE(read(whole));
  for (std::size_t length = 0; length < whole.size(); ++length)
    EXPECT_FALSE(read({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length)})) << length;
  std::mt19937 random(3);
  for (int i = 0; i < 20'000; ++i) {
    auto bytes = whole;
    for (int changed = 0; changed < 3; ++changed) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    static_cast<void>(read(std::move(bytes)));
  }
}

TEST(carry, none_is_carried_within_another) {
  const auto inner = carry_of("a", "b", direct(1, 10)).value();
  const auto outer = carry_of("a", "b", inner).value();
  EXPECT_FALSE(read_carry(outer));
}

TEST(carried_bytes, are_bounded_and_come_back_when_nobody_has_the_block_any_more) {
  const auto bytes = std::make_shared<carried_bytes>();
  constexpr auto half = static_cast<std::size_t>(carried_bytes::bytes_max) / 2;
  auto first = bytes->admit(block_of(half));
  auto second = bytes->admit(block_of(half));
  ASSERT_TRUE(first && second);
  EXPECT_EQ(bytes->under_way(), carried_bytes::bytes_max);
  EXPECT_EQ(bytes->admit(block_of(2000)), nullptr);
  EXPECT_NE(bytes->admit(block_of(8)), nullptr) << "an acknowledgement";
  second.reset();
  EXPECT_EQ(bytes->under_way(), carried_bytes::bytes_max / 2);
  EXPECT_NE(bytes->admit(block_of(2000)), nullptr);
  first.reset();
  EXPECT_EQ(bytes->under_way(), 0);
}

TEST(carried_bytes, a_block_larger_than_all_room_goes_alone) {
  const auto bytes = std::make_shared<carried_bytes>();
  auto large = bytes->admit(block_of(static_cast<std::size_t>(carried_bytes::bytes_max) + 1));
  ASSERT_TRUE(large);
  EXPECT_EQ(bytes->admit(block_of(2000)), nullptr);
  large.reset();
  EXPECT_NE(bytes->admit(block_of(2000)), nullptr);
}

TEST(detours, a_message_goes_as_its_jobs_does_and_an_acknowledgement_as_any_jobs) {
  detours ways;
  EXPECT_THAT(ways.lead(1, {{"far", "between"}}), ElementsAre("far"));
  EXPECT_THAT(ways.lead(1, {{"far", "between"}}), IsEmpty()) << "nothing new";
  EXPECT_EQ(*ways.way_to("far", direct(1, 0)), "between");
  EXPECT_EQ(ways.way_to("near", direct(1, 0)), nullptr);
  EXPECT_EQ(ways.way_to("far", direct(2, 0)), nullptr);
  EXPECT_EQ(*ways.way_to("far", {.kind = message_kind::acknowledge}), "between");
  EXPECT_THAT(ways.lead(1, {{"far", "another"}, {"farther", "between"}}),
              testing::UnorderedElementsAre("far", "farther"));
  EXPECT_EQ(*ways.way_to("far", direct(1, 0)), "another");
  EXPECT_THAT(ways.lead(1, {}), testing::UnorderedElementsAre("far", "farther"));
  EXPECT_EQ(ways.way_to("far", direct(1, 0)), nullptr);
  static_cast<void>(ways.lead(1, {{"far", "between"}}));
  ways.forget_job(1);
  EXPECT_EQ(ways.way_to("far", direct(1, 0)), nullptr);
}

TEST(detours, who_is_in_between_passes_on_what_its_jobs_senders_say_themselves) {
  detours ways;
  const std::vector<detour> all{{"one", "other", "here"}, {"x", "here", "y"}};
  EXPECT_THAT(ways.lead_relay(1, "here", all), ElementsAre("x"));
  const auto from_one = read_carry(carry_of("one's worker", "other's worker", direct(1, 0)).value()).value();
  EXPECT_TRUE(ways.passes_on("one's worker", from_one));
  EXPECT_FALSE(ways.passes_on("a stranger", from_one)) << "nobody speaks for somebody else";
  EXPECT_FALSE(ways.passes_on("one", read_carry(carry_of("one", "other", direct(2, 0)).value()).value()));
  message acknowledgement{.kind = message_kind::acknowledge};
  EXPECT_TRUE(ways.passes_on("one", read_carry(carry_of("one", "other", acknowledgement).value()).value()));
  ways.forget_job(1);
  EXPECT_FALSE(ways.passes_on("one's worker", from_one));
  EXPECT_FALSE(ways.passes_on("one", read_carry(carry_of("one", "other", acknowledgement).value()).value()));
  message probe{.kind = message_kind::probe, .key = {.job = 1}};
  EXPECT_TRUE(ways.passes_on("one", read_carry(carry_of("one", "other", probe).value()).value()))
      << "ways are looked for first";
}

TEST(detours, somebody_elses_words_are_heard_only_on_the_way_that_was_agreed_on) {
  detours ways;
  static_cast<void>(ways.lead(1, {{"far", "between"}}));
  const auto from_far = read_carry(carry_of("far", "here", direct(1, 0)).value()).value();
  EXPECT_TRUE(ways.comes_by("between", from_far));
  EXPECT_FALSE(ways.comes_by("another", from_far));
  EXPECT_FALSE(ways.comes_by("between", read_carry(carry_of("near", "here", direct(1, 0)).value()).value()));
  EXPECT_FALSE(ways.comes_by("between", read_carry(carry_of("far", "here", direct(2, 0)).value()).value()));
}

}  // namespace
}  // namespace baton
