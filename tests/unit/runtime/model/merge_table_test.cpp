#include "runtime/model/merge_table.hpp"

#include <map>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace baton {
namespace {

TEST(merge_table, finds_nothing_where_there_is_nothing) {
  const merge_table none({});
  EXPECT_EQ(none.find(0, 0), nullptr);
  const std::vector<merge> one = {{1, 2, 3, 7}};
  const merge_table table(one);
  EXPECT_EQ(table.find(2, 1), nullptr);
  ASSERT_NE(table.find(1, 2), nullptr);
  EXPECT_EQ(table.find(1, 2)->result, 3);
  EXPECT_EQ(table.find(1, 2)->rank, 7);
}

RC_GTEST_PROP(merge_table, finds_the_last_merge_of_every_pair, ()) {
  const auto symbol = rc::gen::inRange<std::int32_t>(0, 12);
  const auto pairs =
      *rc::gen::container<std::vector<std::pair<std::int32_t, std::int32_t>>>(rc::gen::pair(symbol, symbol));
  std::vector<merge> merges;
  std::map<std::pair<std::int32_t, std::int32_t>, std::int32_t> last;
  for (const auto& [left, right] : pairs) {
    const auto rank = static_cast<std::int32_t>(merges.size());
    merges.push_back({left, right, rank + 100, rank});
    last[{left, right}] = rank;
  }
  const merge_table table(merges);
  for (std::int32_t left = 0; left < 13; ++left) {
    for (std::int32_t right = 0; right < 13; ++right) {
      const auto expected = last.find({left, right});
      const merge_table::ranked* found = table.find(left, right);
      RC_ASSERT((found == nullptr) == (expected == last.end()));
      if (found != nullptr) RC_ASSERT(found->rank == expected->second && found->result == expected->second + 100);
    }
  }
}

}  // namespace
}  // namespace baton
