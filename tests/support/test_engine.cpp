#include "tests/support/test_engine.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <random>
#include <stdexcept>

#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#include "runtime/decode/decode_pass.hpp"
#include "runtime/device/staged_endpoint.hpp"
#include "runtime/plan/plan_costs.hpp"
#include "runtime/prefill/prefill_pass.hpp"
#include "tests/support/routes.hpp"

namespace baton {
namespace {

/// One rank of one job on its way.
struct runner {
  std::size_t job = 0;
  int rank = 0;
  std::unique_ptr<transport> network;
  std::unique_ptr<pass_progress> progress = std::make_unique<pass_progress>();
  std::unique_ptr<prefill_pass> prefill;
  std::optional<kv_shard> kv;
  std::unique_ptr<decode_pass> answer;
};

/// Steps passes until none is left, one step of each in turn, or of one drawn at random. Throws when all of them wait, and
/// `progress()`, which moves what travels by itself, moves nothing.
template <class Progress, class OnFinished>
void step_all(std::vector<std::pair<runner*, pass*>> passes, std::mt19937_64* order,
              const test_engine::step_watch& watch, Progress&& progress, OnFinished&& on_finished) {
  while (!passes.empty()) {
    if (order) std::ranges::shuffle(passes, *order);
    bool moved = false;
    for (auto it = passes.begin(); it != passes.end() && !(order && moved);) {
      const auto before = it->first->progress->chunks.load();
      if (watch.before) watch.before();
      const bool finished = it->second->step() == pass::state::finished;
      if (watch.after) watch.after(*it->second, finished);
      moved = moved || it->first->progress->chunks.load() != before;
      if (finished) on_finished(*it->first);
      it = finished ? passes.erase(it) : it + 1;
    }
    if (!moved && !progress()) throw std::runtime_error("all passes wait");
  }
}

}  // namespace

test_engine::test_engine(const std::filesystem::path& model, const engine_settings& settings)
    : model_(checkpoint::open(model)),
      kernels_(settings.on_gpu ? cuda::make_cuda_backend({})
                               : cpu::make_cpu_backend(
                                     {.threads = settings.threads, .activation = settings.precision, .cores = {}})),
      weights_(std::make_unique<model_weights>(*kernels_, model_)) {}

engine_answer test_engine::run(const job_options& options, std::span<const std::int32_t> document,
                               std::span<const std::int32_t> query, std::int64_t system_tokens,
                               std::uint64_t order_seed) {
  const job one{options, {document.begin(), document.end()}, {query.begin(), query.end()}, system_tokens};
  return std::move(run_together(std::span(&one, 1), order_seed).front());
}

std::vector<engine_answer> test_engine::run_together(std::span<const job> jobs, std::uint64_t order_seed) {
  const std::vector<device_view> views{{"local", "cpu0", kernels_->kernel_class(), kernels_->block_multiple()}};
  std::vector<engine_answer> answers(jobs.size());
  std::int64_t arena_bytes = 1 << 20;
  std::int64_t chunk = decode_pass::piece_tokens;
  std::int64_t positions = 0;
  std::int64_t log_bytes = 0;
  for (std::size_t j = 0; j < jobs.size(); ++j) {
    const auto n = static_cast<std::int64_t>(jobs[j].document.size());
    const auto m = static_cast<std::int64_t>(jobs[j].query.size());
    answers[j].plan = make_job_plan({.document_tokens = n,
                                     .query_tokens = m,
                                     .system_tokens = jobs[j].system_tokens,
                                     .positions_max = config().max_positions,
                                     .has_retaining_heads = model_.has_retaining_heads(),
                                     .options = jobs[j].options},
                                    views);
    const auto costs = costs_of(answers[j].plan, {kernels_.get(), &config(), 0, 0});
    arena_bytes += 2 * costs.devices.front().arena_bytes();
    log_bytes += costs.relay_log_bytes;
    chunk = std::max(chunk, jobs[j].options.chunk_tokens);
    positions = std::max(positions, n + m + jobs[j].options.max_new_tokens);
  }
  device_context device(*kernels_, *weights_,
                        {"local", "cpu0", static_cast<std::size_t>(arena_bytes), positions, chunk});
  relay_log log(log_bytes);
  local_network network(log);
  const auto to_network = network.make_endpoint();
  staged_endpoint staged(*to_network, *kernels_, device.queue());
  endpoint& door = kernels_->computes_on_host() ? *to_network : staged;
  std::mt19937_64 random(order_seed);
  auto* const order = order_seed ? &random : nullptr;

  std::vector<runner> runners;
  std::vector<std::pair<runner*, pass*>> passes;
  for (std::size_t j = 0; j < jobs.size(); ++j) {
    const auto& plan = answers[j].plan;
    if (!log.reserve(j + 1, relay_log_bytes(plan, shape_of(config(), kernels_->activation_type()))))
      throw std::runtime_error("log");
    for (const auto& shard : plan.shards) {
      runner r;
      r.job = j;
      r.rank = shard.rank;
      r.network = door.join(j + 1, shard.rank, routes_of(plan.ranks()));
      const auto tokens = tokens_of(shard, jobs[j].document, jobs[j].query);
      r.prefill = std::make_unique<prefill_pass>(device, plan, shard.rank, j + 1, tokens.ids, *r.network, *r.progress);
      runners.push_back(std::move(r));
    }
  }
  for (auto& r : runners) passes.emplace_back(&r, r.prefill.get());
  const auto progress = [&] {
    if (kernels_->computes_on_host()) return false;
    kernels_->synchronize(device.queue());
    return staged.progress();
  };
  step_all(passes, order, watch, progress, [&](runner& r) {
    auto& chosen = answers[r.job].chosen;
    chosen.resize(static_cast<std::size_t>(config().layers));
    for (int layer = 0; layer < config().layers; ++layer) {
      auto& ranks = chosen[static_cast<std::size_t>(layer)];
      ranks.resize(static_cast<std::size_t>(answers[r.job].plan.ranks()));
      ranks[static_cast<std::size_t>(r.rank)] = r.prefill->chosen_units(layer);
    }
    r.kv.emplace(r.prefill->take_shard());
    r.prefill.reset();
  });

  passes.clear();
  for (auto& r : runners) {
    auto& answer = answers[r.job];
    answer.document_kv.resize(static_cast<std::size_t>(config().layers));
    for (int layer = 0; layer < config().layers; ++layer) {
      auto& bytes = answer.document_kv[static_cast<std::size_t>(layer)];
      for (const auto& part : {r.kv->keys(layer), r.kv->values(layer)}) {
        const auto length = static_cast<std::size_t>(part.tokens * part.stride * bytes_of(part.type));
        bytes.resize(bytes.size() + length);
        kernels_->download(device.queue(), bytes.data() + bytes.size() - length, part.data, length);
        kernels_->synchronize(device.queue());
      }
    }
    question asked;
    asked.query_ids = jobs[r.job].query;
    asked.max_new_tokens = jobs[r.job].options.max_new_tokens;
    asked.sampling = jobs[r.job].options.sampling;
    decode_pass::listener hears;
    if (r.rank + 1 == answer.plan.ranks())
      hears.on_token = [&answer](int, std::int32_t token) { answer.ids.push_back(token); };
    hears.on_first_logits = [&answer](std::span<const float> logits) {
      answer.first_logits.assign(logits.begin(), logits.end());
    };
    r.answer = std::make_unique<decode_pass>(device, answer.plan, r.rank, r.job + 1, *r.kv, asked, *r.network,
                                             *r.progress, hears);
    passes.emplace_back(&r, r.answer.get());
  }
  step_all(passes, order, watch, progress, [](runner& r) { r.answer.reset(); });
  for (auto& answer : answers) answer.arena_peak_bytes = device.memory().peak_bytes();
  return answers;
}

}  // namespace baton
