#pragma once

#include <span>
#include <string>
#include <vector>

#include "runtime/config/cluster_config.hpp"

namespace baton::actors {

/// The cores that a device's threads keep to: those that were listed, or, of a GPU, those next to it. Empty: wherever the system puts
/// them.
std::vector<int> cores_of(const node_config& node, const device_config& device);

/// What UCX is to be told as its network devices: of the interfaces that lead where the node's address does those nearest to the
/// devices. Empty where it shall choose by itself: nothing is known, or it has been told otherwise.
std::string network_devices_of(const node_config& node, const std::string& address,
                               std::span<const device_config> devices);

}  // namespace baton::actors
