#include "runtime/transport/ucx_settings.hpp"

#include <csignal>
#include <cstdlib>
#include <string>

#include <ucs/config/global_opts.h>
#include <ucs/debug/debug.h>

namespace baton {
namespace {

struct setting {
  const char* name;
  const char* value;
};

// Read when a context is made. Chosen by measurements with UCX 1.13 over TCP.
constexpr setting environment[] = {
    // Shared memory transports do not report a dead peer, and CMA may deliver what a stalled receiver had not yet read.
    {"UCX_TLS", "tcp,self"},
    // With zero-copy, a receiver that is killed takes the sender along: an assertion inside libuct.
    {"UCX_ZCOPY_THRESH", "inf"},
    // Without zero-copy, the default segments halve the speed.
    {"UCX_TCP_TX_SEG_SIZE", "256K"},
    {"UCX_TCP_RX_SEG_SIZE", "512K"},
    // Otherwise making an endpoint can block for minutes.
    {"UCX_TCP_CONN_NB", "y"},
    // UCX's own keepalive delays the discovery of a partition; TCP's finds it in about two seconds.
    {"UCX_KEEPALIVE_INTERVAL", "inf"},
    {"UCX_TCP_KEEPIDLE", "1s"},
    {"UCX_TCP_KEEPINTVL", "1s"},
    {"UCX_TCP_KEEPCNT", "1"},
};

// Read while libucs is loaded: too late for the environment.
constexpr setting options[] = {
    // UCX writes to standard output, for one thing whenever a peer goes away; what matters comes back as a status.
    {"LOG_LEVEL", "fatal"},
    // Settings of transports that are not in use are no mistake.
    {"WARN_UNUSED_ENV_VARS", "n"},
};

bool user_has_set(const char* name) { return std::getenv(name) != nullptr; }

void give_signals_back() {
  if (!user_has_set("UCX_HANDLE_ERRORS") && !user_has_set("UCX_ERROR_SIGNALS")) {
    for (const int signal : {SIGILL, SIGBUS, SIGFPE, SIGSEGV}) ucs_debug_disable_signal(signal);
  }
  if (!user_has_set("UCX_DEBUG_SIGNO")) ucs_debug_disable_signal(SIGHUP);
}

/// Before `main` there are no threads yet that read the environment.
const bool applied_before_main = (apply_ucx_settings(), true);

}  // namespace

void apply_ucx_settings() {
  static const bool once = [] {
    for (const auto& [name, value] : environment) setenv(name, value, 0);
    for (const auto& [name, value] : options) {
      if (!user_has_set((std::string("UCX_") + name).c_str())) ucs_global_opts_set_value(name, value);
    }
    give_signals_back();
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace baton
