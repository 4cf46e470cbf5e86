#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "actors/command_line.hpp"

namespace baton {

/// `baton submit`: asks a cluster for a job and follows it, or with --detach prints its number. Returns the exit code: 0 done,
/// 1 the job failed or the cluster did not answer, 2 bad input.
int submit_command(const run_options& options, const client_options& how);

/// `baton wait JOB`: follows a job to its end.
int wait_command(const client_options& how);
int cancel_command(const client_options& how);
int jobs_command(const client_options& how);
int status_command(const client_options& how);
/// `baton top`: shows what everybody does until it is interrupted; once, where standard output is no terminal.
int top_command(const client_options& how);

}  // namespace baton
