#include "runtime/transport/ucx_settings.hpp"

#include <csignal>
#include <cstdlib>

#include <dlfcn.h>
#include <gtest/gtest.h>

namespace baton {
namespace {

TEST(ucx_settings, are_in_the_environment_when_main_begins) {
  for (const char* name : {"UCX_TLS", "UCX_ZCOPY_THRESH", "UCX_TCP_TX_SEG_SIZE", "UCX_TCP_RX_SEG_SIZE",
                           "UCX_TCP_CONN_NB", "UCX_KEEPALIVE_INTERVAL"}) {
    EXPECT_NE(std::getenv(name), nullptr) << name;
  }
}

TEST(ucx_settings, leave_no_signal_to_libucs) {
  for (const int number : {SIGHUP, SIGILL, SIGBUS, SIGFPE, SIGSEGV}) {
    struct sigaction now {};
    ASSERT_EQ(sigaction(number, nullptr, &now), 0);
    Dl_info where{};
    if (dladdr(reinterpret_cast<const void*>(now.sa_handler), &where) == 0) continue;  // the default, or ignored
    EXPECT_EQ(std::string(where.dli_fname).find("libucs"), std::string::npos) << number;
  }
}

}  // namespace
}  // namespace baton
