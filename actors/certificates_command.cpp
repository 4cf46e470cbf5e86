#include "actors/certificates_command.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "actors/job_output.hpp"
#include "kernels/fault.hpp"
#include "runtime/config/cluster_config.hpp"
#include "runtime/security/certificates.hpp"

namespace baton {
namespace {

std::vector<cluster_member> members_of(const certificates_options& options) {
  std::vector<cluster_member> members{{member_role::coordinator, {}}};
  const auto add = [&](const std::string& node) {
    const cluster_member who{member_role::node, node};
    if (std::ranges::find(members, who) == members.end()) members.push_back(who);
  };
  if (!options.config.empty()) {
    for (const auto& node : load_cluster_config(options.config).nodes) add(node.name);
  }
  for (const auto& name : options.nodes) {
    if (!is_node_name(name)) throw fault(fault_code::bad_input, "'" + name + "' is no name of a node", "--node");
    add(name);
  }
  if (members.size() == 1)
    throw fault(fault_code::bad_input, "name the cluster's nodes, or its configuration with --config", "--node");
  members.push_back({member_role::client, {}});
  return members;
}

}  // namespace

int certificates_command(const certificates_options& options) {
  try {
    const auto members = members_of(options);
    const auto made = make_certificates(options.directory, members);
    for (const auto& file : made) fmt::print("made {}\n", file.string());
    if (made.empty()) fmt::print("all certificates are there already\n");
    fmt::print(
        "\nWhat belongs where, into the folder that security.certificates names there (mode 600, the owner Baton runs "
        "as):\n");
    std::size_t width = 0;
    for (const auto& who : members) width = std::max(width, who.text().size());
    for (const auto& who : members) {
      fmt::print("  {:<{}}  ca.crt  {}.crt  {}.key\n", who.text(), width, who.stem(), who.stem());
    }
    fmt::print("Nowhere: ca.key. Whoever has it can make members; keep it where no host of the cluster can read it.\n");
    return 0;
  } catch (const fault& why) {
    return report(why, why.code() == fault_code::bad_input ? 2 : 1);
  }
}

}  // namespace baton
