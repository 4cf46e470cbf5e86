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

process_end::woken process_end::wait_for(const std::vector<int>& descriptors,
                                         std::optional<std::chrono::milliseconds> patience) const {
  std::vector<pollfd> all{{signals_, POLLIN, 0}, {actors_, POLLIN, 0}};
  for (const int descriptor : descriptors) all.push_back({descriptor, POLLIN, 0});
  while (poll(all.data(), all.size(), patience ? static_cast<int>(patience->count()) : -1) < 0 && errno == EINTR) {
  }
  if (all[0].revents != 0) return woken::signal;
  if (all[1].revents != 0) {
    std::uint64_t count = 0;
    static_cast<void>(!read(actors_, &count, sizeof count));
    return woken::actor;
  }
  const bool readable =
      std::ranges::any_of(all.begin() + 2, all.end(), [](const pollfd& one) { return one.revents != 0; });
  return readable ? woken::descriptor : woken::time;
}

void process_end::watch_actor(caf::abstract_actor& who) const {
  who.attach_functor([ended = actors_] {
    const std::uint64_t one = 1;
    static_cast<void>(!write(ended, &one, sizeof one));
  });
}

}  // namespace baton::actors
