#pragma once

#include "actors/command_line.hpp"

namespace baton {

/// `baton inspect`: says what a checkpoint directory holds, what a job would take of it, and whether Baton can run it. Returns the
/// exit code: 0 it can, 2 it cannot or the input is wrong.
int inspect_command(const inspect_options& options);

}  // namespace baton
