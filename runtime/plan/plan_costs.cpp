#include "runtime/plan/plan_costs.hpp"

#include <algorithm>

#include "runtime/decode/decode_pass.hpp"
#include "runtime/prefill/kv_shard.hpp"
#include "runtime/prefill/workspace.hpp"

namespace baton {

kv_shape shape_of(const model_config& model, element_type type) {
  return {model.layers, model.heads, model.kv_heads, model.head_dim, bytes_of(type)};
}

plan_costs costs_of(const job_plan& plan, const cost_basis& basis) {
  return costs_of(plan, [&](const std::string&, const std::string&) { return basis; });
}

plan_costs costs_of(const job_plan& plan, const device_basis& basis_of) {
  const auto& first = plan.shards.front();
  const auto any = basis_of(first.node, first.device);
  const auto type = any.kernels->activation_type();
  const auto shape = shape_of(*any.model, type);
  plan_costs costs;
  costs.prefill = prefill_traffic(plan, shape);
  costs.decode_per_token = decode_traffic(plan, shape, 1);
  costs.relay_log_bytes = relay_log_bytes(plan, shape);
  for (const auto& shard : plan.shards) {
    const auto basis = basis_of(shard.node, shard.device);
    auto device = std::ranges::find_if(costs.devices,
                                       [&](const auto& d) { return d.node == shard.node && d.device == shard.device; });
    if (device == costs.devices.end()) {
      costs.devices.push_back({shard.node, shard.device, basis.weights_bytes, basis.fixed_bytes});
      device = costs.devices.end() - 1;
    }
    // A prefill's workspace is given back before the answer takes its own, for which there is always room below.
    const auto answer = decode_pass::bytes_needed(*basis.kernels, *basis.model, plan.ranks(), shard.block_tokens,
                                                  plan.query_tokens, plan.max_new_tokens);
    const auto prefill = prefill_workspace_bytes(*basis.kernels, *basis.model, shard);
    const auto kv = arena::aligned(kv_shard::bytes_needed(*basis.model, shard.block_tokens, type));
    const auto workspace = std::max(arena::aligned(prefill), arena::aligned(answer));
    device->kv_bytes += static_cast<std::int64_t>(kv);
    device->workspace_bytes += static_cast<std::int64_t>(workspace);
    costs.largest_shard_bytes = std::max(costs.largest_shard_bytes, static_cast<std::int64_t>(kv + workspace));
  }
  return costs;
}

}  // namespace baton
