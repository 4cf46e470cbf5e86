#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/end_to_end/baton_process.hpp"
#include "tests/end_to_end/samples.hpp"

namespace baton {

/// A copy of configs/processes.yaml in `folder`, with something added at its end.
inline std::string config_with(const std::filesystem::path& folder, const std::string& yaml) {
  const auto file = folder / "processes.yaml";
  std::ofstream(file) << config_text("processes.yaml", yaml);
  return file.string();
}

/// The processes of a command ("node", "worker") on a node ("" for any) and device.
inline std::vector<running_process> processes_of(const baton_process& run, const std::string& command,
                                                 const std::string& node = {}, const std::string& device = {}) {
  auto all = run.processes();
  std::erase_if(all, [&](const running_process& p) {
    const auto& its_node = p.option(command == "node" ? "--name" : "--node");
    return p.arguments.empty() || p.arguments[0] != command || (!node.empty() && its_node != node) ||
           (!device.empty() && p.option("--device") != device);
  });
  return all;
}

inline int pid_of(const baton_process& run, const std::string& command, const std::string& node,
                  const std::string& device = {}) {
  const auto found = processes_of(run, command, node, device);
  EXPECT_EQ(found.size(), 1u) << command << " " << node << " " << device;
  return found.empty() ? -1 : found.front().pid;
}

}  // namespace baton
