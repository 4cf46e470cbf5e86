#include "runtime/device/task.hpp"

#include <stdexcept>
#include <vector>

#include <gtest/gtest.h>

namespace baton {
namespace {

task inner(std::vector<int>& seen, bool fails) {
  seen.push_back(2);
  co_await give_way{};
  seen.push_back(3);
  if (fails) throw std::runtime_error("from within");
}

task outer(std::vector<int>& seen, bool fails) {
  seen.push_back(1);
  co_await inner(seen, fails);
  seen.push_back(4);
  co_await give_way{};
  seen.push_back(5);
}

/// Counts how many of it are alive.
struct counted {
  explicit counted(int& count) : count_(count) { ++count_; }
  ~counted() { --count_; }
  counted(const counted&) = delete;
  counted& operator=(const counted&) = delete;
  int& count_;
};

task holds_something(int& alive, int depth) {
  const counted mine(alive);
  if (depth > 0) {
    co_await holds_something(alive, depth - 1);
  } else {
    co_await give_way{};
  }
}

task loops(int& rounds) {
  for (int i = 0; i < 100000; ++i) {
    co_await give_way{};
    ++rounds;
  }
}

task many_that_never_suspend(int& count) {
  struct once {
    static task add(int& n) {
      ++n;
      co_return;
    }
  };
  for (int i = 0; i < 100; ++i) co_await once::add(count);
}

TEST(task, nested_tasks_suspend_and_resume_at_the_innermost) {
  std::vector<int> seen;
  suspension place;
  auto body = outer(seen, false);
  body.start(place);
  EXPECT_TRUE(seen.empty());
  place.resume_at.resume();
  EXPECT_EQ(seen, (std::vector{1, 2}));
  place.resume_at.resume();
  EXPECT_EQ(seen, (std::vector{1, 2, 3, 4}));
  place.resume_at.resume();
  EXPECT_EQ(seen, (std::vector{1, 2, 3, 4, 5}));
  EXPECT_TRUE(body.done());
  EXPECT_NO_THROW(body.rethrow());
}

TEST(task, an_exception_goes_through_co_await_to_the_outermost) {
  std::vector<int> seen;
  suspension place;
  auto body = outer(seen, true);
  body.start(place);
  place.resume_at.resume();
  place.resume_at.resume();
  ASSERT_TRUE(body.done());
  EXPECT_THROW(body.rethrow(), std::runtime_error);
  EXPECT_EQ(seen, (std::vector{1, 2, 3}));
}

TEST(task, abandoning_a_suspended_task_destroys_everything_that_it_awaits) {
  int alive = 0;
  {
    suspension place;
    auto body = holds_something(alive, 5);
    body.start(place);
    place.resume_at.resume();
    EXPECT_EQ(alive, 6);
  }
  EXPECT_EQ(alive, 0);
}

TEST(task, long_loops_do_not_grow_the_stack) {
  int rounds = 0;
  suspension place;
  auto body = loops(rounds);
  body.start(place);
  while (!body.done()) place.resume_at.resume();
  EXPECT_EQ(rounds, 100000);
}

TEST(task, awaiting_tasks_that_never_suspend_goes_on_at_once) {
  int count = 0;
  suspension place;
  auto body = many_that_never_suspend(count);
  body.start(place);
  place.resume_at.resume();
  EXPECT_TRUE(body.done());
  EXPECT_EQ(count, 100);
}

}  // namespace
}  // namespace baton
