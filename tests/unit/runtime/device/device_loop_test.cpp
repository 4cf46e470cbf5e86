#include "runtime/device/device_loop.hpp"

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_backend.hpp"
#include "runtime/model/checkpoint.hpp"
#include "runtime/transport/local.hpp"
#include "tests/support/reference_weights.hpp"
#include "tests/support/routes.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using namespace std::chrono_literals;

constexpr std::int64_t document_tokens = 600;
constexpr std::int64_t query_tokens = 8;

std::unique_ptr<backend> one_thread() {
  return cpu::make_cpu_backend({.threads = 1, .activation = element_type::f32, .cores = {}});
}

/// A device with its loop; what the loop said is there to be waited for.
class running_device {
 public:
  running_device(const model_weights& weights, local_network& network)
      : door_(network.make_endpoint()),
        device_(*kernels_, weights, {"local", "cpu0", std::size_t{64} << 20, 2048, 256}),
        loop_(device_, *door_, [this](device_event event) {
          {
            const std::lock_guard lock(mutex_);
            events_.push_back(std::move(event));
          }
          said_.notify_all();
        }) {}

  device_loop& loop() { return loop_; }

  /// The next event of this kind for a job; throws what the loop said had failed.
  template <class Kind>
  Kind next(job_id job) {
    std::unique_lock lock(mutex_);
    std::optional<Kind> found;
    const bool in_time = said_.wait_for(lock, 100s, [&] {
      for (auto event = events_.begin(); event != events_.end(); ++event) {
        if (const auto* failed = std::get_if<pass_failed>(&*event)) throw failed->why;
        auto* const kind = std::get_if<Kind>(&*event);
        if (!kind || kind->job != job) continue;
        found = std::move(*kind);
        events_.erase(event);
        return true;
      }
      return false;
    });
    if (!in_time) throw std::runtime_error("the device says nothing");
    return std::move(*found);
  }

  void until_waiting(job_id job) {
    const auto patience = std::chrono::steady_clock::now() + 100s;
    for (;;) {
      for (const auto& pass : loop_.snapshot()) {
        if (pass.job == job && pass.waiting_for >= 0) return;
      }
      if (std::chrono::steady_clock::now() > patience) throw std::runtime_error("the pass does not wait");
      std::this_thread::sleep_for(1ms);
    }
  }

 private:
  std::unique_ptr<backend> kernels_ = one_thread();
  std::unique_ptr<endpoint> door_;
  device_context device_;
  std::mutex mutex_;
  std::condition_variable said_;
  std::vector<device_event> events_;
  device_loop loop_;
};

struct device_loop_test : testing::Test {
  temporary_directory folder;
  std::unique_ptr<backend> loader = one_thread();
  std::unique_ptr<model_weights> weights;
  relay_log log{std::int64_t{16} << 20};
  local_network network{log};

  void SetUp() override {
    reference::write_checkpoint(reference::random_weights({}, 5, true), folder.path());
    weights = std::make_unique<model_weights>(*loader, checkpoint::open(folder.path()));
  }

  job_plan plan_of(const std::string& strategy, int ranks) const {
    job_options options;
    options.strategy = strategy;
    options.ranks = ranks;
    options.chunk_tokens = 128;
    options.max_new_tokens = 2;
    return make_job_plan({.document_tokens = document_tokens,
                          .query_tokens = query_tokens,
                          .positions_max = 2048,
                          .has_retaining_heads = true,
                          .options = options},
                         std::vector<device_view>{{"local", "cpu0", loader->kernel_class()}});
  }

  static prepare_prefill shard_of(job_id job, int rank, const job_plan& plan, bool record_trace = false) {
    const std::vector<std::int32_t> document(document_tokens, 17), query(query_tokens, 5);
    const auto& shard = plan.shards[static_cast<std::size_t>(rank)];
    return {job, rank, plan, routes_of(plan.ranks()), tokens_of(shard, document, query).ids, false, record_trace};
  }
};

TEST_F(device_loop_test, waiting_is_exposed_only_while_the_device_has_nothing_else_to_compute) {
  ASSERT_TRUE(log.reserve(1, log.bytes_max()));
  running_device first(*weights, network);
  running_device second(*weights, network);
  const auto two = plan_of("apb", 2);
  const auto one = plan_of("full", 1);
  first.loop().post(shard_of(1, 0, two));
  second.loop().post(shard_of(1, 1, two));
  second.loop().post(shard_of(2, 0, one));
  first.next<shard_prepared>(1);
  second.next<shard_prepared>(1);
  second.next<shard_prepared>(2);

  // Rank 1 waits for rank 0, which has not begun: meanwhile its device computes another job, then idles.
  second.loop().post(start_prefill{1, 1});
  second.until_waiting(1);
  second.loop().post(start_prefill{2, 0});
  const auto other = second.next<prefill_done>(2).timings;
  std::this_thread::sleep_for(20ms);
  first.loop().post(start_prefill{1, 0});
  const auto sender = first.next<prefill_done>(1).timings;
  const auto waited = second.next<prefill_done>(1).timings;

  EXPECT_GT(waited.exposed_wait_s, 0);
  EXPECT_GE(waited.wait_s - waited.exposed_wait_s, other.compute_s - 1e-9);
  EXPECT_EQ(other.exposed_wait_s, 0);
  EXPECT_EQ(sender.exposed_wait_s, 0);
}

TEST_F(device_loop_test, ranks_of_one_device_go_from_layer_to_layer_together) {
  ASSERT_TRUE(log.reserve(1, log.bytes_max()));
  running_device device(*weights, network);
  constexpr int ranks = 3;
  const auto plan = plan_of("apb", ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    device.loop().post(shard_of(1, rank, plan, true));
    device.next<shard_prepared>(1);
  }
  // Those behind wait for the first at once, so that all have begun when it does.
  for (int rank = ranks - 1; rank >= 0; --rank) {
    device.loop().post(start_prefill{1, rank});
    if (rank > 0) device.until_waiting(1);
  }
  std::map<int, std::int64_t> begun_ns, ended_ns;  ///< of a layer's work, over all ranks
  for (int i = 0; i < ranks; ++i) {
    for (const auto& span : device.next<prefill_done>(1).trace.spans) {
      if (span.what == activity::wait) continue;
      const auto [begun, is_new] = begun_ns.emplace(span.layer, span.begin_ns);
      begun->second = std::min(begun->second, span.begin_ns);
      ended_ns[span.layer] = std::max(ended_ns[span.layer], span.end_ns);
    }
  }
  const int layers = weights->config().layers;
  ASSERT_EQ(static_cast<int>(begun_ns.size()), layers);
  for (int layer = 1; layer < layers; ++layer) EXPECT_GE(begun_ns[layer], ended_ns[layer - 1]) << "layer " << layer;
}

TEST_F(device_loop_test, a_trace_comes_with_prefill_and_answer_of_the_shards_that_were_asked_for_it) {
  ASSERT_TRUE(log.reserve(1, log.bytes_max()));
  running_device device(*weights, network);
  const auto plan = plan_of("apb", 2);
  for (int rank = 0; rank < 2; ++rank) {
    device.loop().post(shard_of(1, rank, plan, rank == 1));
    device.next<shard_prepared>(1);
  }
  for (int rank = 0; rank < 2; ++rank) device.loop().post(start_prefill{1, rank});
  const auto has = [](const rank_trace& trace, block_phase stage, activity what) {
    return std::ranges::any_of(trace.spans,
                               [&](const trace_span& span) { return span.stage == stage && span.what == what; });
  };
  for (int i = 0; i < 2; ++i) {
    const auto done = device.next<prefill_done>(1);
    if (done.rank == 0) {
      EXPECT_EQ(done.trace, rank_trace{});
      continue;
    }
    for (const auto what : {activity::project, activity::exchange, activity::attend, activity::feed_forward})
      EXPECT_TRUE(has(done.trace, block_phase::prefill, what)) << name_of(what);
    EXPECT_FALSE(has(done.trace, block_phase::prefill, activity::compress)) << "the last rank passes nothing on";
    EXPECT_EQ(done.trace.blocks.size(), 2u) << "one of rank 0 in each layer";
  }
  question asked;
  asked.query_ids.assign(query_tokens, 5);
  asked.max_new_tokens = 2;
  device.loop().post(start_answer{1, asked, false});
  for (int i = 0; i < 2; ++i) {
    const auto done = device.next<answer_done>(1);
    if (done.rank == 0) {
      EXPECT_EQ(done.trace, rank_trace{});
      continue;
    }
    for (const auto stage : {block_phase::query, block_phase::decode}) {
      for (const auto what : {activity::project, activity::exchange, activity::attend, activity::feed_forward})
        EXPECT_TRUE(has(done.trace, stage, what)) << name_of(what);
    }
    EXPECT_FALSE(has(done.trace, block_phase::prefill, activity::project)) << "told already";
  }
}

}  // namespace
}  // namespace baton
