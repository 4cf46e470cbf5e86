#pragma once

#include <filesystem>
#include <string>

namespace baton {

/// `baton node` and `baton worker` as typed.
struct process_options {
  std::filesystem::path config;  ///< "-": standard input
  std::string node;
  std::string device;       ///< of `worker`
  std::string coordinator;  ///< HOST:PORT
};

/// `baton node`: a node agent. It holds the node's KV relay, starts a worker process for each device, and ends, with its workers, when
/// the coordinator does or when it is asked to. Returns the exit code.
int node_agent_main(const process_options& options);

/// `baton worker`: one device's rank worker. It ends when the coordinator does or when it is asked to.
int rank_worker_main(const process_options& options);

}  // namespace baton
