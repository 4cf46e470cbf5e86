#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

struct hwloc_topology;

namespace baton {

/// What of a machine lies near what: cores, devices on its PCI buses, network interfaces. Immutable; any thread.
class locality {
 public:
  /// This machine, with the cores that its control group allows. Throws fault(device).
  static locality of_this_machine();
  /// A machine that somebody has described, in the form of hwloc's XML files. Throws fault(bad_input).
  static locality of_xml(const std::string& xml);
  /// As hwloc's synthetic descriptions have it, such as "numa:2 core:4 pu:1": without devices. Throws fault(bad_input).
  static locality of_synthetic(const std::string& description);

  /// The cores of the smallest part of the machine that has the device, ascending, as the system counts them. Empty where nobody knows the
  /// device, or all cores are as near. `pci_bus_id` as in 0000:17:00.0.
  [[nodiscard]] std::vector<int> cores_near(const std::string& pci_bus_id) const;
  /// Those of the interfaces that no other one of them is nearer than, in their order: to the device,
  [[nodiscard]] std::vector<std::string> interfaces_near(const std::string& pci_bus_id,
                                                         std::span<const std::string> interfaces) const;
  /// or to these cores. All of them where nobody knows where any of them is.
  [[nodiscard]] std::vector<std::string> interfaces_near(std::span<const int> cores,
                                                         std::span<const std::string> interfaces) const;

 private:
  struct unload {
    void operator()(hwloc_topology* topology) const;
  };
  using topology_handle = std::unique_ptr<hwloc_topology, unload>;

  explicit locality(topology_handle topology) : topology_(std::move(topology)) {}

  topology_handle topology_;
};

/// Those of the cores that this thread may run on.
std::vector<int> usable_cores(std::vector<int> cores);

/// The network interfaces of this machine that have an address in the same network as `address`, an IPv4 or IPv6 address: each of them
/// reaches whom the one with that address reaches.
std::vector<std::string> interfaces_beside(const std::string& address);

}  // namespace baton
