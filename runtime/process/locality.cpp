#include "runtime/process/locality.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include <arpa/inet.h>
#include <hwloc.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

void check(int result, fault_code code, const char* what) {
  if (result != 0) throw fault(code, std::string(what) + " failed", "hwloc");
}

/// Where an object that is no core or memory hangs.
hwloc_obj_t part_with(hwloc_topology_t topology, hwloc_obj_t device) {
  return device == nullptr ? nullptr : hwloc_get_non_io_ancestor_obj(topology, device);
}

hwloc_obj_t pci_device(hwloc_topology_t topology, const std::string& bus_id) {
  return hwloc_get_pcidev_by_busidstring(topology, bus_id.c_str());
}

hwloc_obj_t network_interface(hwloc_topology_t topology, const std::string& name) {
  for (hwloc_obj_t found = nullptr; (found = hwloc_get_next_osdev(topology, found)) != nullptr;) {
    const auto type = found->attr->osdev.type;
    if ((type == HWLOC_OBJ_OSDEV_NETWORK || type == HWLOC_OBJ_OSDEV_OPENFABRICS) && name == found->name) return found;
  }
  return nullptr;
}

/// How many steps above both the two meet; fewer is nearer. Switches between PCI devices count, as does the package.
int distance(hwloc_obj_t one, hwloc_obj_t other) {
  int steps = 0;
  for (; one != nullptr; one = one->parent, ++steps) {
    for (auto* above = other; above != nullptr; above = above->parent) {
      if (above == one) return steps;
    }
  }
  return steps;
}

std::vector<std::string> nearest(hwloc_topology_t topology, hwloc_obj_t to, std::span<const std::string> interfaces) {
  std::vector<std::pair<int, std::string>> known;
  for (const auto& name : interfaces) {
    if (auto* const found = network_interface(topology, name); found != nullptr && to != nullptr)
      known.emplace_back(distance(to, found), name);
  }
  if (known.empty()) return {interfaces.begin(), interfaces.end()};
  const int least = std::ranges::min_element(known)->first;
  std::vector<std::string> near;
  for (const auto& [steps, name] : known) {
    if (steps == least) near.push_back(name);
  }
  return near;
}

/// The address as bytes; none where it is not one.
std::vector<std::uint8_t> bytes_of(const std::string& address) {
  std::vector<std::uint8_t> bytes(sizeof(in6_addr));
  if (inet_pton(AF_INET, address.c_str(), bytes.data()) == 1) {
    bytes.resize(sizeof(in_addr));
  } else if (inet_pton(AF_INET6, address.c_str(), bytes.data()) != 1) {
    bytes.clear();
  }
  return bytes;
}

std::vector<std::uint8_t> bytes_of(const sockaddr* address) {
  const auto copied = [](const auto& from) {
    std::vector<std::uint8_t> bytes(sizeof from);
    std::memcpy(bytes.data(), &from, sizeof from);
    return bytes;
  };
  if (address == nullptr) return {};
  if (address->sa_family == AF_INET) return copied(reinterpret_cast<const sockaddr_in*>(address)->sin_addr);
  if (address->sa_family == AF_INET6) return copied(reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
  return {};
}

}  // namespace

void locality::unload::operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }

namespace {

template <class Describe>
hwloc_topology_t loaded(fault_code code, Describe&& describe) {
  hwloc_topology_t topology = nullptr;
  check(hwloc_topology_init(&topology), fault_code::device, "hwloc_topology_init");
  try {
    check(hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_IMPORTANT), code, "the filter");
    describe(topology);
    check(hwloc_topology_load(topology), code, "reading the machine's description");
  } catch (...) {
    hwloc_topology_destroy(topology);
    throw;
  }
  return topology;
}

}  // namespace

locality locality::of_this_machine() {
  return locality(topology_handle(loaded(fault_code::device, [](hwloc_topology_t) {})));
}

locality locality::of_xml(const std::string& xml) {
  return locality(topology_handle(loaded(fault_code::bad_input, [&](hwloc_topology_t topology) {
    check(hwloc_topology_set_xmlbuffer(topology, xml.c_str(), static_cast<int>(xml.size() + 1)), fault_code::bad_input,
          "reading XML");
  })));
}

locality locality::of_synthetic(const std::string& description) {
  return locality(topology_handle(loaded(fault_code::bad_input, [&](hwloc_topology_t topology) {
    check(hwloc_topology_set_synthetic(topology, description.c_str()), fault_code::bad_input,
          "reading a synthetic description");
  })));
}

std::vector<int> locality::cores_near(const std::string& pci_bus_id) const {
  auto* const topology = topology_.get();
  auto* const part = part_with(topology, pci_device(topology, pci_bus_id));
  if (part == nullptr || part->cpuset == nullptr) return {};
  std::vector<int> cores;
  for (int core = hwloc_bitmap_first(part->cpuset); core >= 0; core = hwloc_bitmap_next(part->cpuset, core))
    cores.push_back(core);
  if (hwloc_bitmap_isequal(part->cpuset, hwloc_topology_get_topology_cpuset(topology)) != 0) return {};
  return cores;
}

std::vector<std::string> locality::interfaces_near(const std::string& pci_bus_id,
                                                   std::span<const std::string> interfaces) const {
  return nearest(topology_.get(), pci_device(topology_.get(), pci_bus_id), interfaces);
}

std::vector<std::string> locality::interfaces_near(std::span<const int> cores,
                                                   std::span<const std::string> interfaces) const {
  auto* const topology = topology_.get();
  const std::unique_ptr<hwloc_bitmap_s, void (*)(hwloc_bitmap_t)> all(hwloc_bitmap_alloc(), hwloc_bitmap_free);
  for (const int core : cores) hwloc_bitmap_set(all.get(), static_cast<unsigned>(core));
  return nearest(topology, cores.empty() ? nullptr : hwloc_get_obj_covering_cpuset(topology, all.get()), interfaces);
}

std::vector<int> usable_cores(std::vector<int> cores) {
  cpu_set_t mine;
  if (sched_getaffinity(0, sizeof mine, &mine) != 0) return {};
  std::erase_if(cores, [&](int core) { return core < 0 || core >= CPU_SETSIZE || !CPU_ISSET(core, &mine); });
  return cores;
}

std::vector<std::string> interfaces_beside(const std::string& address) {
  const auto wanted = bytes_of(address);
  ifaddrs* raw = nullptr;
  if (wanted.empty() || getifaddrs(&raw) != 0) return {};
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> all(raw, freeifaddrs);
  std::vector<std::string> names;
  for (const auto* each = raw; each != nullptr; each = each->ifa_next) {
    const auto own = bytes_of(each->ifa_addr);
    const auto mask = bytes_of(each->ifa_netmask);
    if (own.size() != wanted.size() || mask.size() != wanted.size() || (each->ifa_flags & IFF_UP) == 0) continue;
    bool same = true;
    for (std::size_t i = 0; i < own.size(); ++i) same = same && (own[i] & mask[i]) == (wanted[i] & mask[i]);
    if (same && std::ranges::find(names, each->ifa_name) == names.end()) names.emplace_back(each->ifa_name);
  }
  return names;
}

}  // namespace baton
