#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "runtime/cluster/messages.hpp"

/// What a cluster is doing, for people and for programs. Pure functions, any thread.
namespace baton {

/// {epoch, generation, coordinator: {pid}, nodes: [{name, state, pid, relay_log_bytes, devices: [{name, state, worker_pid, job,
/// layer}]}], jobs: [{id, state, strategy, ranks: [{rank, node, device, attempt, layer, state}], replays: [{rank, cause, layers,
/// seconds, detect_ms, replayed_on_other_class}]}]}. What there is not, a process or a job, is null.
nlohmann::json to_json(const cluster_status& status);

/// [{id, state, strategy, ranks, document_tokens, detached, why}], newest first; `why` is null where it has not failed.
nlohmann::json to_json(const jobs_list& list);

/// A line for each device, then one for each job.
std::string describe(const cluster_status& status);
/// A line for each job.
std::string describe(const jobs_list& list);

/// The lines of a screen that shows all this, with what the ranks of running jobs do and wait for: `rows` lines at most, none wider than
/// `columns`. What has no room is counted.
std::vector<std::string> cluster_screen(const cluster_status& status, int columns, int rows);

}  // namespace baton
