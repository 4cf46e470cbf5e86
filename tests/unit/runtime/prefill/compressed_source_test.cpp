#include "runtime/prefill/compressed_source.hpp"

#include <condition_variable>
#include <mutex>
#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "runtime/device/device_loop.hpp"
#include "runtime/plan/plan_costs.hpp"
#include "tests/support/reference_model.hpp"
#include "tests/support/reference_weights.hpp"
#include "tests/support/routes.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_engine.hpp"

namespace baton {
namespace {

using namespace std::chrono_literals;

constexpr int layers = 3;
constexpr int ranks = 4;
constexpr job_id job = 7;

struct precision_and_units {
  element_type precision;
  std::int64_t passing_tokens;
  std::int64_t chunk_tokens;
};

/// A job of four ranks on one device, and the log that its blocks go into.
struct compressed_source_test : testing::TestWithParam<precision_and_units> {
  compressed_source_test() : engine(written_model(), {.precision = GetParam().precision}) {
    std::mt19937 random(5);
    for (int i = 0; i < 460; ++i) document.push_back(static_cast<std::int32_t>(random() % 131));
    for (int i = 0; i < 9; ++i) query.push_back(static_cast<std::int32_t>(random() % 131));
    job_options options;
    options.ranks = ranks;
    options.anchor_tokens = 20;
    options.passing_tokens = GetParam().passing_tokens;
    options.chunk_tokens = GetParam().chunk_tokens;
    plan = make_job_plan({.document_tokens = 460,
                          .query_tokens = 9,
                          .positions_max = engine.config().max_positions,
                          .has_retaining_heads = true,
                          .options = options},
                         std::vector<device_view>{{"local", "cpu0", "class"}});
    log_bytes = relay_log_bytes(plan, shape_of(engine.config(), GetParam().precision));
    log.emplace(log_bytes);
    EXPECT_TRUE(log->reserve(job, log_bytes));
    network.emplace(*log);
    door = network->make_endpoint();
    device.emplace(engine.kernels(), engine.weights(),
                   device_options{"local", "cpu0", std::size_t{32} << 20, 1000, GetParam().chunk_tokens});
  }

  std::filesystem::path written_model() {
    reference::shape s;
    s.layers = layers;
    s.hidden = 48;
    s.heads = 6;
    s.kv_heads = 2;
    s.head_dim = 16;
    s.ffn = 80;
    s.vocabulary = 131;
    reference::write_checkpoint(reference::random_weights(s, 3, true), folder.path());
    return folder.path();
  }

  [[nodiscard]] std::vector<std::int32_t> ids_of(int rank) const {
    return tokens_of(plan.shards[static_cast<std::size_t>(rank)], document, query).ids;
  }

  /// Whether the log has the block of that rank and layer, and it is exactly this.
  [[nodiscard]] bool logged(int layer, int rank, const block& expected) const {
    const auto found = log->get(compressed_key(job, layer, rank));
    return found && found->bytes == expected.bytes && found->checksum == expected.checksum;
  }

  temporary_directory folder;
  test_engine engine;
  std::vector<std::int32_t> document;
  std::vector<std::int32_t> query;
  job_plan plan;
  std::int64_t log_bytes = 0;
  std::optional<relay_log> log;
  std::optional<local_network> network;
  std::unique_ptr<endpoint> door;
  std::optional<device_context> device;
};

TEST_P(compressed_source_test, gathers_what_was_sent_while_the_pass_lives_and_after_it) {
  std::vector<std::unique_ptr<transport>> transports;
  std::vector<std::unique_ptr<pass_progress>> progress;
  std::vector<std::unique_ptr<prefill_pass>> passes;
  for (int rank = 0; rank < ranks; ++rank) {
    transports.push_back(door->join(job, rank, routes_of(ranks)));
    progress.push_back(std::make_unique<pass_progress>());
    passes.push_back(
        std::make_unique<prefill_pass>(*device, plan, rank, job, ids_of(rank), *transports.back(), *progress.back()));
  }
  std::set<int> under_way{0, 1, 2, 3};
  int gathered = 0;
  while (!under_way.empty()) {
    for (const int rank : std::set(under_way)) {
      auto& pass = *passes[static_cast<std::size_t>(rank)];
      if (pass.step() == pass::state::finished) under_way.erase(rank);
      for (int layer = 0; layer < layers; ++layer) {
        const auto again = pass.gather_again(layer);
        ASSERT_EQ(again.has_value(), log->holds(compressed_key(job, layer, rank)));
        if (!again) continue;
        ASSERT_TRUE(logged(layer, rank, *again)) << "layer " << layer << ", rank " << rank;
        ++gathered;
      }
    }
  }
  EXPECT_GT(gathered, layers * (ranks - 1)) << "while passes were under way, too";
  for (int rank = 0; rank < ranks; ++rank) {
    auto& pass = passes[static_cast<std::size_t>(rank)];
    const auto source = pass->source();
    const auto kv = pass->take_shard();
    pass.reset();
    for (int layer = 0; layer < layers; ++layer) {
      const auto again = source.gather_again(*device, kv, layer);
      ASSERT_EQ(again.has_value(), rank + 1 < ranks) << "nobody comes after the last rank";
      EXPECT_TRUE(!again || logged(layer, rank, *again)) << "layer " << layer << ", rank " << rank;
    }
  }
}

/// Collects what a device loop says.
class listening {
 public:
  void hear(device_event event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    changed_.notify_all();
  }
  /// Waits for so many events of a kind; false if they do not come.
  template <class Event>
  bool wait_for(int count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 60s, [&] {
      return std::ranges::count_if(events_, [](const auto& e) { return std::holds_alternative<Event>(e); }) >= count;
    });
  }
  bool failed() {
    const std::lock_guard lock(mutex_);
    return std::ranges::any_of(events_, [](const auto& e) { return std::holds_alternative<pass_failed>(e); });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<device_event> events_;
};

bool comes_true(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + 60s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

TEST_P(compressed_source_test, a_device_gives_finished_blocks_again_to_a_relay_that_lost_them) {
  listening heard;
  device_loop loop(*device, *door, [&](device_event event) { heard.hear(std::move(event)); });
  for (int rank = 0; rank < ranks; ++rank) {
    loop.post(prepare_prefill{job, rank, plan, routes_of(ranks), ids_of(rank)});
    loop.post(start_prefill{job, rank});
  }
  ASSERT_TRUE(heard.wait_for<prefill_done>(ranks));
  std::map<block_key, std::shared_ptr<const block>> first;
  for (const auto& key : log->keys(job)) first[key] = log->get(key);
  ASSERT_EQ(first.size(), static_cast<std::size_t>(layers * (ranks - 1)));
  log->release(job);
  ASSERT_TRUE(log->reserve(job, log_bytes));
  for (int layer = layers - 1; layer >= 0; --layer) {
    for (int rank = 0; rank < ranks; ++rank) loop.post(give_again{job, rank, layer});
  }
  loop.post(give_again{job, 99, 0});
  loop.post(give_again{job + 1, 0, 0});
  loop.post(drop_job{job});
  ASSERT_TRUE(heard.wait_for<job_dropped>(1));
  ASSERT_EQ(log->keys(job).size(), first.size());
  for (const auto& [key, b] : first) EXPECT_TRUE(logged(key.layer, key.source, *b)) << describe(key);
  loop.post(give_again{job, 0, 0});
  loop.post(drop_job{job});
  EXPECT_TRUE(heard.wait_for<job_dropped>(2));
  EXPECT_FALSE(heard.failed());
}

TEST_P(compressed_source_test, a_device_gives_blocks_of_a_waiting_pass_again_but_none_that_is_still_to_come) {
  listening heard;
  device_loop loop(*device, *door, [&](device_event event) { heard.hear(std::move(event)); });
  // Rank 1 waits in layer 0 for rank 0, which is not told to start.
  loop.post(prepare_prefill{job, 1, plan, routes_of(ranks), ids_of(1)});
  loop.post(start_prefill{job, 1});
  ASSERT_TRUE(comes_true([&] { return log->holds(compressed_key(job, 0, 1)); }));
  const auto first = log->get(compressed_key(job, 0, 1));
  log->release(job);
  ASSERT_TRUE(log->reserve(job, log_bytes));
  loop.post(give_again{job, 1, 2});
  loop.post(give_again{job, 1, 1});
  loop.post(give_again{job, 1, 0});
  loop.post(drop_job{job});
  ASSERT_TRUE(heard.wait_for<job_dropped>(1));
  EXPECT_THAT(log->keys(job), testing::ElementsAre(compressed_key(job, 0, 1)));
  EXPECT_TRUE(logged(0, 1, *first));
  EXPECT_FALSE(heard.failed());
}

INSTANTIATE_TEST_SUITE_P(precisions, compressed_source_test,
                         testing::Values(precision_and_units{element_type::f32, 16, 2048},
                                         precision_and_units{element_type::bf16, 16, 2048},
                                         // So little scratch that a block is gathered in pieces.
                                         precision_and_units{element_type::f32, 101, 5},
                                         precision_and_units{element_type::bf16, 90, 7}));

}  // namespace
}  // namespace baton
