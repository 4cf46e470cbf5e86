#pragma once

namespace baton {

/// Puts into the environment what UCX has to be told, except what is there already; programs that are started from here inherit it.
/// Happens by itself before `main`, while no thread reads the environment, in every program that contains a call of this function;
/// later calls do nothing.
void apply_ucx_settings();

}  // namespace baton
