#include "runtime/device/arena.hpp"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/fault.hpp"

namespace baton {
namespace {

std::unique_ptr<backend> small_backend() {
  return cpu::make_cpu_backend({.threads = 1, .activation = element_type::f32});
}

TEST(arena, gives_back_what_leaves_scope_and_joins_neighbours) {
  const auto kernels = small_backend();
  arena memory(*kernels, 1024);
  {
    const auto a = memory.take(256, "a");
    const auto b = memory.take(256, "b");
    auto c = memory.take(512, "c");
    EXPECT_EQ(memory.bytes_free(), 0u);
    EXPECT_EQ(a.data() + 256, b.data());
    c = extent();
    EXPECT_EQ(memory.bytes_free(), 512u);
  }
  EXPECT_EQ(memory.largest_free_bytes(), 1024u);
  EXPECT_EQ(memory.peak_bytes(), 1024u);
}

TEST(arena, refuses_with_purpose_and_sizes) {
  const auto kernels = small_backend();
  arena memory(*kernels, 1024);
  const auto a = memory.take(512, "a");
  try {
    static_cast<void>(memory.take(600, "the KV of rank 3"));
    FAIL();
  } catch (const fault& why) {
    EXPECT_EQ(why.code(), fault_code::out_of_memory);
    EXPECT_THAT(why.what(), testing::HasSubstr("the KV of rank 3 needs 768 bytes; 512 of 1024 are free"));
  }
}

RC_GTEST_PROP(arena, extents_never_overlap_and_all_memory_returns, ()) {
  const auto kernels = small_backend();
  arena memory(*kernels, 1 << 16);
  {
    std::vector<std::pair<extent, std::byte>> lent;
    const auto steps = *rc::gen::container<std::vector<int>>(60, rc::gen::inRange(-8, 9000));
    for (const int step : steps) {
      if (step < 0) {
        if (!lent.empty()) lent.erase(lent.begin() + (-step) % static_cast<int>(lent.size()));
      } else {
        try {
          auto piece = memory.take(static_cast<std::size_t>(step), "piece");
          const auto mark = static_cast<std::byte>(lent.size() * 7 + 1);
          std::fill_n(piece.data(), piece.bytes(), mark);
          lent.emplace_back(std::move(piece), mark);
        } catch (const fault& why) {
          RC_ASSERT(why.code() == fault_code::out_of_memory);
        }
      }
      for (const auto& [piece, mark] : lent) {
        RC_ASSERT(piece.data()[0] == mark);
        RC_ASSERT(piece.data()[piece.bytes() - 1] == mark);
      }
    }
  }
  RC_ASSERT(memory.largest_free_bytes() == memory.bytes());
}

}  // namespace
}  // namespace baton
