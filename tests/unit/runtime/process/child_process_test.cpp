#include "runtime/process/child_process.hpp"

#include <csignal>
#include <fstream>
#include <thread>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "kernels/fault.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using namespace std::chrono_literals;

std::chrono::steady_clock::time_point in(std::chrono::milliseconds time) {
  return std::chrono::steady_clock::now() + time;
}

child_process shell(const std::string& script, const std::string& input = {},
                    child_process::group where = child_process::group::parents) {
  return child_process("/bin/sh", {"-c", script}, input, where);
}

bool lives(int pid) {
  // What nobody has taken the status of yet is dead as well.
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string number, name, state;
  return stat >> number >> name >> state && state != "Z";
}

/// A number that a child has written into a file.
int number_in(const std::filesystem::path& file) {
  for (int i = 0; i < 3000; ++i) {
    int number = 0;
    char end = 0;
    std::ifstream in(file);
    if (in >> number && in.get(end) && end == '\n') return number;
    std::this_thread::sleep_for(10ms);
  }
  ADD_FAILURE() << file << " was never written";
  return -1;
}

TEST(child_process, reads_its_input_and_gives_its_exit_code) {
  auto process = shell("test \"$(cat | wc -c)\" = 300000 && exit 7", std::string(300000, 'x'));
  ASSERT_TRUE(process.wait_until(in(30s)));
  EXPECT_EQ(describe_exit(*process.ended()), "exit code 7");
}

TEST(child_process, tells_which_signal_ended_it) {
  auto process = shell("kill -9 $$");
  ASSERT_TRUE(process.wait_until(in(30s)));
  EXPECT_EQ(describe_exit(*process.ended()), "killed by signal 9 (Killed)");
  EXPECT_EQ(describe_exit(*process.ended()), "killed by signal 9 (Killed)");
}

TEST(child_process, still_runs_at_a_deadline_that_comes_before_its_end) {
  auto process = shell("exec sleep 60");
  EXPECT_FALSE(process.ended());
  EXPECT_FALSE(process.wait_until(in(20ms)));
  process.kill();
  EXPECT_EQ(describe_exit(*process.ended()), "killed by signal 9 (Killed)");
}

TEST(child_process, that_was_stopped_can_still_be_asked_to_end) {
  auto process = shell("exec sleep 60");
  ::kill(process.pid(), SIGSTOP);
  process.ask_to_end();
  ASSERT_TRUE(process.wait_until(in(30s)));
  EXPECT_EQ(describe_exit(*process.ended()), "killed by signal 15 (Terminated)");
}

TEST(child_process, takes_its_whole_group_with_it_even_when_it_has_ended_before_them) {
  const temporary_directory folder;
  const auto file = folder.path() / "pid";
  int grandchild = -1;
  {
    auto leader = shell("sleep 60 & echo $! > " + file.string(), {}, child_process::group::own);
    grandchild = number_in(file);
    ASSERT_TRUE(leader.wait_until(in(30s)));
    EXPECT_TRUE(lives(grandchild));
  }
  for (int i = 0; i < 1000 && lives(grandchild); ++i) std::this_thread::sleep_for(10ms);
  EXPECT_FALSE(lives(grandchild));
}

TEST(child_process, is_killed_with_its_owner_and_moves_with_it) {
  int pid = -1;
  {
    auto first = shell("exec sleep 60");
    pid = first.pid();
    auto second = std::move(first);
    EXPECT_EQ(second.pid(), pid);
    EXPECT_TRUE(lives(pid));
  }
  EXPECT_FALSE(lives(pid));
}

TEST(child_process, does_not_inherit_blocked_signals) {
  sigset_t blocked;
  sigset_t before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  auto process = shell("exec sleep 60");
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  process.ask_to_end();
  EXPECT_TRUE(process.wait_until(in(30s)));
}

TEST(child_process, inherits_no_file_but_the_standard_ones) {
  const int open_file = open("/dev/null", O_RDONLY);
  ASSERT_GE(open_file, 3);
  auto process = shell("test ! -e /proc/self/fd/" + std::to_string(open_file));
  EXPECT_TRUE(process.wait_until(in(30s)));
  EXPECT_EQ(describe_exit(*process.ended()), "exit code 0");
  close(open_file);
}

TEST(parent_process, that_has_ended_is_not_taken_for_another_one) {
  const parent_process whoever;
  const parent_process named(getppid());
  EXPECT_GE(whoever.descriptor(), 0);
  EXPECT_GE(named.descriptor(), 0);
  for (const int other : {1, getpid()}) {
    if (other == getppid()) continue;
    EXPECT_THROW(parent_process{other}, fault) << other;
  }
}

TEST(child_process, that_cannot_be_started_is_a_fault_with_its_name) {
  try {
    const child_process process("/no/such/program", {}, {}, child_process::group::parents);
    FAIL();
  } catch (const fault& why) {
    EXPECT_THAT(why.what(), testing::HasSubstr("/no/such/program"));
  }
}

}  // namespace
}  // namespace baton
