#include "runtime/bench/bench_engine.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <future>
#include <map>
#include <mutex>
#include <variant>

#include "kernels/fault.hpp"
#include "kernels/random_score.hpp"
#include "runtime/decode/decode_pass.hpp"
#include "runtime/device/device_loop.hpp"
#include "runtime/device/staged_endpoint.hpp"
#include "runtime/device/warm_up.hpp"
#include "runtime/plan/plan_costs.hpp"
#include "runtime/prefill/prefill_pass.hpp"
#include "runtime/relay/relay_log.hpp"
#include "runtime/transport/local.hpp"

namespace baton {
namespace {

using clock = std::chrono::steady_clock;

double seconds_since(clock::time_point begun) { return std::chrono::duration<double>(clock::now() - begun).count(); }

job_routes routes_in_one_process(int ranks) { return {std::vector<rank_place>(static_cast<std::size_t>(ranks)), {}}; }

/// What device loops say, for one thread that waits for it.
class event_queue {
 public:
  void put(device_event event) {
    {
      const std::lock_guard lock(mutex_);
      events_.push_back(std::move(event));
    }
    came_.notify_one();
  }
  /// Throws what a pass says that fails.
  device_event take() {
    std::unique_lock lock(mutex_);
    came_.wait(lock, [this] { return !events_.empty(); });
    auto event = std::move(events_.front());
    events_.pop_front();
    if (const auto* failed = std::get_if<pass_failed>(&event)) throw failed->why;
    return event;
  }

 private:
  std::mutex mutex_;
  std::condition_variable came_;
  std::deque<device_event> events_;
};

/// A rank on its way through a lockstep.
struct lockstep_rank {
  std::unique_ptr<transport> network;
  std::unique_ptr<pass_progress> progress = std::make_unique<pass_progress>();
  std::unique_ptr<prefill_pass> pass;
  double began_s = 0;  ///< embedding, which counts as the first layer's
  bool through = false;
};

double before_attention_s(const pass_timings& t) {
  const auto of = [&](phase p) { return t.phase_s[static_cast<std::size_t>(p)]; };
  return of(phase::project) + of(phase::compress) + of(phase::exchange);
}

}  // namespace

std::vector<std::int32_t> generated_tokens(std::int64_t count, std::int64_t vocabulary, std::uint64_t seed) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  const std::uint64_t key = splitmix64(seed);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int32_t>(splitmix64(key ^ i) % static_cast<std::uint64_t>(vocabulary));
  }
  return ids;
}

bench_engine::bench_engine(std::span<const bench_device> devices, std::span<const job_plan> plans) {
  std::map<std::pair<std::string, std::string>, std::int64_t> arenas;
  std::int64_t positions = 0;
  std::int64_t chunk = decode_pass::piece_tokens;
  const auto basis_of = [&](const std::string& node, const std::string& name) {
    const auto found = std::ranges::find_if(devices, [&](const auto& d) { return d.node == node && d.name == name; });
    const auto& device = found == devices.end() ? devices.front() : *found;
    return cost_basis{device.kernels, &device.weights->config(), 0, 0};
  };
  for (const auto& plan : plans) {
    const auto costs = costs_of(plan, basis_of);
    for (const auto& cost : costs.devices) {
      auto& arena = arenas[{cost.node, cost.device}];
      arena = std::max(arena, cost.arena_bytes());
    }
    log_bytes_ = std::max(log_bytes_, costs.relay_log_bytes);
    positions = std::max(positions, plan.document_tokens + plan.query_tokens);
    chunk = std::max(chunk, plan.chunk_tokens);
  }
  for (const auto& device : devices) {
    const std::int64_t needed = arenas[{device.node, device.name}];
    const std::int64_t with_room = needed + needed / 64 + (std::int64_t{1} << 20);
    devices_.push_back(std::make_unique<device_context>(
        *device.kernels, *device.weights,
        device_options{device.node, device.name, static_cast<std::size_t>(with_room), positions, chunk}));
    warm_up(*devices_.back());
  }
}

bench_engine::~bench_engine() = default;

device_context& bench_engine::device_of(const shard_plan& shard) {
  for (const auto& device : devices_) {
    if (device->options().node == shard.node && device->options().name == shard.device) return *device;
  }
  throw fault(fault_code::internal, "a plan for a device that is not here", shard.node + "/" + shard.device);
}

prefill_run bench_engine::run(const job_plan& plan, std::span<const std::int32_t> document,
                              std::span<const std::int32_t> query) {
  const job_id job = ++last_job_;
  relay_log log(log_bytes_);
  if (!log.reserve(job, log_bytes_)) throw fault(fault_code::internal, "a log that is too small");
  local_network network(log);
  event_queue events;
  // Loops end before the endpoints that they wait at.
  std::map<const device_context*, std::unique_ptr<endpoint>> doors;
  std::map<const device_context*, std::unique_ptr<device_loop>> loops;
  for (const auto& device : devices_) {
    auto& door = doors[device.get()] = network.make_endpoint();
    loops[device.get()] =
        std::make_unique<device_loop>(*device, *door, [&](device_event e) { events.put(std::move(e)); });
  }
  const auto loop_of = [&](const shard_plan& shard) -> device_loop& { return *loops.at(&device_of(shard)); };
  for (const auto& shard : plan.shards) {
    loop_of(shard).post(prepare_prefill{job, shard.rank, plan, routes_in_one_process(plan.ranks()),
                                        tokens_of(shard, document, query).ids, false, false});
  }
  for (int prepared = 0; prepared < plan.ranks();) {
    if (std::holds_alternative<shard_prepared>(events.take())) ++prepared;
  }
  prefill_run result;
  result.ranks.resize(plan.shards.size());
  const auto begun = clock::now();
  for (const auto& shard : plan.shards) loop_of(shard).post(start_prefill{job, shard.rank});
  for (int finished = 0; finished < plan.ranks();) {
    const auto event = events.take();
    if (const auto* done = std::get_if<prefill_done>(&event)) {
      result.ranks.at(static_cast<std::size_t>(done->rank)) = {done->timings, done->counts};
      ++finished;
    }
  }
  result.prefill_s = seconds_since(begun);
  return result;
}

lockstep_run bench_engine::run_in_lockstep(const job_plan& plan, std::span<const std::int32_t> document,
                                           std::span<const std::int32_t> query) {
  // A thread of its own, as a device's compute thread is: it may be kept to cores.
  return std::async(std::launch::async,
                    [&] {
                      devices_.front()->kernels().adopt_compute_thread();
                      return step_all(plan, document, query);
                    })
      .get();
}

lockstep_run bench_engine::step_all(const job_plan& plan, std::span<const std::int32_t> document,
                                    std::span<const std::int32_t> query) {
  const job_id job = ++last_job_;
  auto& device = *devices_.front();
  relay_log log(log_bytes_);
  if (!log.reserve(job, log_bytes_)) throw fault(fault_code::internal, "a log that is too small");
  local_network network(log);
  const auto to_network = network.make_endpoint();
  const bool on_host = device.kernels().computes_on_host();
  staged_endpoint staged(*to_network, device.kernels(), device.queue());
  endpoint& door = on_host ? *to_network : staged;
  std::vector<lockstep_rank> ranks(plan.shards.size());
  for (const auto& shard : plan.shards) {
    auto& r = ranks[static_cast<std::size_t>(shard.rank)];
    r.network = door.join(job, shard.rank, routes_in_one_process(plan.ranks()));
    r.pass = std::make_unique<prefill_pass>(device, plan, shard.rank, job, tokens_of(shard, document, query).ids,
                                            *r.network, *r.progress);
  }
  // What was queued is done, and blocks that are complete are given away.
  const auto settle = [&](lockstep_rank& r) {
    device.kernels().synchronize(device.queue());
    if (!on_host) staged.progress();
    r.pass->settle_timings();
  };
  // By the clock of whoever computes: a device's own does not count how blocks come to it.
  const auto spent_s = [&](const lockstep_rank& r, clock::time_point begun, double before_s) {
    return on_host ? seconds_since(begun) : r.pass->timings().compute_s - before_s;
  };
  // Until it waits, or has come to another layer. What was queued is done when the clock is read.
  const auto step_through = [&](lockstep_rank& r, int layer) {
    for (;;) {
      const auto state = r.pass->step();
      if (state == pass::state::waiting) break;
      r.through = state == pass::state::finished || r.progress->layer.load(std::memory_order_relaxed) != layer;
      if (r.through) break;
    }
    settle(r);
  };

  lockstep_run result;
  result.layers.resize(ranks.size());
  for (std::size_t h = 0; h < ranks.size(); ++h) {
    const std::int64_t chunks = (plan.shards[h].tokens() + plan.chunk_tokens - 1) / plan.chunk_tokens;
    const auto begun = clock::now();
    for (std::int64_t chunk = 0; chunk <= chunks; ++chunk) ranks[h].pass->step();  // and into the first layer
    settle(ranks[h]);
    ranks[h].began_s = seconds_since(begun);
  }
  for (int layer = 0; layer < device.config().layers; ++layer) {
    for (std::size_t h = ranks.size(); h-- > 0;) {
      auto& r = ranks[h];
      r.through = false;
      const double before_s = before_attention_s(r.pass->timings());
      const double computed_s = r.pass->timings().compute_s;
      const auto begun = clock::now();
      step_through(r, layer);
      const double took_s = spent_s(r, begun, computed_s);
      layer_times times;
      times.until_sent_s = std::min(before_attention_s(r.pass->timings()) - before_s, took_s);
      times.local_s = took_s - times.until_sent_s;
      if (layer == 0) times.until_sent_s += r.began_s;
      result.layers[h].push_back(times);
    }
    for (std::size_t h = 0; h < ranks.size(); ++h) {
      auto& r = ranks[h];
      if (r.through) continue;
      const double computed_s = r.pass->timings().compute_s;
      const auto begun = clock::now();
      step_through(r, layer);
      result.layers[h].back().rest_s = spent_s(r, begun, computed_s);
      if (!r.through) throw fault(fault_code::internal, "a rank waits though all before it are through");
    }
  }
  for (const auto& r : ranks) result.ranks.push_back({r.pass->timings(), r.network->counts()});
  return result;
}

}  // namespace baton
