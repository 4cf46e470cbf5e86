#include "actors/caf_sockets.hpp"

#include <atomic>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kernels/fault.hpp"

namespace {

// Numbers go round from the first one up. Where that many are not permitted, the system's choice has to do.
constexpr unsigned number_first = 128;
constexpr unsigned numbers = 512;
std::atomic<unsigned> accepted_so_far = 0;

}  // namespace

extern "C" int accept(int listening, sockaddr* from, socklen_t* length) {
  const int accepted = accept4(listening, from, length, SOCK_CLOEXEC);
  if (accepted < 0) return accepted;
  const int renumbered = fcntl(accepted, F_DUPFD_CLOEXEC, static_cast<int>(number_first + accepted_so_far++ % numbers));
  if (renumbered < 0) return accepted;
  close(accepted);
  return renumbered;
}

namespace baton::actors {

void check_sockets_are_mended() {
  if (dlsym(RTLD_DEFAULT, "accept") != reinterpret_cast<void*>(&accept))
    throw fault(fault_code::internal, "this program was linked without the mended sockets of actors/caf_sockets.cpp");
}

}  // namespace baton::actors
