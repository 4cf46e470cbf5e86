#include "runtime/transport/ucx_settings.hpp"

#include <cstdlib>

namespace baton {
namespace {

struct setting {
  const char* name;
  const char* value;
};

// Chosen by measurements with UCX 1.13 over TCP.
constexpr setting settings[] = {
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
    // UCX writes to standard output, for one thing whenever a peer goes away; what matters comes back as a status.
    {"UCX_LOG_LEVEL", "fatal"},
    // Settings of transports that are not in use are no mistake.
    {"UCX_WARN_UNUSED_ENV_VARS", "n"},

    // What libucs does while it is loaded. It takes HUP, ILL, BUS, FPE and SEGV for itself,
    {"UCX_HANDLE_ERRORS", "none"},
    {"UCX_ERROR_SIGNALS", ""},
    {"UCX_DEBUG_SIGNO", ""},
    // and patches mmap, madvise and the like inside the C library, for a cache of registered memory that TCP has no use for. A
    // thread that ends then calls into it when its thread-locals are gone, which ThreadSanitizer does not survive.
    {"UCX_MEM_MMAP_HOOK_MODE", "none"},
    {"UCX_RCACHE_ENABLE", "n"},
};

const bool applied_before_main = (apply_ucx_settings(), true);

}  // namespace

void apply_ucx_settings() {
  static const bool once = [] {
    for (const auto& [name, value] : settings) setenv(name, value, 0);
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace baton
