#include "runtime/process/locality.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

using cores = std::vector<int>;
using names = std::vector<std::string>;

/// A machine of two packages with four cores each. The first has a GPU and ib0 below one switch, and ib1 at the root; the second has a
/// GPU, and eth0 and ib2 beside it.
std::string two_packages() {
  int index = 0;
  const auto sets = [](int first, int count, int node_mask) {
    const unsigned mask = ((1u << count) - 1) << first;
    return fmt::format(
        R"(cpuset="{0:#010x}" complete_cpuset="{0:#010x}" nodeset="{1:#010x}" complete_nodeset="{1:#010x}")", mask,
        node_mask);
  };
  const auto bridge = [&](const std::string& kind, int depth, const std::string& buses, const std::string& more,
                          const std::string& below) {
    return fmt::format(
        R"(<object type="Bridge" gp_index="{}" bridge_type="{}" depth="{}" bridge_pci="{}"{}>{}</object>)", ++index,
        kind, depth, buses, more, below);
  };
  const auto pci = [&](const std::string& bus_id, const std::string& type, const std::string& below) {
    return fmt::format(
        R"(<object type="PCIDev" gp_index="{}" pci_busid="{}" pci_type="{} [10de:2336] [0000:0000] a1" pci_link_speed="31.5">{}</object>)",
        ++index, bus_id, type, below);
  };
  const auto interface = [&](const std::string& name) {
    return fmt::format(R"(<object type="OSDev" gp_index="{}" name="{}" osdev_type="2"/>)", ++index, name);
  };
  std::string packages;
  for (const int package : {0, 1}) {
    std::string inside =
        fmt::format(R"(<object type="NUMANode" os_index="{}" {} gp_index="{}" local_memory="1073741824"/>)", package,
                    sets(4 * package, 4, 1 << package), ++index);
    for (int core = 4 * package; core < 4 * package + 4; ++core) {
      const auto own = sets(core, 1, 1 << package);
      const int of_core = ++index;
      inside += fmt::format(
          R"(<object type="Core" os_index="{0}" {1} gp_index="{2}"><object type="PU" os_index="{0}" {1} gp_index="{3}"/></object>)",
          core, own, of_core, ++index);
    }
    if (package == 0) {
      const auto below_the_switch = pci("0000:17:00.0", "0302", "") + pci("0000:18:00.0", "0207", interface("ib0"));
      inside +=
          bridge("0-1", 0, "0000:[00-1f]", "",
                 bridge("1-1", 1, "0000:[17-18]",
                        R"( pci_busid="0000:00:01.0" pci_type="0604 [8086:2030] [0000:0000] 04" pci_link_speed="31.5")",
                        below_the_switch) +
                     pci("0000:01:00.0", "0207", interface("ib1")));
    } else {
      inside += bridge("0-1", 0, "0000:[80-9f]", "",
                       pci("0000:81:00.0", "0302", "") + pci("0000:82:00.0", "0200", interface("eth0")) +
                           pci("0000:83:00.0", "0207", interface("ib2")));
    }
    packages += fmt::format(R"(<object type="Package" os_index="{}" {} gp_index="{}">{}</object>)", package,
                            sets(4 * package, 4, 1 << package), ++index, inside);
  }
  return fmt::format(
      R"(<topology version="2.0">)"
      R"(<object type="Machine" os_index="0" {} allowed_cpuset="0x000000ff" allowed_nodeset="0x00000003" gp_index="{}">{}</object>)"
      R"(</topology>)",
      sets(0, 8, 3), ++index, packages);
}

TEST(locality, a_device_is_near_the_cores_of_its_part_of_the_machine) {
  const auto machine = locality::of_xml(two_packages());
  EXPECT_EQ(machine.cores_near("0000:17:00.0"), (cores{0, 1, 2, 3}));
  EXPECT_EQ(machine.cores_near("0000:81:00.0"), (cores{4, 5, 6, 7}));
}

TEST(locality, nothing_is_nearer_where_nobody_knows) {
  const auto machine = locality::of_xml(two_packages());
  EXPECT_EQ(machine.cores_near("0000:99:00.0"), cores{});
  EXPECT_EQ(machine.cores_near("no bus"), cores{});
  const auto plain = locality::of_synthetic("numa:2 core:4 pu:1");
  EXPECT_EQ(plain.cores_near("0000:17:00.0"), cores{});
  const names interfaces{"eth0", "eth1"};
  EXPECT_EQ(plain.interfaces_near("0000:17:00.0", interfaces), interfaces);
  EXPECT_EQ(plain.interfaces_near(cores{0, 1}, interfaces), interfaces);
  EXPECT_EQ(machine.interfaces_near("0000:99:00.0", interfaces), interfaces);
  EXPECT_EQ(machine.interfaces_near(cores{}, interfaces), interfaces);
}

TEST(locality, interfaces_below_the_same_switch_are_nearer_than_those_of_the_package) {
  const auto machine = locality::of_xml(two_packages());
  const names all{"eth0", "ib0", "ib1", "ib2"};
  EXPECT_EQ(machine.interfaces_near("0000:17:00.0", all), names{"ib0"});
  EXPECT_EQ(machine.interfaces_near("0000:17:00.0", names{"ib1", "ib2"}), names{"ib1"});
  EXPECT_EQ(machine.interfaces_near("0000:81:00.0", all), (names{"eth0", "ib2"}));
  EXPECT_EQ(machine.interfaces_near("0000:81:00.0", names{"ib0"}), names{"ib0"}) << "there is no other";
}

TEST(locality, cores_have_near_interfaces_too) {
  const auto machine = locality::of_xml(two_packages());
  const names all{"eth0", "ib0", "ib1", "ib2"};
  EXPECT_EQ(machine.interfaces_near(cores{4, 5}, all), (names{"eth0", "ib2"}));
  EXPECT_EQ(machine.interfaces_near(cores{1}, all), (names{"ib0", "ib1"})) << "a core knows the package";
  EXPECT_EQ(machine.interfaces_near(cores{3, 4}, names{"ib1", "ib2"}), (names{"ib1", "ib2"})) << "on both packages";
}

TEST(locality, descriptions_that_are_none_are_refused) {
  EXPECT_THROW(locality::of_xml("<topology"), fault);
  EXPECT_THROW(locality::of_synthetic("numa:many"), fault);
}

TEST(locality, this_machine_can_be_read) {
  const auto machine = locality::of_this_machine();
  EXPECT_EQ(machine.cores_near("ffff:ff:1f.7"), cores{});
  EXPECT_TRUE(usable_cores({-1, 1'000'000}).empty());
  const auto beside = interfaces_beside("127.0.0.1");
  EXPECT_NE(std::ranges::find(beside, "lo"), beside.end());
  EXPECT_TRUE(interfaces_beside("no address").empty());
  EXPECT_TRUE(interfaces_beside("203.0.113.7").empty()) << "a documentation network that no machine is in";
}

}  // namespace
}  // namespace baton
