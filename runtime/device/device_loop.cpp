#include "runtime/device/device_loop.hpp"

#include <algorithm>
#include <exception>
#include <tuple>
#include <utility>

#include "runtime/transport/traced_transport.hpp"

namespace baton {

/// A rank's state on this device: a prefill under way, then its KV, then one answer after another.
struct device_loop::shard {
  job_id job = 0;
  int rank = 0;
  job_plan plan;
  bool keep_chosen_units = false;
  std::unique_ptr<trace_recorder> trace;  ///< null: nobody wants one
  std::unique_ptr<transport> network;
  std::unique_ptr<pass_progress> progress = std::make_unique<pass_progress>();
  std::optional<kv_shard> kv;
  std::optional<compressed_source> source;  ///< beside `kv`
  question asked;
  std::unique_ptr<prefill_pass> prefill;
  bool started = false;
  std::unique_ptr<decode_pass> answer;

  [[nodiscard]] pass* running() const {
    if (prefill) return started ? prefill.get() : nullptr;
    return answer.get();
  }
};

device_loop::device_loop(device_context& device, endpoint& network, std::function<void(device_event)> on_event)
    : device_(device),
      staged_(device.kernels().computes_on_host()
                  ? nullptr
                  : std::make_unique<staged_endpoint>(network, device.kernels(), device.queue())),
      endpoint_(staged_ ? *staged_ : network),
      on_event_(std::move(on_event)),
      thread_([this] { run(); }) {}

device_loop::~device_loop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  endpoint_.wake();
  thread_.join();
}

void device_loop::post(device_command command) {
  {
    const std::lock_guard lock(mutex_);
    inbox_.push_back(std::move(command));
  }
  endpoint_.wake();
}

std::vector<pass_snapshot> device_loop::snapshot() const {
  const std::lock_guard lock(mutex_);
  std::vector<pass_snapshot> all;
  for (const auto& [key, s] : shards_) {
    const auto& p = *s->progress;
    all.push_back({s->job, s->rank, p.layer.load(std::memory_order_relaxed),
                   p.tokens_done.load(std::memory_order_relaxed), p.waiting_for.load(std::memory_order_relaxed),
                   p.chunks.load(std::memory_order_relaxed)});
  }
  return all;
}

void device_loop::run() {
  device_.kernels().adopt_compute_thread();
  for (;;) {
    std::vector<device_command> commands;
    bool stopping = false;
    {
      const std::lock_guard lock(mutex_);
      commands.swap(inbox_);
      stopping = stopping_;
    }
    if (stopping) break;
    for (auto& command : commands) std::visit([this](auto& c) { handle(std::move(c)); }, command);
    // A doorbell that rings between a look and the sleep is not lost: `wait` returns at once.
    if (!step_one()) {
      sleep();
    } else if (staged_) {
      keep_pace();
    }
  }
  const std::lock_guard lock(mutex_);
  shards_.clear();
}

void device_loop::keep_pace() {
  in_flight_.push_back(device_.kernels().record(device_.queue()));
  staged_->progress();
  while (in_flight_.size() > steps_in_flight_max) {
    in_flight_.front()->wait();
    in_flight_.pop_front();
    staged_->progress();
  }
}

void device_loop::handle(prepare_prefill&& command) {
  auto s = std::make_unique<shard>();
  s->job = command.job;
  s->rank = command.rank;
  s->plan = std::move(command.plan);
  s->keep_chosen_units = command.keep_chosen_units;
  try {
    s->network = endpoint_.join(s->job, s->rank, command.routes);
    if (command.record_trace) {
      s->trace = std::make_unique<trace_recorder>();
      s->network = std::make_unique<traced_transport>(std::move(s->network), s->rank, *s->trace);
    }
    s->prefill = std::make_unique<prefill_pass>(device_, s->plan, s->rank, s->job, command.ids, *s->network,
                                                *s->progress, s->trace.get());
    if (!command.held_layers.empty()) s->prefill->leave_out(command.held_layers);
    trace_memory_of(*s);
  } catch (const fault& why) {
    on_event_(pass_failed{command.job, command.rank, 0, why});
    return;
  }
  const auto before = shards_.find({command.job, command.rank});
  if (before != shards_.end()) count_work(*before->second);
  {
    const std::lock_guard lock(mutex_);
    shards_[{command.job, command.rank}] = std::move(s);
  }
  on_event_(shard_prepared{command.job, command.rank});
}

void device_loop::handle(start_prefill&& command) {
  const auto s = shards_.find({command.job, command.rank});
  if (s != shards_.end()) s->second->started = true;
}

void device_loop::handle(rewire_job&& command) {
  for (auto& [key, s] : shards_) {
    if (key.first != command.job) continue;
    try {
      s->network->rewire(command.rank, command.place);
    } catch (const fault& why) {
      fail(*s, why);
    }
  }
}

void device_loop::handle(start_answer&& command) {
  for (auto& [key, s] : shards_) {
    if (key.first != command.job || !s->kv) continue;
    decode_pass::listener hears;
    const job_id job = command.job;
    const auto number = command.asked.number;
    hears.on_token = [this, job, rank = s->rank, number, repeat = command.asked.repeat](int index, std::int32_t token) {
      on_event_(token_chosen{job, rank, number, index, token, repeat});
    };
    if (command.keep_first_logits) {
      hears.on_first_logits = [this, job, rank = s->rank, number](std::span<const float> logits) {
        on_event_(logits_ready{job, rank, number, {logits.begin(), logits.end()}});
      };
    }
    s->asked = command.asked;
    s->answer.reset();
    try {
      s->answer = std::make_unique<decode_pass>(device_, s->plan, s->rank, s->job, *s->kv, s->asked, *s->network,
                                                *s->progress, std::move(hears), s->trace.get());
      trace_memory_of(*s);
    } catch (const fault& why) {
      fail(*s, why);
    }
  }
}

void device_loop::count_work(const shard& s) {
  if (!s.prefill) return;
  auto& sum = computed_[{s.job, s.rank}];
  const auto& more = s.prefill->computed();
  sum.resize(std::max(sum.size(), more.size()));
  for (std::size_t layer = 0; layer < more.size(); ++layer) sum[layer] += more[layer];
}

void device_loop::trace_memory_of(shard& s) {
  if (s.trace) s.trace->lent(device_.memory().bytes_lent(), trace_recorder::clock::now());
}

void device_loop::handle(give_again&& command) {
  const auto found = shards_.find({command.job, command.rank});
  if (found == shards_.end()) return;
  auto& s = *found->second;
  try {
    std::optional<block> made;
    if (s.prefill) {
      made = s.prefill->gather_again(command.layer);
      if (!made) s.prefill->send_after_all(command.layer);
    } else if (s.kv) {
      made = s.source->gather_again(device_, *s.kv, command.layer);
    }
    if (!made) return;
    const outgoing_block again{compressed_key(s.job, command.layer, s.rank),
                               {made->bytes},
                               {s.rank + 1, s.plan.ranks()},
                               block_route::relayed,
                               true};
    static_cast<void>(s.network->exchange(std::span(&again, 1), {}));
  } catch (const fault& why) {
    fail(s, why);
  }
}

void device_loop::handle(drop_job&& command) {
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(shards_, [&](const auto& entry) { return entry.first.first == command.job; });
  }
  std::erase_if(computed_, [&](const auto& entry) { return entry.first.first == command.job; });
  on_event_(job_dropped{command.job});
}

void device_loop::sleep() {
  // What was queued hides the waiting of whoever waits.
  while (!in_flight_.empty() && in_flight_.front()->reached()) in_flight_.pop_front();
  const bool idle = in_flight_.empty();
  const auto begun = std::chrono::steady_clock::now();
  endpoint_.wait(begun + std::chrono::seconds(1));
  if (!idle) return;
  const auto slept = std::chrono::steady_clock::now() - begun;
  for (const auto& [key, s] : shards_) {
    if (auto* const waiting = s->running()) waiting->device_idled(slept);
  }
}

bool device_loop::step_one() {
  // Jobs take turns, so that a long one holds up nobody. Within a job lower layers go first, and of one layer lower ranks: a rank
  // that ran ahead would keep the others of its device, and all that wait for their blocks, from their first layers.
  std::vector<shard*> order;
  for (const auto& [key, s] : shards_) {
    if (s->running()) order.push_back(s.get());
  }
  std::ranges::stable_sort(order, {}, [this](const shard* s) {
    return std::tuple(s->job <= last_job_, s->job, s->progress->layer.load(std::memory_order_relaxed), s->rank);
  });
  return std::ranges::any_of(order, [this](shard* s) { return step(*s); });
}

/// False if the pass waits.
bool device_loop::step(shard& s) {
  try {
    const std::uint64_t before = s.progress->chunks.load(std::memory_order_relaxed);
    rehearse_fault(s.rank, s.running()->place());
    const auto state = s.running()->step();
    if (s.progress->chunks.load(std::memory_order_relaxed) == before) return false;
    last_job_ = s.job;
    if (state != pass::state::finished) return true;
    if (staged_) staged_->progress();  // what was sent last counts
    if (s.prefill) {
      prefill_done done{s.job, s.rank, s.prefill->timings(), s.network->counts(), device_.config().kv_heads, {}, {}};
      if (s.keep_chosen_units) {
        for (int layer = 0; layer < device_.config().layers; ++layer)
          done.chosen_units.push_back(s.prefill->chosen_units(layer));
      }
      s.source.emplace(s.prefill->source());
      if (s.trace) done.trace = s.trace->take();
      count_work(s);
      done.computed = computed_[{s.job, s.rank}];
      s.kv.emplace(s.prefill->take_shard());
      if (s.keep_chosen_units) {
        for (int layer = 0; layer < device_.config().layers; ++layer)
          done.kv_checksums.push_back(kv_checksum(device_, *s.kv, layer));
      }
      s.prefill.reset();
      trace_memory_of(s);
      on_event_(std::move(done));
    } else {
      answer_done done{s.job,
                       s.rank,
                       s.asked.number,
                       s.answer->answer_tokens(),
                       s.answer->first_token_s(),
                       s.answer->timings(),
                       s.network->counts(),
                       {},
                       s.asked.repeat};
      if (s.trace) done.trace = s.trace->take();
      s.answer.reset();
      on_event_(std::move(done));
    }
  } catch (const fault& why) {
    fail(s, why);
  } catch (const std::exception& why) {
    fail(s, fault(fault_code::internal, why.what()));
  }
  return true;
}

void device_loop::fail(shard& s, const fault& why) {
  const int layer = s.progress->layer.load(std::memory_order_relaxed);
  count_work(s);
  s.prefill.reset();
  s.answer.reset();
  on_event_(pass_failed{s.job, s.rank, layer, why});
}

}  // namespace baton
