#pragma once

#include <filesystem>
#include <string>

#include "actors/actor_config.hpp"
#include "runtime/config/cluster_config.hpp"

namespace baton {

/// `baton coordinator`, `baton node` and `baton worker` as typed.
struct process_options {
  std::filesystem::path config;  ///< "-": standard input
  std::string node;
  std::string device;       ///< of `worker`
  std::string coordinator;  ///< HOST:PORT; empty: as the file says
  int agent = 0;            ///< of `worker`: the process that it ends with; 0: whoever has started it
};

/// `baton coordinator`: takes jobs until it is asked to end; what it has accepted stays in its journal. Returns the exit code.
int coordinator_main(const process_options& options);

/// `baton node`: a node agent. It holds the node's KV relay, starts a worker process for each device, and ends, with its workers,
/// when it is asked to. When the coordinator is gone it looks for it, or its successor, for `timeouts.reconnect`, and starts
/// workers again that end; with 0 it ends with the coordinator, and a worker's end is final.
int node_agent_main(const process_options& options);

/// `baton worker`: one device's rank worker. It ends when it is asked to or with its agent, else as the agent does.
int rank_worker_main(const process_options& options);

/// A cluster that stays needs to know sizes that a run takes from its job. Throws fault(bad_input) with the key.
void check_stays(const cluster_config& config);

/// Where the coordinator is reached: as typed, else as the file says.
actors::coordinator_address coordinator_of(const cluster_config& config, const std::string& typed);

}  // namespace baton
