#include "runtime/transport/block_memory.hpp"

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/transport/block.hpp"

namespace baton {
namespace {

TEST(block_memory, blocks_of_all_lengths_hold_their_bytes) {
  std::vector<block_bytes> blocks;
  for (const std::size_t bytes : {0U, 1U, 1000U, 1U << 20, (1U << 20) + 1, (1U << 20) - 1, 3'333'333U, 8U << 20}) {
    for (int times = 0; times < 2; ++times) {
      blocks.emplace_back(bytes);
      std::fill(blocks.back().begin(), blocks.back().end(), static_cast<std::byte>(blocks.size()));
    }
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    for (const std::byte b : blocks[i]) ASSERT_EQ(b, static_cast<std::byte>(i + 1));
  }
}

TEST(block_memory, keeps_no_more_than_it_may) {
  std::vector<block_bytes> blocks;
  for (int i = 0; i < 40; ++i) blocks.emplace_back((8U << 20) + static_cast<unsigned>(i) * 300'000);
  blocks.clear();
  EXPECT_LE(kept_block_bytes(), kept_block_bytes_max);
}

#ifndef __SANITIZE_ADDRESS__
TEST(block_memory, a_block_gets_what_one_of_nearly_its_length_has_left) {
  void* first = take_block_memory((8 << 20) + 5000);
  const auto before = kept_block_bytes();
  give_block_memory(first, (8 << 20) + 5000);
  EXPECT_GT(kept_block_bytes(), before);
  void* second = take_block_memory((8 << 20) + 9000);
  EXPECT_EQ(second, first);
  EXPECT_EQ(kept_block_bytes(), before);
  give_block_memory(second, (8 << 20) + 9000);
}
#endif

}  // namespace
}  // namespace baton
