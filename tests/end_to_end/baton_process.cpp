#include "tests/end_to_end/baton_process.hpp"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <thread>

#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;  // NOLINT(readability-redundant-declaration): POSIX leaves it to the program

namespace baton {
namespace {

std::string contents_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

baton_process::baton_process(const std::vector<std::string>& arguments, const std::string& input,
                             const std::vector<std::string>& environment) {
  std::string pattern = (std::filesystem::temp_directory_path() / "baton-test-XXXXXX").string();
  if (!mkdtemp(pattern.data())) throw std::runtime_error("no temporary folder");
  folder_ = pattern;
  std::ofstream(folder_ + "/in", std::ios::binary) << input;

  std::vector<std::string> words{BATON_BINARY};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::vector<std::string> extra = environment;
  std::vector<char*> envp;
  for (auto& variable : extra) envp.push_back(variable.data());
  for (char** variable = environ; *variable; ++variable) envp.push_back(*variable);
  envp.push_back(nullptr);

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, (folder_ + "/in").c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, (folder_ + "/out").c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&files, STDERR_FILENO, (folder_ + "/err").c_str(), O_WRONLY | O_CREAT, 0600);
  const int failed = posix_spawn(&pid_, BATON_BINARY, &files, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&files);
  if (failed) throw std::runtime_error("cannot start " BATON_BINARY);
}

baton_process::~baton_process() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void baton_process::send_signal(int signal) const { kill(pid_, signal); }

std::string baton_process::err_so_far() const { return contents_of(folder_ + "/err"); }

process_result baton_process::wait(int patience_s) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(patience_s);
  int status = 0;
  bool late = false;
  rusage usage{};
  while (wait4(pid_, &status, WNOHANG, &usage) == 0) {
    if (!late && std::chrono::steady_clock::now() > deadline) {
      late = true;
      kill(pid_, SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  pid_ = -1;
  process_result result;
  result.exit_code = late ? 124 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.peak_bytes = usage.ru_maxrss * 1024;
  result.out = contents_of(folder_ + "/out");
  result.err = contents_of(folder_ + "/err");
  return result;
}

process_result run_baton(const std::vector<std::string>& arguments, const std::string& input,
                         const std::vector<std::string>& environment) {
  return baton_process(arguments, input, environment).wait();
}

}  // namespace baton
