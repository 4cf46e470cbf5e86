#include "runtime/relay/relay_log.hpp"

#include <gtest/gtest.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

block block_of(std::size_t bytes, int fill) {
  block b;
  b.bytes.assign(bytes, static_cast<std::byte>(fill));
  b.checksum = checksum_of(b.bytes);
  return b;
}

block_key key_of(job_id job, int layer, int source) {
  return {.job = job, .layer = static_cast<std::uint16_t>(layer), .source = static_cast<std::uint16_t>(source)};
}

TEST(relay_log, reads_what_was_put_into_all_parts_in_order) {
  relay_log log(1000);
  ASSERT_TRUE(log.reserve(1, 100));
  block b = block_of(10, 1);
  b.bytes[7] = std::byte{9};
  b.checksum = checksum_of(b.bytes);
  EXPECT_TRUE(log.put(key_of(1, 0, 0), std::move(b)));
  std::vector<std::byte> first(7), second(3);
  const std::vector<std::span<std::byte>> parts{first, second};
  EXPECT_TRUE(log.read(key_of(1, 0, 0), parts));
  EXPECT_EQ(first[6], std::byte{1});
  EXPECT_EQ(second[0], std::byte{9});
  EXPECT_FALSE(log.read(key_of(1, 0, 1), parts));
  EXPECT_FALSE(log.read(key_of(2, 0, 0), parts));
}

TEST(relay_log, admits_whole_logs_and_refuses_what_does_not_fit) {
  relay_log log(100);
  EXPECT_TRUE(log.reserve(1, 60));
  EXPECT_FALSE(log.reserve(2, 41));
  EXPECT_TRUE(log.reserve(2, 40));
  EXPECT_EQ(log.bytes_reserved(), 100);
  EXPECT_TRUE(log.reserve(1, 50));
  EXPECT_EQ(log.bytes_reserved(), 90);
  log.release(1);
  EXPECT_EQ(log.bytes_reserved(), 40);
  log.release(1);
  EXPECT_EQ(log.bytes_reserved(), 40);
}

TEST(relay_log, the_first_holder_wins_whatever_the_attempt) {
  relay_log log(100);
  ASSERT_TRUE(log.reserve(1, 100));
  auto first = key_of(1, 3, 2);
  auto second = first;
  second.attempt = 7;
  EXPECT_TRUE(log.put(first, block_of(4, 1)));
  EXPECT_FALSE(log.put(second, block_of(4, 2)));
  EXPECT_EQ(log.bytes(), 4);
  std::vector<std::byte> got(4);
  const std::vector<std::span<std::byte>> parts{got};
  EXPECT_TRUE(log.read(second, parts));
  EXPECT_EQ(got[0], std::byte{1});
}

TEST(relay_log, a_block_beyond_the_reservation_is_a_fault_and_is_not_kept) {
  relay_log log(100);
  EXPECT_THROW(log.put(key_of(1, 0, 0), block_of(1, 0)), fault);
  ASSERT_TRUE(log.reserve(1, 10));
  EXPECT_THROW(log.put(key_of(1, 0, 0), block_of(11, 0)), fault);
  EXPECT_EQ(log.bytes(), 0);
  EXPECT_FALSE(log.holds(key_of(1, 0, 0)));
}

TEST(relay_log, corruption_and_wrong_lengths_are_told_with_the_block) {
  relay_log log(100);
  ASSERT_TRUE(log.reserve(1, 100));
  block damaged = block_of(8, 1);
  damaged.bytes[3] = std::byte{2};
  log.put(key_of(1, 2, 1), std::move(damaged));
  std::vector<std::byte> got(8);
  const std::vector<std::span<std::byte>> parts{got};
  try {
    static_cast<void>(log.read(key_of(1, 2, 1), parts));
    FAIL();
  } catch (const fault& why) {
    EXPECT_EQ(why.code(), fault_code::corruption);
    EXPECT_EQ(why.where(), "job 1, layer 2, rank 1");
  }
  log.put(key_of(1, 2, 0), block_of(8, 1));
  const std::vector<std::span<std::byte>> shorter{std::span(got).first(7)};
  EXPECT_THROW(static_cast<void>(log.read(key_of(1, 2, 0), shorter)), fault);
}

TEST(relay_log, release_gives_the_blocks_of_that_job_back) {
  relay_log log(100);
  ASSERT_TRUE(log.reserve(1, 50));
  ASSERT_TRUE(log.reserve(2, 50));
  log.put(key_of(1, 0, 0), block_of(5, 1));
  log.put(key_of(2, 0, 0), block_of(6, 1));
  EXPECT_EQ(log.keys(1), std::vector{key_of(1, 0, 0)});
  log.release(1);
  EXPECT_EQ(log.bytes(), 6);
  EXPECT_TRUE(log.keys(1).empty());
  EXPECT_TRUE(log.holds(key_of(2, 0, 0)));
}

}  // namespace
}  // namespace baton
