#include "runtime/relay/relay_log.hpp"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>
#include <thread>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/fault.hpp"
#include "tests/support/open_files.hpp"
#include "tests/support/temporary_directory.hpp"

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
  log.release(1);
  EXPECT_EQ(log.bytes_reserved(), 40);
  log.release(1);
  EXPECT_EQ(log.bytes_reserved(), 40);
}

TEST(relay_log, a_job_that_asks_again_keeps_the_room_that_it_has) {
  relay_log log(100);
  ASSERT_TRUE(log.reserve(1, 60));
  log.put(key_of(1, 0, 0), block_of(60, 1));
  EXPECT_TRUE(log.reserve(1, 60));
  EXPECT_TRUE(log.reserve(1, 10));
  EXPECT_FALSE(log.reserve(1, 61));
  EXPECT_EQ(log.bytes_reserved(), 60);
  EXPECT_TRUE(log.holds(key_of(1, 0, 0)));
}

TEST(relay_log, the_first_holder_wins_whatever_the_attempt) {
  relay_log log(100);
  ASSERT_TRUE(log.reserve(1, 100));
  auto first = key_of(1, 3, 2);
  auto second = first;
  second.attempt = 7;
  EXPECT_TRUE(log.put(first, block_of(4, 1)));
  EXPECT_FALSE(log.put(second, block_of(4, 2)));
  EXPECT_EQ(log.held().bytes, 4);
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
  EXPECT_EQ(log.held().bytes, 0);
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
  EXPECT_EQ(log.held().bytes, 6);
  EXPECT_TRUE(log.keys(1).empty());
  EXPECT_TRUE(log.holds(key_of(2, 0, 0)));
}

// ---- on the disk ----

/// Different bytes for every seed.
block random_block(std::size_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  block b;
  b.bytes.resize(bytes);
  for (auto& byte : b.bytes) byte = static_cast<std::byte>(random());
  b.checksum = checksum_of(b.bytes);
  return b;
}

bool reads_back(const relay_log& log, const block_key& key, const block& expected) {
  std::vector<std::byte> got(expected.bytes.size());
  const auto edge = got.size() / 3;
  const std::vector<std::span<std::byte>> parts{std::span(got).first(edge), std::span(got).subspan(edge)};
  const auto whole = log.get(key);
  return log.read(key, parts) && std::ranges::equal(got, expected.bytes) && whole && whole->bytes == expected.bytes &&
         whole->checksum == expected.checksum;
}

template <class Call>
fault fault_of(Call&& call) {
  try {
    call();
  } catch (const fault& why) {
    return why;
  }
  return {fault_code::internal, "no fault"};
}

/// A file system of its own in memory, 256 KiB large; empty where this user may not make one.
class small_disk {
 public:
  small_disk() : mounted_(::mount("none", folder_.path().c_str(), "tmpfs", 0, "size=256k") == 0) {}
  small_disk(const small_disk&) = delete;
  small_disk& operator=(const small_disk&) = delete;
  ~small_disk() {
    if (mounted_) ::umount2(folder_.path().c_str(), MNT_DETACH);
  }
  [[nodiscard]] bool mounted() const { return mounted_; }
  [[nodiscard]] const std::filesystem::path& path() const { return folder_.path(); }

 private:
  temporary_directory folder_;
  const bool mounted_;
};

TEST(relay_log, fills_memory_then_disk_and_reads_both_back_alike) {
  const temporary_directory folder;
  relay_log log({.memory_bytes_max = 1000, .disk_bytes_max = 4000, .disk_directory = folder.path()});
  EXPECT_EQ(log.bytes_max(), 5000);
  const std::vector<std::size_t> sizes{1, 997, 3, 0, 501, 1499, 1, 1998};  // the third lies across the edge
  ASSERT_EQ(std::accumulate(sizes.begin(), sizes.end(), std::size_t{0}), 5000u);
  ASSERT_TRUE(log.reserve(1, 5000));
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto seed = static_cast<unsigned>(i);
    EXPECT_TRUE(log.put(key_of(1, static_cast<int>(i), 0), random_block(sizes[i], seed)));
    for (std::size_t j = 0; j <= i; ++j) {
      EXPECT_TRUE(reads_back(log, key_of(1, static_cast<int>(j), 0), random_block(sizes[j], static_cast<unsigned>(j))))
          << "block " << j << " of " << i;
    }
  }
  EXPECT_EQ(log.held().blocks, 8);
  EXPECT_EQ(log.held().bytes, 5000);
  EXPECT_EQ(log.held().disk_bytes, 4000);
  EXPECT_THROW(log.put(key_of(1, 99, 0), block_of(1, 0)), fault);
  EXPECT_FALSE(log.put(key_of(1, 7, 0), random_block(1998, 0))) << "a second copy";
}

TEST(relay_log, what_is_in_memory_is_handed_out_without_a_copy) {
  relay_log log(100);
  ASSERT_TRUE(log.reserve(1, 100));
  const auto b = std::make_shared<const block>(block_of(100, 3));
  log.put(key_of(1, 0, 0), b);
  EXPECT_EQ(log.get(key_of(1, 0, 0)), b);
  EXPECT_EQ(log.get(key_of(1, 1, 0)), nullptr);
  EXPECT_EQ(log.get(key_of(2, 0, 0)), nullptr);
}

TEST(relay_log, admits_against_memory_and_disk_together) {
  const temporary_directory folder;
  relay_log log({.memory_bytes_max = 100, .disk_bytes_max = 50, .disk_directory = folder.path()});
  EXPECT_FALSE(log.reserve(1, 151));
  EXPECT_EQ(log.bytes_reserved(), 0);
  EXPECT_TRUE(log.reserve(1, 80));
  EXPECT_THAT(files_open_in(folder.path()), testing::IsEmpty()) << "memory suffices";
  EXPECT_TRUE(log.reserve(2, 60));
  EXPECT_THAT(files_open_in(folder.path()), testing::SizeIs(1));
  EXPECT_FALSE(log.reserve(3, 11));
  EXPECT_TRUE(log.reserve(3, 10));
  EXPECT_EQ(log.bytes_reserved(), 150);
  log.release(2);
  EXPECT_THAT(files_open_in(folder.path()), testing::SizeIs(1)) << "that of job 3";
  EXPECT_TRUE(log.reserve(4, 60)) << "20 of memory and 40 of the disk";
  log.release(1);
  log.release(3);
  log.release(4);
  EXPECT_EQ(log.bytes_reserved(), 0);
  EXPECT_THAT(files_open_in(folder.path()), testing::IsEmpty());
}

TEST(relay_log, leaves_nothing_in_the_directory_while_it_runs_and_after_a_kill) {
  const temporary_directory folder;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    relay_log log({.memory_bytes_max = 10, .disk_bytes_max = 1 << 20, .disk_directory = folder.path()});
    const bool kept = log.reserve(1, 1 << 20) && log.put(key_of(1, 0, 0), block_of(1 << 19, 1));
    const char answer = kept ? '+' : '-';
    if (::write(ready[1], &answer, 1) != 1) ::_exit(1);
    ::pause();
    ::_exit(1);
  }
  ::close(ready[1]);
  char answer = 0;
  EXPECT_EQ(::read(ready[0], &answer, 1), 1);
  EXPECT_EQ(answer, '+');
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(relay_log, refuses_a_directory_that_cannot_take_files) {
  const auto why = fault_of(
      [] { const relay_log log({.memory_bytes_max = 10, .disk_bytes_max = 1, .disk_directory = "/no/such/folder"}); });
  EXPECT_EQ(why.code(), fault_code::bad_input);
  EXPECT_EQ(why.where(), "/no/such/folder");
  EXPECT_THAT(why.reason(), testing::HasSubstr("No such file or directory"));
  const relay_log unused({.memory_bytes_max = 10, .disk_bytes_max = 0, .disk_directory = "/no/such/folder"});
  EXPECT_EQ(unused.bytes_max(), 10);
}

TEST(relay_log, a_directory_that_is_gone_when_a_job_comes_fails_that_job_only) {
  const temporary_directory folder;
  const auto place = folder.path() / "log";
  std::filesystem::create_directory(place);
  relay_log log({.memory_bytes_max = 10, .disk_bytes_max = 1000, .disk_directory = place});
  std::filesystem::remove(place);
  const auto why = fault_of([&] { static_cast<void>(log.reserve(1, 100)); });
  EXPECT_EQ(why.code(), fault_code::device);
  EXPECT_EQ(why.where(), place.string());
  EXPECT_EQ(log.bytes_reserved(), 0);
  EXPECT_TRUE(log.reserve(2, 10)) << "what needs no disk goes on";
}

TEST(relay_log, a_full_disk_is_met_at_admission_and_fails_that_job_only) {
  const small_disk disk;
  if (!disk.mounted()) GTEST_SKIP() << "NOT TESTED: no file system can be mounted here, which takes root";
  relay_log log({.memory_bytes_max = 100, .disk_bytes_max = 10 << 20, .disk_directory = disk.path()});
  ASSERT_TRUE(log.reserve(1, 100 + (64 << 10)));
  const auto why = fault_of([&] { static_cast<void>(log.reserve(2, 1 << 20)); });
  EXPECT_EQ(why.code(), fault_code::out_of_memory);
  EXPECT_EQ(why.where(), disk.path().string());
  EXPECT_THAT(why.reason(), testing::HasSubstr("1048576 bytes"));
  EXPECT_EQ(log.bytes_reserved(), 100 + (64 << 10)) << "the refused job holds nothing";
  EXPECT_THAT(files_open_in(disk.path()), testing::SizeIs(1));
  // The room of the first job is its own whatever others do with the rest.
  std::ofstream others(disk.path() / "others", std::ios::binary);
  for (int i = 0; i < 64 && others; ++i) others << std::string(4096, 'x') << std::flush;
  EXPECT_FALSE(others);
  const auto kept = random_block(64 << 10, 1);
  EXPECT_TRUE(log.put(key_of(1, 0, 0), block_of(100, 1)));
  EXPECT_TRUE(log.put(key_of(1, 1, 0), random_block(64 << 10, 1)));
  EXPECT_TRUE(reads_back(log, key_of(1, 1, 0), kept));
}

TEST(relay_log, a_disk_that_stops_working_fails_the_put_and_names_the_directory) {
  const temporary_directory folder;
  relay_log log({.memory_bytes_max = 10, .disk_bytes_max = 200, .disk_directory = folder.path()});
  ASSERT_TRUE(log.reserve(1, 110));
  ASSERT_TRUE(log.put(key_of(1, 0, 0), block_of(60, 1)));
  ASSERT_TRUE(log.reserve(2, 100));
  const auto files = files_open_in(folder.path());
  ASSERT_EQ(files.size(), 2u);
  // In the place of the first job's file stands one that cannot be written.
  const int full = ::open("/dev/full", O_RDWR | O_CLOEXEC);
  ASSERT_GE(full, 0);
  ASSERT_EQ(::dup2(full, files[0]), files[0]);
  const auto why = fault_of([&] { log.put(key_of(1, 1, 0), block_of(50, 1)); });
  EXPECT_EQ(why.code(), fault_code::out_of_memory);
  EXPECT_EQ(why.where(), folder.path().string());
  EXPECT_FALSE(log.holds(key_of(1, 1, 0)));
  EXPECT_EQ(log.held().blocks, 1);
  EXPECT_TRUE(log.put(key_of(2, 0, 0), block_of(100, 2)));
  EXPECT_TRUE(reads_back(log, key_of(2, 0, 0), block_of(100, 2)));
  log.release(1);
  ::close(full);
}

TEST(relay_log, damage_on_the_disk_is_noticed_at_reading) {
  const temporary_directory folder;
  relay_log log({.memory_bytes_max = 10, .disk_bytes_max = 200, .disk_directory = folder.path()});
  ASSERT_TRUE(log.reserve(1, 200));
  log.put(key_of(1, 0, 0), random_block(100, 1));
  log.put(key_of(1, 1, 0), random_block(90, 2));
  const auto files = files_open_in(folder.path());
  ASSERT_EQ(files.size(), 1u);
  char before = 0;
  ASSERT_EQ(::pread(files[0], &before, 1, 50), 1);
  const char after = static_cast<char>(before ^ 0x10);
  ASSERT_EQ(::pwrite(files[0], &after, 1, 50), 1);
  std::vector<std::byte> got(100);
  const std::vector<std::span<std::byte>> parts{got};
  const auto read = fault_of([&] { static_cast<void>(log.read(key_of(1, 0, 0), parts)); });
  EXPECT_EQ(read.code(), fault_code::corruption);
  EXPECT_EQ(read.where(), "job 1, layer 0, rank 0");
  const auto gotten = fault_of([&] { static_cast<void>(log.get(key_of(1, 0, 0))); });
  EXPECT_EQ(gotten.code(), fault_code::corruption);
  EXPECT_THAT(gotten.reason(), testing::HasSubstr(folder.path().string()));
  EXPECT_TRUE(reads_back(log, key_of(1, 1, 0), random_block(90, 2)));
  // Something cut the file off: its end is an error of the disk.
  ASSERT_EQ(::ftruncate(files[0], 95), 0);
  EXPECT_EQ(fault_of([&] { static_cast<void>(log.get(key_of(1, 1, 0))); }).code(), fault_code::device);
}

TEST(relay_log, threads_put_and_read_while_jobs_come_and_go) {
  const temporary_directory folder;
  relay_log log({.memory_bytes_max = 4000, .disk_bytes_max = 100'000, .disk_directory = folder.path()});
  constexpr int layers = 30;
  std::atomic<int> right{0};
  {
    std::vector<std::jthread> threads;
    ASSERT_TRUE(log.reserve(1, layers * 2 * 500));
    for (int source = 0; source < 2; ++source) {
      threads.emplace_back([&, source] {
        for (int layer = 0; layer < layers; ++layer)
          log.put(key_of(1, layer, source), random_block(500, static_cast<unsigned>(2 * layer + source)));
      });
      threads.emplace_back([&, source] {
        for (int layer = 0; layer < layers; ++layer) {
          while (!log.holds(key_of(1, layer, source))) std::this_thread::yield();
          const auto expected = random_block(500, static_cast<unsigned>(2 * layer + source));
          right += reads_back(log, key_of(1, layer, source), expected) ? 1 : 0;
        }
      });
    }
    threads.emplace_back([&] {
      for (job_id job = 2; job < 60; ++job) {
        if (!log.reserve(job, 5000)) continue;
        log.put(key_of(job, 0, 0), block_of(4999, 1));
        log.release(job);
      }
    });
  }
  EXPECT_EQ(right.load(), 2 * layers);
  EXPECT_EQ(log.held().blocks, 2 * layers);
  EXPECT_EQ(log.bytes_reserved(), layers * 2 * 500);
}

}  // namespace
}  // namespace baton
