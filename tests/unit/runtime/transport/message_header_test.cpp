#include "runtime/transport/message_header.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

const std::vector<std::byte>& place() {
  static const std::vector<std::byte> bytes(80, std::byte{0x5a});
  return bytes;
}

message_header drawn_header(std::span<const std::byte> address) {
  using rc::gen::arbitrary;
  message_header h;
  h.sender = *rc::gen::suchThat(arbitrary<instance_id>(), [](instance_id id) { return id != 0; });
  h.connection = *arbitrary<std::uint32_t>();
  h.hello = *arbitrary<bool>();
  h.what.kind = static_cast<message_kind>(*rc::gen::inRange(0, 9));
  h.what.delivery = *arbitrary<std::uint64_t>();
  h.what.key.job = *arbitrary<job_id>();
  h.what.key.phase = static_cast<block_phase>(*rc::gen::inRange(0, 3));
  h.what.key.question = *arbitrary<std::uint32_t>();
  h.what.key.step = *arbitrary<std::uint32_t>();
  h.what.key.layer = *arbitrary<std::uint16_t>();
  h.what.key.source = *arbitrary<std::uint16_t>();
  h.what.key.part = *arbitrary<std::uint16_t>();
  h.what.key.attempt = *arbitrary<std::uint32_t>();
  h.what.targets = {*rc::gen::inRange(0, target_ranks_max + 1), *rc::gen::inRange(0, target_ranks_max + 1)};
  h.has_payload = *arbitrary<bool>();
  if (h.has_payload) h.payload_bytes = *rc::gen::inRange<std::uint64_t>(0, payload_bytes_max + 1);
  h.payload_checksum = *arbitrary<std::uint64_t>();
  if (*arbitrary<bool>()) h.sender_address = address;
  return h;
}

void expect_equal(const message_header& a, const message_header& b) {
  EXPECT_EQ(a.sender, b.sender);
  EXPECT_EQ(a.connection, b.connection);
  EXPECT_EQ(a.hello, b.hello);
  EXPECT_EQ(a.what.kind, b.what.kind);
  EXPECT_EQ(a.what.delivery, b.what.delivery);
  EXPECT_EQ(a.what.key, b.what.key);
  EXPECT_EQ(a.what.key.attempt, b.what.key.attempt);
  EXPECT_EQ(a.what.targets, b.what.targets);
  EXPECT_EQ(a.has_payload, b.has_payload);
  EXPECT_EQ(a.payload_bytes, b.payload_bytes);
  EXPECT_EQ(a.payload_checksum, b.payload_checksum);
  EXPECT_TRUE(
      std::equal(a.sender_address.begin(), a.sender_address.end(), b.sender_address.begin(), b.sender_address.end()));
}

RC_GTEST_PROP(message_header, reads_what_was_written, ()) {
  const auto header = drawn_header(place());
  const auto bytes = write_header(header);
  const auto read = read_header(bytes);
  RC_ASSERT(read.has_value());
  expect_equal(*read, header);
}

RC_GTEST_PROP(message_header, takes_no_bytes_that_are_cut_off, ()) {
  const auto bytes = write_header(drawn_header({}));
  const auto length = *rc::gen::inRange<std::size_t>(0, bytes.size());
  RC_ASSERT(!read_header(std::span(bytes).first(length)).has_value());
}

RC_GTEST_PROP(message_header, is_within_bounds_whatever_the_bytes_are, ()) {
  auto bytes = write_header(drawn_header(place()));
  for (int changes = *rc::gen::inRange(1, 6); changes > 0; --changes) {
    bytes[*rc::gen::inRange<std::size_t>(4, bytes.size())] = static_cast<std::byte>(*rc::gen::inRange(0, 256));
  }
  const auto read = read_header(bytes);
  if (!read) return;
  RC_ASSERT(read->sender != 0U);
  RC_ASSERT(read->what.kind <= message_kind::echo);
  RC_ASSERT(read->what.key.phase <= block_phase::decode);
  RC_ASSERT(read->payload_bytes <= (read->has_payload ? payload_bytes_max : 0));
  RC_ASSERT(read->what.targets.first >= 0);
  RC_ASSERT(read->what.targets.last <= target_ranks_max);
}

TEST(message_header, refuses_a_payload_that_is_too_long) {
  message_header h;
  h.sender = 1;
  h.has_payload = true;
  h.payload_bytes = payload_bytes_max + 1;
  EXPECT_FALSE(read_header(write_header(h)).has_value());
}

TEST(message_header, refuses_a_message_of_nobody) { EXPECT_FALSE(read_header(write_header({})).has_value()); }

TEST(messenger_address, reads_what_was_written) {
  const std::string written = write_address({17, place()});
  const auto read = read_address(std::as_bytes(std::span(written)));
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->instance, 17U);
  EXPECT_TRUE(std::equal(read->place.begin(), read->place.end(), place().begin(), place().end()));
}

TEST(messenger_address, takes_no_bytes_that_were_changed_or_cut_off) {
  const std::string written = write_address({17, place()});
  for (std::size_t i = 0; i < written.size(); ++i) {
    auto changed = written;
    changed[i] = static_cast<char>(changed[i] ^ 4);
    EXPECT_FALSE(read_address(std::as_bytes(std::span(changed))).has_value()) << i;
    EXPECT_FALSE(read_address(std::as_bytes(std::span(written).first(i))).has_value()) << i;
  }
}

}  // namespace
}  // namespace baton
