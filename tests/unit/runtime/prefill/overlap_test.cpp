#include <exception>
#include <random>
#include <stdexcept>
#include <thread>

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_backend.hpp"
#include "runtime/model/checkpoint.hpp"
#include "runtime/plan/plan_costs.hpp"
#include "runtime/prefill/prefill_pass.hpp"
#include "runtime/transport/traced_transport.hpp"
#include "tests/support/delayed_network.hpp"
#include "tests/support/reference_weights.hpp"
#include "tests/support/routes.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/trace_checks.hpp"

namespace baton {
namespace {

using namespace std::chrono_literals;

constexpr int ranks = 3;
constexpr int layers = 4;
constexpr auto delay = 20ms;

/// APB that waits for its blocks before it attends to anything: what an overlap must be told from.
class serial_apb final : public strategy {
 public:
  [[nodiscard]] std::string_view name() const override { return "serial"; }
  [[nodiscard]] published_budget budget(const job_options& asked, std::span<const std::int64_t> block_tokens,
                                        std::int64_t document_tokens) const override {
    return apb_strategy().budget(asked, block_tokens, document_tokens);
  }
  [[nodiscard]] std::vector<shard_plan> split(const split_request& request) const override {
    return apb_strategy().split(request);
  }
  task attend(layer& l) const override {
    auto passing = l.exchange(l.compress(), l.later_ranks(), l.earlier_ranks());
    const kv_block received = co_await passing;
    co_await l.attend_causal(l.anchor_and_local());
    co_await l.attend_dense(received);
  }
};

/// One rank on a device and a thread of its own.
struct rank_on_its_own {
  std::unique_ptr<backend> kernels =
      cpu::make_cpu_backend({.threads = 1, .activation = element_type::f32, .cores = {}});
  std::unique_ptr<endpoint> door;
  std::unique_ptr<device_context> device;
  trace_recorder trace;
  std::unique_ptr<transport> network;
  std::exception_ptr failed;
};

/// The prefill of a random model by `how`, over a network that is late.
std::vector<rank_trace> traces_over_late_network(const strategy& how) {
  const temporary_directory folder;
  reference::shape shape;
  shape.layers = layers;
  reference::write_checkpoint(reference::random_weights(shape, 5, true), folder.path());
  const auto model = checkpoint::open(folder.path());
  const auto loader = cpu::make_cpu_backend({.threads = 1, .activation = element_type::f32, .cores = {}});
  const model_weights weights(*loader, model);

  std::mt19937 random(3);
  std::vector<std::int32_t> document(3000), query(8);
  for (auto* ids : {&document, &query}) {
    for (auto& id : *ids) id = static_cast<std::int32_t>(random() % 256);
  }
  job_options options;
  options.ranks = ranks;
  options.anchor_tokens = 200;
  options.passing_tokens = 100;
  options.chunk_tokens = 512;
  const std::vector<device_view> views{{"local", "cpu0", loader->kernel_class()}};
  const auto plan = make_job_plan({.document_tokens = static_cast<std::int64_t>(document.size()),
                                   .query_tokens = static_cast<std::int64_t>(query.size()),
                                   .positions_max = model.config().max_positions,
                                   .has_retaining_heads = true,
                                   .options = options},
                                  views);

  relay_log log(std::int64_t{64} << 20);
  if (!log.reserve(1, log.bytes_max())) throw std::runtime_error("log");
  local_network host(log);
  delayed_network late(host, delay, layers);
  std::vector<rank_on_its_own> all(ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    auto& r = all[static_cast<std::size_t>(rank)];
    r.door = late.make_endpoint();
    r.device = std::make_unique<device_context>(
        *r.kernels, weights, device_options{"local", "cpu0", std::size_t{64} << 20, 4096, options.chunk_tokens});
    r.network = std::make_unique<traced_transport>(r.door->join(1, rank, routes_of(ranks)), rank, r.trace);
  }
  const auto compute = [&](int rank) {
    auto& r = all[static_cast<std::size_t>(rank)];
    try {
      r.kernels->adopt_compute_thread();
      const auto ids = tokens_of(plan.shards[static_cast<std::size_t>(rank)], document, query).ids;
      pass_progress progress;
      prefill_pass pass(*r.device, plan, how, rank, 1, ids, *r.network, progress, &r.trace);
      const auto patience = std::chrono::steady_clock::now() + 100s;
      for (auto state = pass.step(); state != pass::state::finished; state = pass.step()) {
        if (std::chrono::steady_clock::now() > patience) throw std::runtime_error("it hangs");
        if (state == pass::state::waiting) r.door->wait(patience);
      }
    } catch (...) {
      r.failed = std::current_exception();
      for (auto& other : all) other.network->abort();
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < ranks; ++rank) threads.emplace_back(compute, rank);
  }
  std::vector<rank_trace> traces;
  for (auto& r : all) {
    if (r.failed) std::rethrow_exception(r.failed);
    traces.push_back(r.trace.take());
  }
  return traces;
}

/// Every block has gone its way, and none was there early.
void expect_late_blocks(const std::vector<rank_trace>& traces) {
  const auto ways = prefill_ways(traces);
  EXPECT_EQ(ways.size(), static_cast<std::size_t>(layers * ranks * (ranks - 1) / 2));
  for (const auto& way : ways) {
    EXPECT_LT(way.key.source, way.target);
    EXPECT_GE(way.arrived_ns - way.sent_ns, std::chrono::nanoseconds(delay).count());
  }
}

TEST(overlap, apb_attends_to_its_own_block_while_passing_blocks_travel) {
  const auto traces = traces_over_late_network(apb_strategy());
  expect_late_blocks(traces);
  // Nothing keeps a rank from attending in its first layer before anybody else has begun.
  for (int rank = 1; rank < ranks; ++rank) {
    for (int layer = 1; layer < layers; ++layer)
      EXPECT_TRUE(attends_while_blocks_travel(traces, rank, layer)) << "rank " << rank << ", layer " << layer;
  }
  EXPECT_FALSE(attends_while_blocks_travel(traces, 0, 1)) << "nothing travels to rank 0";
}

TEST(overlap, is_not_seen_where_a_strategy_waits_before_it_attends) {
  const auto traces = traces_over_late_network(serial_apb());
  expect_late_blocks(traces);
  for (int rank = 0; rank < ranks; ++rank) {
    for (int layer = 0; layer < layers; ++layer)
      EXPECT_FALSE(attends_while_blocks_travel(traces, rank, layer)) << "rank " << rank << ", layer " << layer;
  }
}

}  // namespace
}  // namespace baton
