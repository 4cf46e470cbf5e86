#include "kernels/cpu/thread_pool.hpp"

#include <atomic>
#include <cstdint>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace baton {
namespace {

TEST(thread_pool, calls_the_body_once_for_every_index) {
  for (const int threads : {1, 2, 3, 5}) {
    cpu::thread_pool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (const std::int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
      pool.parallel_for(count, [&](std::int64_t index, int) { ++calls[static_cast<std::size_t>(index)]; });
      for (const auto& number : calls) ASSERT_EQ(number, 1);
    }
  }
}

TEST(thread_pool, gives_each_thread_its_own_number) {
  cpu::thread_pool pool(3);
  std::mutex mutex;
  std::set<std::pair<int, std::thread::id>> seen;
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> inside = 0;
    pool.parallel_for(3, [&](std::int64_t, int thread) {
      {
        const std::lock_guard lock(mutex);
        seen.emplace(thread, std::this_thread::get_id());
      }
      // Each body waits for the others, so that each thread runs one of them.
      ++inside;
      while (inside < 3) std::this_thread::yield();
    });
  }
  std::set<int> numbers;
  std::set<std::thread::id> threads;
  for (const auto& [number, thread] : seen) {
    numbers.insert(number);
    threads.insert(thread);
  }
  EXPECT_EQ(numbers, (std::set<int>{0, 1, 2}));
  EXPECT_EQ(threads.size(), 3U);
  EXPECT_EQ(seen.size(), 3U);
  EXPECT_TRUE(seen.contains({0, std::this_thread::get_id()}));
}

TEST(thread_pool, uses_its_threads_at_the_same_time) {
  cpu::thread_pool pool(3);
  std::atomic<int> inside = 0;
  // Each body waits for the others: with fewer threads this would never end.
  pool.parallel_for(3, [&](std::int64_t, int) {
    ++inside;
    while (inside < 3) std::this_thread::yield();
  });
  EXPECT_EQ(inside, 3);
}

TEST(thread_pool, writes_of_bodies_are_visible_afterwards) {
  cpu::thread_pool pool(3);
  std::vector<std::int64_t> numbers(1000, 0);
  for (int round = 0; round < 200; ++round) {
    pool.parallel_for(1000, [&](std::int64_t index, int) { ++numbers[static_cast<std::size_t>(index)]; });
  }
  for (const std::int64_t number : numbers) ASSERT_EQ(number, 200);
}

TEST(thread_pool, throws_what_a_body_threw_and_goes_on_working) {
  for (const int threads : {1, 3}) {
    cpu::thread_pool pool(threads);
    std::atomic<int> running = 0;
    EXPECT_THROW(pool.parallel_for(100,
                                   [&](std::int64_t index, int) {
                                     ++running;
                                     if (index == 5) {
                                       --running;
                                       throw std::runtime_error("five");
                                     }
                                     --running;
                                   }),
                 std::runtime_error);
    EXPECT_EQ(running, 0);
    std::atomic<int> calls = 0;
    pool.parallel_for(100, [&](std::int64_t, int) { ++calls; });
    EXPECT_EQ(calls, 100);
  }
}

}  // namespace
}  // namespace baton
