#include "runtime/transport/ucx_settings.hpp"

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>

#include <dlfcn.h>
#include <gtest/gtest.h>

#include "runtime/transport/ucx_worker.hpp"

namespace baton {
namespace {

/// The first instructions of a function of the C library.
std::string code_of(const char* function) {
  void* library = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
  const void* at = dlsym(library, function);
  dlclose(library);
  if (at == nullptr) throw std::runtime_error(std::string("the C library has no ") + function);
  std::string bytes(16, '\0');
  std::memcpy(bytes.data(), at, bytes.size());
  return bytes;
}

TEST(ucx_settings, are_in_the_environment_when_main_begins) {
  for (const char* name : {"UCX_TLS", "UCX_ZCOPY_THRESH", "UCX_TCP_TX_SEG_SIZE", "UCX_TCP_RX_SEG_SIZE",
                           "UCX_TCP_CONN_NB", "UCX_KEEPALIVE_INTERVAL", "UCX_HANDLE_ERRORS"}) {
    EXPECT_NE(std::getenv(name), nullptr) << name;
  }
}

TEST(ucx_settings, leave_signals_and_the_c_library_as_they_were) {
  const auto madvise_before = code_of("madvise");
  const auto munmap_before = code_of("munmap");
  const ucx_worker loaded("lo");
  EXPECT_EQ(code_of("madvise"), madvise_before);
  EXPECT_EQ(code_of("munmap"), munmap_before);
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
