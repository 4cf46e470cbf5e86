#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "runtime/observe/format.hpp"
#include "runtime/plan/job_plan.hpp"
#include "runtime/plan/plan_costs.hpp"

namespace baton {

/// A plan as a person reads it, lines of at most `columns` (at least 60) that end with a newline: the strategy, the
/// rank of each block with where it is computed, what it passes and receives (KV units per KV head), the compressor
/// and why, memory per device, messages and bytes.
std::string describe(const job_plan& plan, const plan_costs& costs, int columns = 80);

/// Every field of the plan under its own name; lengths in tokens, units per KV head.
nlohmann::json to_json(const job_plan& plan);

/// {"devices": [{node, device, weights_bytes, fixed_bytes, kv_bytes, workspace_bytes, total_bytes}],
///  "prefill": {messages, bytes}, "decode_per_token": {messages, bytes}, "relay_log_bytes"}
nlohmann::json to_json(const plan_costs& costs);

}  // namespace baton
