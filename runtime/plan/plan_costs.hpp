#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.hpp"
#include "runtime/model/model_config.hpp"
#include "runtime/plan/job_plan.hpp"

namespace baton {

/// What a job takes of one device's memory at its peak, in bytes.
struct device_memory_cost {
  std::string node;
  std::string device;
  std::int64_t weights_bytes = 0;    ///< shared by all devices of a process
  std::int64_t fixed_bytes = 0;      ///< RoPE table and chunk scratch
  std::int64_t kv_bytes = 0;         ///< KV of the shards, and of query and answer
  std::int64_t workspace_bytes = 0;  ///< hidden states, q/k/v, panels, P_h of the passes under way at once
  [[nodiscard]] std::int64_t total_bytes() const { return weights_bytes + fixed_bytes + kv_bytes + workspace_bytes; }
  [[nodiscard]] std::int64_t arena_bytes() const { return kv_bytes + workspace_bytes; }
};

struct plan_costs {
  std::vector<device_memory_cost> devices;
  traffic prefill;
  traffic decode_per_token;
  std::int64_t relay_log_bytes = 0;
  std::int64_t largest_shard_bytes = 0;  ///< KV and workspace of the rank that needs most: room to replay any of them
};

/// The sizes that a model and a kind of device bring to every plan.
struct cost_basis {
  const buffer_sizes* kernels = nullptr;
  const model_config* model = nullptr;
  std::int64_t weights_bytes = 0;
  std::int64_t fixed_bytes = 0;  ///< of each device
};

kv_shape shape_of(const model_config& model, element_type type);

/// Adds up what the passes of a plan will take; the same code cuts their buffers.
plan_costs costs_of(const job_plan& plan, const cost_basis& basis);

/// What a device brings to them.
using device_basis = std::function<cost_basis(const std::string& node, const std::string& device)>;

/// The same where devices are of several kinds, all with activations of one type.
plan_costs costs_of(const job_plan& plan, const device_basis& basis_of);

}  // namespace baton
