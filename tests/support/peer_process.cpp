#include "tests/support/peer_process.hpp"

#include <stdexcept>

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace baton {
namespace {

int digit(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

std::string first_line(int fd) {
  std::string line;
  for (char c = 0; read(fd, &c, 1) == 1 && c != '\n';) line += c;
  return line;
}

}  // namespace

peer_process::peer_process(const std::string& program, const std::string& kind) {
  int input[2], output[2];
  if (pipe2(input, O_CLOEXEC) != 0 || pipe2(output, O_CLOEXEC) != 0) throw std::runtime_error("no pipes");
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, input[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&files, output[1], STDOUT_FILENO);
  std::string name = program;
  std::string argument = kind;
  char* arguments[] = {name.data(), argument.data(), nullptr};
  const int failed = posix_spawn(&pid_, program.c_str(), &files, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&files);
  close(input[0]);
  close(output[1]);
  input_ = input[1];
  if (failed != 0) pid_ = -1;
  const std::string line = failed == 0 ? first_line(output[0]) : "";
  close(output[0]);
  for (std::size_t i = 0; i + 1 < line.size(); i += 2) {
    address_ += static_cast<char>(16 * digit(line[i]) + digit(line[i + 1]));
  }
  if (address_.empty()) {
    kill();
    close(input_);
    throw std::runtime_error("no address from " + program);
  }
}

peer_process::~peer_process() {
  kill();
  close(input_);
}

void peer_process::signal(int number) const { ::kill(pid_, number); }

void peer_process::kill() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

}  // namespace baton
