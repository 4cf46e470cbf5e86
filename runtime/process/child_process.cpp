#include "runtime/process/child_process.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/fault.hpp"

extern char** environ;

namespace baton {
namespace {

[[noreturn]] void refuse(const std::string& what, int error) {
  throw fault(fault_code::internal, fmt::format("{}: {}", what, std::strerror(error)),
              "a process could not be started");
}

/// A nameless file that holds `text` and is read from its beginning: a pipe would have to be fed.
int file_of(const std::string& text) {
  const int file = memfd_create("input", MFD_CLOEXEC);
  if (file < 0) refuse("memfd_create", errno);
  for (std::size_t done = 0; done < text.size();) {
    const auto count = write(file, text.data() + done, text.size() - done);
    if (count < 0 && errno != EINTR) {
      const int error = errno;
      close(file);
      refuse("write", error);
    }
    if (count > 0) done += static_cast<std::size_t>(count);
  }
  lseek(file, 0, SEEK_SET);
  return file;
}

}  // namespace

std::string describe_exit(int status) {
  if (WIFSIGNALED(status))
    return fmt::format("killed by signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
  return fmt::format("exit code {}", WEXITSTATUS(status));
}

child_process::child_process(const std::filesystem::path& program, const std::vector<std::string>& arguments,
                             const std::string& input, group where)
    : group_(where) {
  std::vector<std::string> words{program.string()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (auto& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);

  const int file = file_of(input);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, file, STDIN_FILENO);
  // A connection that a child has a copy of would outlive this process.
  posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
  posix_spawnattr_t how;
  posix_spawnattr_init(&how);
  // Signals that this process blocks or ignores are its own affair.
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&how, &none);
  posix_spawnattr_setsigdefault(&how, &all);
  short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
  if (where == group::own) {
    posix_spawnattr_setpgroup(&how, 0);
    flags |= POSIX_SPAWN_SETPGROUP;
  }
  posix_spawnattr_setflags(&how, flags);
  const int error = posix_spawn(&pid_, program.c_str(), &files, &how, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&how);
  close(file);
  if (error != 0) refuse(program.string(), error);
  descriptor_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  if (descriptor_ < 0) {
    const int why = errno;
    kill();
    refuse("pidfd_open", why);
  }
}

child_process::child_process(child_process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      group_(other.group_),
      status_(other.status_) {}

child_process& child_process::operator=(child_process&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(group_, other.group_);
  std::swap(status_, other.status_);
  return *this;
}

child_process::~child_process() {
  kill();
  if (descriptor_ >= 0) close(descriptor_);
}

std::optional<int> child_process::ended() {
  if (!status_ && pid_ > 0) {
    // Only looked at, not taken: until then nobody else can get this number, nor a group of this number.
    siginfo_t how{};
    if (waitid(P_PID, static_cast<id_t>(pid_), &how, WEXITED | WNOHANG | WNOWAIT) == 0 && how.si_pid == pid_)
      status_ = how.si_code == CLD_EXITED ? W_EXITCODE(how.si_status, 0) : how.si_status;
  }
  return status_;
}

void child_process::ask_to_end() const noexcept {
  if (status_ || pid_ <= 0) return;
  ::kill(pid_, SIGTERM);
  ::kill(pid_, SIGCONT);
}

bool child_process::wait_until(std::chrono::steady_clock::time_point deadline) {
  while (!ended()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    if (left <= 0) return false;
    pollfd end{descriptor_, POLLIN, 0};
    poll(&end, 1, static_cast<int>(std::min<std::int64_t>(left, 60'000)));
  }
  return true;
}

void child_process::kill() noexcept {
  if (pid_ <= 0) return;
  // A group outlives its leader: whoever else is in it goes too.
  ::kill(group_ == group::own ? -pid_ : pid_, SIGKILL);
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  if (!status_) status_ = status;
  pid_ = -1;
}

parent_process::parent_process(int pid)
    : descriptor_(static_cast<int>(syscall(SYS_pidfd_open, pid == 0 ? getppid() : pid, 0))) {
  if (descriptor_ < 0 && errno != ESRCH) refuse("pidfd_open", errno);
  // As long as it is the parent now, nobody else can have had its number when it was opened.
  if (descriptor_ >= 0 && (pid == 0 || getppid() == pid)) return;
  if (descriptor_ >= 0) close(descriptor_);
  throw fault(fault_code::lost_peer, "the process that started it has ended", fmt::format("process {}", pid));
}

parent_process::~parent_process() { close(descriptor_); }

std::filesystem::path this_program() { return std::filesystem::read_symlink("/proc/self/exe"); }

}  // namespace baton
