#pragma once

#include "runtime/cluster/messages.hpp"
#include "runtime/wire/checks.hpp"
#include "runtime/wire/client.pb.h"

/// The parts of client.proto that people look at: who is there, and what is done. `write` fills a message; `read` checks one, whose
/// place is `at`.
namespace baton::wire {

void write(const replay_result& from, ReplayResult& to);
replay_result read(const ReplayResult& in, const place& at);

void write(const jobs_list& from, JobsList& to);
jobs_list read(const JobsList& in, const place& at);

void write(const cluster_status& from, ClusterStatus& to);
cluster_status read(const ClusterStatus& in, const place& at);

}  // namespace baton::wire
