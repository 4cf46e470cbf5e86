#include "runtime/relay/relay.hpp"

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "kernels/fault.hpp"
#include "runtime/transport/process_network.hpp"
#include "runtime/transport/ucx_messenger.hpp"
#include "tests/support/faulty_messenger.hpp"
#include "tests/support/open_files.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;

block_key key_of(job_id job, int layer, int source) {
  return {.job = job, .layer = static_cast<std::uint16_t>(layer), .source = static_cast<std::uint16_t>(source)};
}

/// Different bytes for every key.
std::shared_ptr<const block> block_of(const block_key& key, std::size_t bytes) {
  auto made = std::make_shared<block>();
  made->bytes.resize(bytes);
  auto state = static_cast<std::uint32_t>(key.job * 7919 + key.layer * 104729u + key.source * 1299709u + 1);
  for (auto& byte : made->bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<std::byte>(state >> 24);
  }
  made->checksum = checksum_of(made->bytes);
  return made;
}

bool equal(const std::shared_ptr<const block>& a, const std::shared_ptr<const block>& b) {
  return a && b && a->bytes == b->bytes && a->checksum == b->checksum;
}

bool comes_true(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + 60s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

/// A relay with all that it borrows, and what it tells the coordinator.
class node {
 public:
  node(std::unique_ptr<messenger> network, const relay_log_options& log)
      : network_(std::move(network)), log_(log), relay_("node", log_, network_.get(), [this](relay_report report) {
          const std::lock_guard lock(mutex_);
          reports_.push_back(std::move(report));
        }) {}

  [[nodiscard]] const std::string& address() const { return network_->address(); }
  [[nodiscard]] messenger::counts traffic() const { return network_->traffic(); }
  [[nodiscard]] relay_log& log() { return log_; }
  [[nodiscard]] relay_ready who() { return relay_.joins(); }
  void said(const relay_command& command) { relay_.coordinator_said(command); }
  [[nodiscard]] std::vector<relay_report> reports() const {
    const std::lock_guard lock(mutex_);
    return reports_;
  }

 private:
  std::unique_ptr<messenger> network_;
  relay_log log_;
  mutable std::mutex mutex_;
  std::vector<relay_report> reports_;
  relay relay_;
};

/// A process with ranks, as a relay sees it.
class process final : public messenger::listener {
 public:
  explicit process(std::unique_ptr<messenger> network) : network_(std::move(network)) { network_->listen(this); }
  ~process() override { network_->listen(nullptr); }

  void put(const std::string& relay, const block_key& key, rank_range targets, std::shared_ptr<const block> b) {
    network_->send(relay, {.kind = message_kind::put,
                           .delivery = ++last_delivery_,
                           .key = key,
                           .targets = targets,
                           .payload = std::move(b)});
  }
  void want(const std::string& relay, const block_key& key) {
    network_->send(relay, {.kind = message_kind::want, .key = key});
  }
  /// Waits for so many answers with that block, and gives the last.
  std::shared_ptr<const block> answer(const block_key& key, std::size_t count = 1) {
    std::unique_lock lock(mutex_);
    const bool came = changed_.wait_for(lock, 60s, [&] { return answers_[key].size() >= count; });
    return came ? answers_[key].back() : nullptr;
  }
  std::size_t answers(const block_key& key) {
    const std::lock_guard lock(mutex_);
    return answers_[key].size();
  }
  bool is_acknowledged(std::uint64_t delivery) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 60s, [&] { return acknowledged_.contains(delivery); });
  }
  std::size_t acknowledgements() {
    const std::lock_guard lock(mutex_);
    return acknowledged_.size();
  }

 private:
  void received(const std::string&, message&& m) override {
    const std::lock_guard lock(mutex_);
    if (m.kind == message_kind::answer) answers_[m.key].push_back(m.payload);
    if (const auto deliveries = acknowledged_by(m)) acknowledged_.insert(deliveries->begin(), deliveries->end());
    changed_.notify_all();
  }
  void tick() override {}

  std::unique_ptr<messenger> network_;
  std::uint64_t last_delivery_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<block_key, std::vector<std::shared_ptr<const block>>> answers_;
  std::set<std::uint64_t> acknowledged_;
};

/// Three nodes with a relay each, in this process. A job has rank 0 on a, 1 to 3 on b, 4 and 5 on c.
struct relay_test : testing::Test {
  static relay_log_options memory(std::int64_t bytes) { return {.memory_bytes_max = bytes}; }

  [[nodiscard]] reserve_log reservation(job_id job, std::int64_t bytes = 1 << 20) const {
    const auto &x = a.address(), &y = b.address(), &z = c.address();
    return {job, bytes, {x, y, y, y, z, z}};
  }
  void admit(job_id job) {
    for (auto* n : {&a, &b, &c}) n->said(reservation(job));
  }
  static bool has(node& n, const block_key& key) {
    return comes_true([&] { return n.log().holds(key); });
  }

  faulty_network network;
  node a{network.make_messenger(), memory(4 << 20)};
  node b{network.make_messenger(), memory(4 << 20)};
  node c{network.make_messenger(), memory(4 << 20)};
  process rank0{network.make_messenger()};
  process ranks123{network.make_messenger()};
};

TEST_F(relay_test, says_who_it_is_and_what_its_log_holds) {
  EXPECT_EQ(a.who(), (relay_ready{"node", 4 << 20, a.address(), ::getpid()}));
  a.said(reservation(1));
  a.said(reservation(2, 5 << 20));
  EXPECT_THAT(a.reports(), ElementsAre(log_reserved{1}, log_refused{2, 5 << 20, 3 << 20}));
}

TEST(relay_alone, admits_and_releases_where_all_ranks_share_its_process) {
  relay_log log(100);
  std::vector<relay_report> reports;
  relay alone("node", log, nullptr, [&](relay_report report) { reports.push_back(std::move(report)); });
  EXPECT_EQ(alone.joins(), (relay_ready{"node", 100, "", ::getpid()}));
  alone.coordinator_said(reserve_log{1, 60, {}});
  alone.coordinator_said(reserve_log{2, 60, {}});
  EXPECT_EQ(&alone.log(), &log);
  log.put(key_of(1, 0, 0), block_of(key_of(1, 0, 0), 60));
  alone.coordinator_said(release_log{1});
  EXPECT_EQ(log.held().blocks, 0);
  alone.coordinator_said(reserve_log{2, 60, {}});
  EXPECT_THAT(reports, ElementsAre(log_reserved{1}, log_refused{2, 60, 40}, log_reserved{2}));
}

TEST_F(relay_test, three_ranks_on_a_node_cost_one_copy_between_the_nodes) {
  admit(1);
  constexpr std::int64_t bytes = 100'001;
  constexpr std::int64_t small = 4096;  // acknowledgements
  const auto key = key_of(1, 0, 0);
  const auto sent = block_of(key, bytes);
  rank0.put(a.address(), key, {1, 6}, sent);
  ASSERT_TRUE(has(b, key) && has(c, key));
  for (int layer = 1; layer < 8; ++layer) rank0.put(a.address(), key_of(1, layer, 0), {1, 4}, block_of(key, bytes));
  ASSERT_TRUE(has(b, key_of(1, 7, 0)));
  process rank1(network.make_messenger()), rank2(network.make_messenger()), rank3(network.make_messenger());
  for (auto* rank : {&rank1, &rank2, &rank3}) rank->want(b.address(), key);
  for (auto* rank : {&rank1, &rank2, &rank3}) EXPECT_TRUE(equal(rank->answer(key), sent));
  const auto from_a = a.traffic().bytes_sent;
  EXPECT_GE(from_a, 9 * bytes) << "eight layers to b, one to c";
  // What a slow machine acknowledges late goes twice; a copy for each rank would be 26.
  EXPECT_LT(from_a, 18 * bytes);
  EXPECT_GE(b.traffic().bytes_sent, 3 * bytes) << "inside the node";
  EXPECT_LT(b.traffic().bytes_sent, 3 * bytes + small);
  EXPECT_LT(c.traffic().bytes_sent, small);
  EXPECT_FALSE(c.log().holds(key_of(1, 7, 0))) << "nobody there needs it";
}

TEST_F(relay_test, serves_a_block_as_often_as_it_is_asked_for_from_its_own_node_and_others) {
  admit(1);
  const auto key = key_of(1, 2, 0);
  rank0.put(a.address(), key, {1, 6}, block_of(key, 1000));
  ASSERT_TRUE(has(b, key));
  for (std::size_t time = 1; time <= 3; ++time) {
    ranks123.want(b.address(), key);
    EXPECT_TRUE(equal(ranks123.answer(key, time), block_of(key, 1000)));
    rank0.want(a.address(), key);
    EXPECT_TRUE(equal(rank0.answer(key, time), block_of(key, 1000)));
  }
}

TEST_F(relay_test, a_want_that_comes_before_the_block_is_answered_when_it_is_there) {
  admit(1);
  const auto key = key_of(1, 0, 0);
  const auto other = key_of(1, 1, 0);
  ranks123.want(b.address(), key);
  ranks123.want(b.address(), key);
  rank0.put(a.address(), other, {1, 6}, block_of(other, 10));
  ranks123.want(b.address(), other);
  EXPECT_TRUE(equal(ranks123.answer(other), block_of(other, 10)));
  EXPECT_EQ(ranks123.answers(key), 0u);
  rank0.put(a.address(), key, {1, 6}, block_of(key, 10));
  EXPECT_TRUE(equal(ranks123.answer(key), block_of(key, 10)));
  // What was sent after the answer has come, so a second answer would have come, too.
  ranks123.want(b.address(), other);
  EXPECT_TRUE(ranks123.answer(other, 2));
  EXPECT_EQ(ranks123.answers(key), 1u);
}

TEST_F(relay_test, a_released_job_is_freed_and_neither_served_nor_logged_any_more) {
  admit(1);
  admit(2);
  const auto key = key_of(1, 0, 0);
  rank0.put(a.address(), key, {1, 6}, block_of(key, 1000));
  ASSERT_TRUE(has(b, key) && has(c, key));
  for (auto* n : {&a, &b, &c}) {
    EXPECT_EQ(n->log().held().bytes, 1000);
    n->said(release_log{1});
    EXPECT_EQ(n->log().held().blocks, 0);
    EXPECT_EQ(n->log().bytes_reserved(), 1 << 20);
    n->said(release_log{1});
  }
  ranks123.want(b.address(), key);
  rank0.put(a.address(), key_of(1, 1, 0), {1, 6}, block_of(key, 1000));
  EXPECT_TRUE(rank0.is_acknowledged(2)) << "or it would be sent for ever";
  const auto live = key_of(2, 0, 0);
  rank0.put(a.address(), live, {1, 6}, block_of(live, 10));
  ranks123.want(b.address(), live);
  EXPECT_TRUE(equal(ranks123.answer(live), block_of(live, 10)));
  EXPECT_EQ(ranks123.answers(key), 0u);
  for (auto* n : {&a, &b, &c}) EXPECT_THAT(n->log().keys(1), IsEmpty());
}

TEST_F(relay_test, a_block_that_comes_before_its_attempt_counts_is_taken_when_it_does_without_being_sent_again) {
  admit(1);
  auto key = key_of(1, 0, 0);
  key.attempt = 1;
  const std::vector<std::string> places = reservation(1).relays;
  a.said(fence_job{1, 1, {1, 0, 0, 0, 0, 0}});
  rank0.put(a.address(), key, {1, 6}, block_of(key, 1000));
  const auto other = key_of(1, 0, 1);  // of a rank that nobody has lost: comes later, and is taken
  rank0.put(a.address(), other, {2, 6}, block_of(other, 10));
  ASSERT_TRUE(has(a, other));
  EXPECT_FALSE(a.log().holds(key));
  EXPECT_EQ(a.log().held().blocks, 1);
  // It was sent once, and this process sends nothing again.
  a.said(place_blocks{1, 1, places, {}, {}});
  EXPECT_TRUE(a.log().holds(key));
  EXPECT_TRUE(rank0.is_acknowledged(1));
  EXPECT_TRUE(has(b, key) && has(c, key));

  // What a released job had offered is forgotten with it.
  a.said(fence_job{1, 2, {2, 0, 0, 0, 0, 0}});
  key.attempt = 2;
  key.layer = 1;
  rank0.put(a.address(), key, {1, 6}, block_of(key, 1000));
  const auto last = key_of(1, 1, 1);
  rank0.put(a.address(), last, {2, 6}, block_of(last, 10));
  ASSERT_TRUE(has(a, last));
  a.said(release_log{1});
  admit(2);
  a.said(place_blocks{2, 0, places, {}, {}});
  EXPECT_EQ(a.log().held().blocks, 0);
}

TEST_F(relay_test, a_lost_forward_is_sent_again_until_it_is_acknowledged) {
  admit(1);
  network.drop_next(message_kind::forward);
  const auto key = key_of(1, 0, 0);
  rank0.put(a.address(), key, {1, 4}, block_of(key, 1000));
  EXPECT_TRUE(rank0.is_acknowledged(1)) << "it is in the log of its own node";
  ranks123.want(b.address(), key);
  EXPECT_TRUE(equal(ranks123.answer(key), block_of(key, 1000)));
  EXPECT_EQ(network.what_happened().dropped, 1);
  EXPECT_GE(network.sent(message_kind::forward), 2);
}

TEST_F(relay_test, what_a_released_job_has_yet_to_forward_is_forgotten) {
  admit(1);
  admit(2);
  network.drop_next(message_kind::forward);
  network.drop_next(message_kind::forward);
  rank0.put(a.address(), key_of(1, 0, 0), {1, 4}, block_of(key_of(1, 0, 0), 10));
  rank0.put(a.address(), key_of(2, 0, 0), {1, 4}, block_of(key_of(2, 0, 0), 10));
  ASSERT_TRUE(comes_true([&] { return network.sent(message_kind::forward) >= 2; }));
  network.stop(a.address());
  if (b.log().held().blocks > 0) GTEST_SKIP() << "this machine was so slow that both have been sent again already";
  a.said(release_log{1});
  network.go_on(a.address());
  ASSERT_TRUE(has(b, key_of(2, 0, 0))) << "sent again, as the other would have been before it";
  EXPECT_FALSE(b.log().holds(key_of(1, 0, 0)));
}

TEST_F(relay_test, a_block_that_comes_twice_is_acknowledged_each_time_and_logged_once) {
  admit(1);
  const auto key = key_of(1, 0, 0);
  auto later_attempt = key;
  later_attempt.attempt = 2;
  network.duplicate_next(message_kind::put);
  rank0.put(a.address(), key, {1, 4}, block_of(key, 1000));
  rank0.put(a.address(), later_attempt, {1, 4}, block_of(key_of(1, 9, 9), 1000));
  EXPECT_TRUE(rank0.is_acknowledged(1));
  EXPECT_TRUE(rank0.is_acknowledged(2));
  ASSERT_TRUE(has(b, key));
  EXPECT_EQ(a.log().held().blocks, 1);
  EXPECT_TRUE(equal(b.log().get(key), block_of(key, 1000))) << "the first one won";
}

TEST_F(relay_test, a_log_that_cannot_take_a_block_fails_its_job_only_and_does_not_acknowledge) {
  a.said(reservation(1, 999));
  admit(2);
  const auto key = key_of(1, 0, 0);
  rank0.put(a.address(), key, {1, 6}, block_of(key, 1000));
  const auto live = key_of(2, 0, 0);
  rank0.put(a.address(), live, {1, 6}, block_of(live, 1000));
  EXPECT_TRUE(rank0.is_acknowledged(2));
  EXPECT_EQ(rank0.acknowledgements(), 1u);
  ASSERT_TRUE(has(b, live));
  const auto reports = a.reports();
  ASSERT_EQ(reports.size(), 3u);
  const auto& failed = std::get<log_failed>(reports[2]);
  EXPECT_EQ(failed.job, 1u);
  EXPECT_THAT(failed.why.what, testing::HasSubstr("1000 bytes"));
  EXPECT_EQ(failed.why.where, "job 1, layer 0, rank 0");
}

TEST_F(relay_test, an_address_that_makes_no_sense_fails_the_job_that_named_it) {
  a.said(reserve_log{1, 1000, {a.address(), "nowhere"}});
  rank0.put(a.address(), key_of(1, 0, 0), {1, 2}, block_of(key_of(1, 0, 0), 10));
  ASSERT_TRUE(comes_true([&] { return a.reports().size() == 2; }));
  EXPECT_EQ(std::get<log_failed>(a.reports()[1]).why.code, fault_code::bad_input);
}

TEST_F(relay_test, passes_on_and_serves_what_lies_on_the_disk) {
  const temporary_directory folder;
  node d(network.make_messenger(),
         {.memory_bytes_max = 1500, .disk_bytes_max = 1 << 20, .disk_directory = folder.path()});
  d.said(reserve_log{1, 8000, {d.address(), b.address()}});
  b.said(reserve_log{1, 8000, {d.address(), b.address()}});
  for (int layer = 0; layer < 8; ++layer)
    rank0.put(d.address(), key_of(1, layer, 0), {1, 2}, block_of(key_of(1, layer, 0), 1000));
  for (int layer = 0; layer < 8; ++layer) {
    const auto key = key_of(1, layer, 0);
    rank0.want(d.address(), key);
    EXPECT_TRUE(equal(rank0.answer(key), block_of(key, 1000))) << layer;
    ASSERT_TRUE(has(b, key));
    EXPECT_TRUE(equal(b.log().get(key), block_of(key, 1000))) << layer;
  }
  EXPECT_EQ(d.log().held().disk_bytes, 6500);
  d.said(release_log{1});
  EXPECT_THAT(files_open_in(folder.path()), IsEmpty());
}

TEST_F(relay_test, a_block_that_the_disk_has_damaged_is_told_taken_again_and_served) {
  const temporary_directory folder;
  node d(network.make_messenger(),
         {.memory_bytes_max = 10, .disk_bytes_max = 1 << 20, .disk_directory = folder.path()});
  d.said(reserve_log{1, 2000, {d.address(), d.address()}});
  const auto key = key_of(1, 0, 0);
  const auto sound = key_of(1, 1, 0);
  rank0.put(d.address(), key, {1, 2}, block_of(key, 1000));
  rank0.put(d.address(), sound, {1, 2}, block_of(sound, 1000));
  ASSERT_TRUE(has(d, key));
  ASSERT_TRUE(has(d, sound));
  const auto files = files_open_in(folder.path());
  ASSERT_EQ(files.size(), 1u);
  ASSERT_EQ(::pwrite(files[0], "damage", 6, 100), 6);
  rank0.want(d.address(), key);
  ASSERT_TRUE(comes_true([&] { return d.reports().size() == 2; }));
  EXPECT_EQ(std::get<block_damaged>(d.reports()[1]), (block_damaged{1, 0, 0}));
  EXPECT_FALSE(d.log().holds(key));
  rank0.put(d.address(), key, {1, 2}, block_of(key, 1000));
  EXPECT_TRUE(equal(rank0.answer(key), block_of(key, 1000))) << "whoever waited for it gets it";
  EXPECT_EQ(d.log().held().blocks, 2) << "in the room that it had";
  EXPECT_EQ(d.log().held().bytes, 2000);
}

TEST_F(relay_test, a_disk_that_damages_a_block_again_fails_its_job_only) {
  const temporary_directory folder;
  node d(network.make_messenger(),
         {.memory_bytes_max = 10, .disk_bytes_max = 1 << 20, .disk_directory = folder.path()});
  d.said(reserve_log{1, 5000, {d.address()}});
  const auto key = key_of(1, 0, 0);
  rank0.put(d.address(), key, {1, 1}, block_of(key, 1000));
  ASSERT_TRUE(has(d, key));
  const auto files = files_open_in(folder.path());
  ASSERT_EQ(files.size(), 1u);
  ASSERT_EQ(::pwrite(files[0], "damage", 6, 100), 6);
  d.said(reserve_log{2, 5000, {d.address()}});
  rank0.want(d.address(), key);
  ASSERT_TRUE(comes_true([&] { return d.reports().size() == 3; }));
  EXPECT_EQ(std::get<block_damaged>(d.reports()[2]), (block_damaged{1, 0, 0}));
  rank0.put(d.address(), key, {1, 1}, block_of(key, 1000));
  EXPECT_TRUE(equal(rank0.answer(key), block_of(key, 1000)));
  ASSERT_EQ(::pwrite(files[0], "damage", 6, 100), 6);
  rank0.want(d.address(), key);
  ASSERT_TRUE(comes_true([&] { return d.reports().size() == 4; }));
  const auto failed = std::get<log_failed>(d.reports()[3]);
  EXPECT_EQ(failed.job, 1u);
  EXPECT_EQ(failed.why.code, fault_code::corruption);
  EXPECT_THAT(failed.why.what, testing::HasSubstr(folder.path().string()));
  const auto live = key_of(2, 0, 0);
  rank0.put(d.address(), live, {1, 1}, block_of(live, 1000));
  rank0.want(d.address(), live);
  EXPECT_TRUE(equal(rank0.answer(live), block_of(live, 1000)));
  EXPECT_EQ(rank0.answers(key), 1u);
}

TEST_F(relay_test, a_directory_that_is_gone_is_told_as_the_reason_why_a_job_cannot_begin) {
  const temporary_directory folder;
  const auto place = folder.path() / "log";
  std::filesystem::create_directory(place);
  node d(network.make_messenger(), {.memory_bytes_max = 10, .disk_bytes_max = 1000, .disk_directory = place});
  std::filesystem::remove(place);
  d.said(reserve_log{1, 100, {d.address()}});
  ASSERT_EQ(d.reports().size(), 1u);
  EXPECT_EQ(std::get<log_failed>(d.reports()[0]).why.where, place.string());
}

/// All ranks of a job give their blocks over a network that loses, repeats and delays; real processes ask for what they need.
TEST(relay_over_a_bad_network, every_process_gets_every_block_whatever_is_lost_repeated_or_late) {
  faulty_network network({.seed = 4, .drop = 0.1, .duplicate = 0.2, .delay = 0.5, .delay_max = 20ms});
  constexpr int layers = 4;
  constexpr int ranks = 4;
  const std::vector<std::size_t> node_of{0, 1, 1, 2};
  std::vector<std::unique_ptr<node>> nodes;
  for (int i = 0; i < 3; ++i)
    nodes.push_back(std::make_unique<node>(network.make_messenger(), relay_log_options{1 << 20}));
  std::vector<std::unique_ptr<messenger>> doors;
  std::vector<std::unique_ptr<process_network>> processes;
  std::vector<std::unique_ptr<endpoint>> endpoints;
  job_routes routes;
  reserve_log reservation{1, layers * ranks * 3000, {}};
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    doors.push_back(network.make_messenger());
    processes.push_back(std::make_unique<process_network>(*doors.back()));
    endpoints.push_back(processes.back()->make_endpoint());
    routes.ranks.push_back({doors.back()->address(), 0});
    reservation.relays.push_back(nodes[node_of[rank]]->address());
  }
  for (auto& n : nodes) n->said(reservation);
  std::vector<std::unique_ptr<transport>> transports;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    routes.relay = nodes[node_of[rank]]->address();
    transports.push_back(endpoints[rank]->join(1, static_cast<int>(rank), routes));
  }
  std::vector<std::jthread> threads;
  std::atomic<int> right{0};
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const auto at = static_cast<std::size_t>(rank);
      for (int layer = 0; layer < layers; ++layer) {
        const auto mine = block_of(key_of(1, layer, rank), 3000);
        std::vector<std::vector<std::byte>> got(at, std::vector<std::byte>(3000));
        std::vector<incoming_block> wanted;
        for (int source = 0; source < rank; ++source)
          wanted.push_back({key_of(1, layer, source), {got[static_cast<std::size_t>(source)]}});
        const outgoing_block given{key_of(1, layer, rank), {mine->bytes}, {rank + 1, ranks}};
        auto moving = transports[at]->exchange(std::span(&given, rank + 1 < ranks ? 1u : 0u), wanted);
        const auto deadline = std::chrono::steady_clock::now() + 60s;
        while (!moving.done() && std::chrono::steady_clock::now() < deadline) endpoints[at]->wait(deadline);
        for (int source = 0; source < rank; ++source) {
          const auto& bytes = got[static_cast<std::size_t>(source)];
          right += std::ranges::equal(bytes, block_of(key_of(1, layer, source), 3000)->bytes) ? 1 : 0;
        }
      }
    });
  }
  threads.clear();
  EXPECT_EQ(right.load(), layers * ranks * (ranks - 1) / 2);
  EXPECT_EQ(nodes[0]->log().held().blocks, layers) << "rank 0's";
  EXPECT_TRUE(comes_true([&] { return nodes[1]->log().held().blocks == 3 * layers; })) << "those of 0, 1 and 2";
  EXPECT_EQ(nodes[2]->log().held().blocks, 3 * layers);
  EXPECT_GT(network.what_happened().dropped, 0);
  for (auto& n : nodes) EXPECT_THAT(n->reports(), ElementsAre(log_reserved{1}));
}

/// Three nodes of one rank each; nothing goes between the processes of nodes 1 and 2.
struct relay_over_a_cut_link : testing::Test {
  static constexpr int ranks = 3;
  static constexpr std::size_t bytes = 3000;
  faulty_network network{{.seed = 6, .drop = 0.05, .duplicate = 0.1, .delay = 0.3, .delay_max = 10ms}};
  std::vector<std::unique_ptr<node>> nodes;
  std::vector<std::unique_ptr<messenger>> doors;
  std::vector<std::unique_ptr<process_network>> processes;
  std::vector<std::unique_ptr<endpoint>> endpoints;
  std::vector<std::unique_ptr<transport>> transports;
  job_routes routes;

  void SetUp() override {
    reserve_log reservation{1, 20 * ranks * static_cast<std::int64_t>(bytes), {}};
    for (int rank = 0; rank < ranks; ++rank) {
      nodes.push_back(std::make_unique<node>(network.make_messenger(), relay_log_options{1 << 20}));
      doors.push_back(network.make_messenger());
      processes.push_back(std::make_unique<process_network>(*doors.back()));
      endpoints.push_back(processes.back()->make_endpoint());
      routes.ranks.push_back({doors.back()->address(), 0});
      reservation.relays.push_back(nodes.back()->address());
    }
    for (auto& n : nodes) n->said(reservation);
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      routes.relay = nodes[rank]->address();
      transports.push_back(endpoints[rank]->join(1, static_cast<int>(rank), routes));
    }
    for (const auto& one : {nodes[1]->address(), doors[1]->address()}) {
      for (const auto& other : {nodes[2]->address(), doors[2]->address()}) network.cut(one, other);
    }
  }
  /// Ranks 1 and 2 exchange through node 0 from now on.
  void take_the_detour() {
    for (auto& n : nodes) n->said(detour_job{1, {{nodes[1]->address(), nodes[2]->address(), nodes[0]->address()}}});
    transports[1]->rewire(2, {doors[2]->address(), 0, nodes[0]->address()});
    transports[2]->rewire(1, {doors[1]->address(), 0, nodes[0]->address()});
  }
  static block_key partial_of(int layer, int source) {
    auto key = key_of(1, layer, source);
    key.phase = block_phase::decode;
    return key;
  }
  /// Every rank gives its block of a layer to the later ones and a partial result to all, and reads those of the others; how many were right.
  int exchange(int layer, std::chrono::milliseconds time_max) {
    std::atomic<int> right = 0;
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < ranks; ++rank) {
      threads.emplace_back([&, rank] {
        const auto at = static_cast<std::size_t>(rank);
        const auto mine = block_of(key_of(1, layer, rank), bytes);
        const std::vector<outgoing_block> given{
            {key_of(1, layer, rank), {mine->bytes}, {rank + 1, ranks}},
            {partial_of(layer, rank), {mine->bytes}, {0, ranks}, block_route::direct}};
        std::vector<std::vector<std::byte>> got(2 * ranks, std::vector<std::byte>(bytes));
        std::vector<incoming_block> wanted;
        for (int source = 0; source < ranks; ++source) {
          const auto from = static_cast<std::size_t>(source);
          if (source < rank) wanted.push_back({key_of(1, layer, source), {got[from]}});
          if (source != rank) wanted.push_back({partial_of(layer, source), {got[ranks + from]}, block_route::direct});
        }
        auto moving = transports[at]->exchange(std::span(given).subspan(rank + 1 < ranks ? 0 : 1), wanted);
        const auto deadline = std::chrono::steady_clock::now() + time_max;
        while (!moving.done() && std::chrono::steady_clock::now() < deadline) endpoints[at]->wait(deadline);
        for (const auto& incoming : wanted) {
          const auto expected = block_of(key_of(1, layer, incoming.key.source), bytes);
          right += std::ranges::equal(incoming.parts[0], expected->bytes) ? 1 : 0;
        }
      });
    }
    threads.clear();
    return right;
  }
  static constexpr int all = 3 + 6;  ///< blocks of earlier ranks, partial results of others
};

TEST_F(relay_over_a_cut_link, compressed_blocks_and_partial_results_go_through_a_third_nodes_relay) {
  std::jthread exchanging([&] { EXPECT_EQ(exchange(0, 60s), all) << "what was sent in vain before goes again"; });
  std::this_thread::sleep_for(300ms);
  EXPECT_EQ(network.sent(message_kind::carry), 0);
  take_the_detour();
  exchanging.join();
  for (int layer = 1; layer < 20; ++layer) ASSERT_EQ(exchange(layer, 60s), all) << layer;
  EXPECT_GT(network.sent(message_kind::carry), 0);
  // Whoever is in between keeps nothing of it.
  EXPECT_EQ(nodes[0]->log().held().blocks, 20) << "rank 0's";
  EXPECT_EQ(nodes[2]->log().held().blocks, 40) << "those of ranks 0 and 1";
  for (auto& n : nodes) EXPECT_THAT(n->reports(), ElementsAre(log_reserved{1}));
}

TEST_F(relay_over_a_cut_link, what_is_damaged_or_lost_on_the_detour_comes_again) {
  take_the_detour();
  for (int i = 0; i < 4; ++i) {
    network.corrupt_next(message_kind::carry);
    network.drop_next(message_kind::carry);
    network.duplicate_next(message_kind::carry);
  }
  for (int layer = 0; layer < 3; ++layer) ASSERT_EQ(exchange(layer, 60s), all) << layer;
  EXPECT_GE(network.what_happened().corrupted, 3);
}

TEST_F(relay_over_a_cut_link,
       nothing_goes_the_detour_when_the_one_in_between_has_not_been_asked_or_the_job_is_released) {
  transports[1]->rewire(2, {doors[2]->address(), 0, nodes[0]->address()});
  transports[2]->rewire(1, {doors[1]->address(), 0, nodes[0]->address()});
  EXPECT_LT(exchange(0, 1500ms), all);
  EXPECT_GT(network.sent(message_kind::carry), 0) << "it refuses them";
  take_the_detour();
  EXPECT_EQ(exchange(1, 60s), all);
  nodes[0]->said(release_log{1});
  EXPECT_LT(exchange(2, 1500ms), all);
}

TEST_F(relay_over_a_cut_link, a_relay_finds_out_whom_it_reaches_and_through_whom) {
  const auto of = [&](std::size_t n) { return nodes[n]->address(); };
  const auto paths_of = [&](std::size_t n) -> std::vector<paths_probed> {
    std::vector<paths_probed> all_of_them;
    for (const auto& report : nodes[n]->reports()) {
      if (const auto* probed = std::get_if<paths_probed>(&report)) all_of_them.push_back(*probed);
    }
    return all_of_them;
  };
  nodes[1]->said(probe_paths{1, 1, {of(0), of(2)}, {of(0), of(2)}, 3000});
  ASSERT_TRUE(comes_true([&] { return !paths_of(1).empty(); }));
  const auto probed = paths_of(1).at(0);
  EXPECT_EQ(probed.job, 1u);
  EXPECT_EQ(probed.round, 1u);
  EXPECT_THAT(probed.reached,
              testing::UnorderedElementsAre(paths_probed::path{of(0), {}}, paths_probed::path{of(2), of(0)}));
  // Nobody reaches what does not exist, and all ways that answer end the waiting at once.
  const auto begun = std::chrono::steady_clock::now();
  nodes[0]->said(probe_paths{1, 1, {of(1), of(2)}, {}, 60'000});
  ASSERT_TRUE(comes_true([&] { return !paths_of(0).empty(); }));
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 50s);
  EXPECT_EQ(paths_of(0).at(0).reached.size(), 2u);
}

TEST(relay_over_ucx, three_ranks_on_a_node_cost_one_copy_between_the_nodes) {
  node a(make_ucx_messenger({}), {.memory_bytes_max = 64 << 20});
  node b(make_ucx_messenger({}), {.memory_bytes_max = 64 << 20});
  process rank0(make_ucx_messenger({})), rank1(make_ucx_messenger({})), rank2(make_ucx_messenger({})),
      rank3(make_ucx_messenger({}));
  const reserve_log reservation{1, 16 << 20, {a.address(), b.address(), b.address(), b.address()}};
  a.said(reservation);
  b.said(reservation);
  constexpr std::int64_t bytes = 1'000'001;
  constexpr std::int64_t small = 65536;  // headers, acknowledgements
  constexpr int layers = 8;
  const std::vector<process*> readers{&rank1, &rank2, &rank3};
  for (int layer = 0; layer < layers; ++layer) {
    const auto key = key_of(1, layer, 0);
    rank1.want(b.address(), key);  // before it is there
    rank0.put(a.address(), key, {1, 4}, block_of(key, bytes));
    for (auto* reader : {&rank2, &rank3}) reader->want(b.address(), key);
    for (auto* reader : readers) ASSERT_TRUE(equal(reader->answer(key), block_of(key, bytes)));
  }
  RecordProperty("bytes_sent_to_the_other_node", std::to_string(a.traffic().bytes_sent));
  EXPECT_GE(a.traffic().bytes_sent, layers * bytes);
  // What a slow machine acknowledges late goes twice; a copy for each rank would be three times as much.
  EXPECT_LT(a.traffic().bytes_sent, 2 * layers * bytes) << "one copy for three ranks";
  EXPECT_GE(a.traffic().bytes_received, layers * bytes);
  EXPECT_LT(a.traffic().bytes_received, layers * bytes + small) << "given once";
  EXPECT_GE(b.traffic().bytes_sent, 3 * layers * bytes) << "inside the node";
  EXPECT_LT(b.traffic().bytes_sent, 3 * layers * bytes + small);
  for (auto* n : {&a, &b}) {
    EXPECT_EQ(n->log().held().bytes, layers * bytes);
    n->said(release_log{1});
    EXPECT_EQ(n->log().held().bytes, 0);
  }
}

}  // namespace
}  // namespace baton
