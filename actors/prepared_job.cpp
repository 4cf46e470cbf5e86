#include "actors/prepared_job.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "actors/job_input.hpp"
#include "actors/known_rates.hpp"
#include "kernels/fault.hpp"
#include "runtime/observe/log.hpp"
#include "runtime/strategy/strategy.hpp"

namespace baton {
namespace {

plan_request request_of(const prepared_job& job, const job_options& options) {
  const std::int64_t model_positions = job.model.config().max_positions;
  const std::int64_t limit =
      job.config.positions_max > 0 ? std::min(job.config.positions_max, model_positions) : model_positions;
  return {.document_tokens = static_cast<std::int64_t>(job.input.document_ids.size()),
          .query_tokens = static_cast<std::int64_t>(job.input.query_ids.size()),
          .system_tokens = job.input.system_tokens,
          .positions_max = limit,
          .has_retaining_heads = job.model.has_retaining_heads(),
          .options = options};
}

}  // namespace

planning prepare_planning(cluster_config config, bool needs_words) {
  auto model = checkpoint::open(config.model.directory);
  std::optional<tokenizer> words;
  try {
    words = tokenizer::load(config.model.directory);
  } catch (const fault&) {
    if (needs_words) throw;
  }
  actors::cluster_devices devices(config);
  return {std::move(config), std::move(model), std::move(words), std::move(devices)};
}

prepared_job prepare_job(const run_options& options, cluster_config config) {
  // Token ids need no words; without them the answer has no text.
  auto with = prepare_planning(std::move(config), !options.tokens);
  auto input = read_prompt(options, with.config, with.model.config(), with.words ? &*with.words : nullptr);
  return {std::move(with), std::move(input)};
}

submit_job submission_of(const prepared_job& job, const std::string& request_id, const job_options& options) {
  submit_job request;
  request.request_id = request_id;
  request.options = options;
  request.document_tokens = static_cast<std::int64_t>(job.input.document_ids.size());
  request.query_tokens = static_cast<std::int64_t>(job.input.query_ids.size());
  request.system_tokens = job.input.system_tokens;
  request.stop_tokens = job.model.config().stop_tokens;
  return request;
}

std::int64_t positions_needed(const prepared_job& job, const job_options& options) {
  return static_cast<std::int64_t>(job.input.document_ids.size() + job.input.query_ids.size()) + options.max_new_tokens;
}

cluster_rates rates_of(planning& with) {
  return actors::known_rates(with.devices, with.config, with.model, with.config.job.chunk_tokens, false,
                             [] { log_line(log_level::info, "measuring the device, once"); });
}

job_options balanced(prepared_job& job, const run_options& options, job_options wanted) {
  if (options.blocks != "balanced" || wanted.ranks < 2 || !find_strategy(wanted.strategy).compresses()) return wanted;
  wanted.block_tokens =
      balanced_blocks(request_of(job, wanted), job.devices.views(), job.model.config(), rates_of(job), false);
  return wanted;
}

plan_costs costs_on(planning& with, const job_plan& plan, std::int64_t positions) {
  return costs_of(plan, actors::bases_of(with.devices, with.model, positions, plan.chunk_tokens));
}

costed_plan plan_of(prepared_job& job, const job_options& options) {
  auto plan = make_job_plan(request_of(job, options), job.devices.views());
  auto costs = costs_on(job, plan, positions_needed(job, options));
  return {std::move(plan), std::move(costs)};
}

}  // namespace baton
