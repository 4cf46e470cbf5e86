#pragma once

#include "actors/command_line.hpp"

namespace baton {

/// `baton run`: plans, loads, prefills, answers, reports. Returns the exit code: 0 done, 1 the job failed, 2 bad input.
int run_command(const run_options& options);

/// `baton plan`: prints what `run` would do.
int plan_command(const run_options& options);

}  // namespace baton
