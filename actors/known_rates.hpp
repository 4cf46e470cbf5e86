#pragma once

#include <cstdint>
#include <functional>

#include "actors/cluster_devices.hpp"
#include "runtime/plan/cost_model.hpp"

namespace baton::actors {

/// The devices' rates for a model: those that were measured on this machine before, else measured now, in a few seconds for each kind of
/// device and number of threads, and kept. `anew`: measured in any case. `says` hears that it takes a moment. Throws fault(out_of_memory).
cluster_rates known_rates(cluster_devices& devices, const cluster_config& config, const checkpoint& model,
                          std::int64_t chunk_tokens, bool anew, const std::function<void()>& says);

}  // namespace baton::actors
