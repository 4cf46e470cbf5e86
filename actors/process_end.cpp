#include "actors/process_end.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "kernels/fault.hpp"

namespace baton::actors {

process_end::process_end() {
  sigset_t asked;
  sigemptyset(&asked);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&asked, signal);
  sigprocmask(SIG_BLOCK, &asked, nullptr);
  signals_ = signalfd(-1, &asked, SFD_CLOEXEC | SFD_NONBLOCK);
  actors_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (signals_ < 0 || actors_ < 0) throw fault(fault_code::internal, std::strerror(errno), "signalfd");
}

process_end::~process_end() {
  close(signals_);
  close(actors_);
}

bool process_end::wait_for(const std::vector<int>& descriptors) const {
  std::vector<pollfd> all{{signals_, POLLIN, 0}, {actors_, POLLIN, 0}};
  for (const int descriptor : descriptors) all.push_back({descriptor, POLLIN, 0});
  while (poll(all.data(), all.size(), -1) < 0 && errno == EINTR) {
  }
  return std::ranges::any_of(all.begin() + 2, all.end(), [](const pollfd& one) { return one.revents != 0; }) &&
         all[0].revents == 0 && all[1].revents == 0;
}

void process_end::watch_address(caf::actor_system& system, const caf::actor_addr& who) {
  system.spawn([who, ended = actors_](caf::event_based_actor* self) {
    self->set_down_handler([self, ended](const caf::down_msg&) {
      const std::uint64_t one = 1;
      static_cast<void>(!write(ended, &one, sizeof one));
      self->quit();
    });
    self->monitor(who);
  });
}

}  // namespace baton::actors
