#include "actors/affinity.hpp"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "kernels/cuda/cuda_backend.hpp"
#include "kernels/fault.hpp"
#include "runtime/observe/log.hpp"
#include "runtime/process/locality.hpp"

namespace baton::actors {
namespace {

/// What nobody could find out is no reason not to start.
template <class Result, class Find>
Result found_or_nothing(const node_config& node, Find&& find) {
  try {
    return find();
  } catch (const fault& why) {
    log_line(log_level::warning, fmt::format("what is near its devices is not known: {}", why.what()),
             {{"node", node.name}});
    return {};
  }
}

/// It takes some tens of milliseconds to read.
const locality& this_machine() {
  static const auto machine = locality::of_this_machine();
  return machine;
}

bool says(const char* name, std::string_view value) {
  const char* const is = std::getenv(name);
  return is != nullptr && is == value;
}

}  // namespace

std::vector<int> cores_of(const node_config& node, const device_config& device) {
  if (device.kind != device_kind::cuda || !node.affinity) return device.cores;
  const auto bus_id = cuda::pci_bus_id(device.index);
  return found_or_nothing<std::vector<int>>(node, [&] { return usable_cores(this_machine().cores_near(bus_id)); });
}

std::string network_devices_of(const node_config& node, const std::string& address,
                               std::span<const device_config> devices) {
  // Interfaces are what UCX's TCP is told by; for RDMA it has names of its own, and chooses by locality itself.
  if (!node.affinity || std::getenv("UCX_NET_DEVICES") != nullptr || !says("UCX_TLS", "tcp,self")) return {};
  return found_or_nothing<std::string>(node, [&]() -> std::string {
    const auto candidates = interfaces_beside(address);
    if (candidates.size() < 2) return {};
    const auto& machine = this_machine();
    std::vector<std::string> near;
    for (const auto& device : devices) {
      const auto nearest = device.kind == device_kind::cuda
                               ? machine.interfaces_near(cuda::pci_bus_id(device.index), candidates)
                               : machine.interfaces_near(device.cores, candidates);
      for (const auto& name : nearest) {
        if (std::ranges::find(near, name) == near.end()) near.push_back(name);
      }
    }
    return near.size() < candidates.size() ? fmt::format("{}", fmt::join(near, ",")) : std::string();
  });
}

}  // namespace baton::actors
