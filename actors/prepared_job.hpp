#pragma once

#include <optional>

#include "actors/cluster_devices.hpp"
#include "actors/command_line.hpp"
#include "runtime/cluster/messages.hpp"
#include "runtime/model/checkpoint.hpp"
#include "runtime/model/prompt_format.hpp"
#include "runtime/model/tokenizer.hpp"
#include "runtime/plan/cost_model.hpp"
#include "runtime/plan/plan_costs.hpp"

namespace baton {

/// A configuration with its model and devices, before anything is loaded: enough to plan with.
struct planning {
  cluster_config config;
  checkpoint model;
  std::optional<tokenizer> words;
  actors::cluster_devices devices;
};

/// What a command was asked to compute.
struct prepared_job : planning {
  prompt input;
};

/// Throws fault(bad_input). Where `needs_words` is false, a tokenizer that cannot be loaded is no fault.
planning prepare_planning(cluster_config config, bool needs_words);
/// The same, with document and question as token ids.
prepared_job prepare_job(const run_options& options, cluster_config config);

/// What the coordinator is asked for.
submit_job submission_of(const prepared_job& job, const std::string& request_id, const job_options& options);

std::int64_t positions_needed(const prepared_job& job, const job_options& options);

/// This machine's devices, measured once.
cluster_rates rates_of(planning& with);

/// With `--blocks balanced`: block lengths go into the job, so that its plan records them.
job_options balanced(prepared_job& job, const run_options& options, job_options wanted);

/// What a plan takes on these devices, each of which has `positions` in its tables.
plan_costs costs_on(planning& with, const job_plan& plan, std::int64_t positions);

struct costed_plan {
  job_plan plan;
  plan_costs costs;
};
/// Throws fault(bad_input) where there is no such plan.
costed_plan plan_of(prepared_job& job, const job_options& options);

/// How much of a device's memory to set aside for what a plan takes there: extents are rounded up, and answers come while other
/// pieces are still lent.
constexpr std::int64_t with_margin(std::int64_t bytes) { return bytes + bytes / 64 + (std::int64_t{1} << 20); }

}  // namespace baton
