#pragma once

namespace baton {

/// Tells UCX what it has to know before a context is made, unless the environment says otherwise; programs that are started from
/// here inherit it. Happens by itself before `main`, in every program that contains a call of this function; later calls do nothing.
///
/// libucs installs handlers for HUP, ILL, BUS, FPE and SEGV while it is loaded, before any code of ours runs. They are taken away
/// again, so that what was there before holds: the default, `nohup`, a sanitizer. Not where UCX_HANDLE_ERRORS, UCX_ERROR_SIGNALS or
/// UCX_DEBUG_SIGNO is set.
void apply_ucx_settings();

}  // namespace baton
