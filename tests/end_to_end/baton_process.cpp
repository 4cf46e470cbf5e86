#include "tests/end_to_end/baton_process.hpp"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/places.hpp"

extern char** environ;  // NOLINT(readability-redundant-declaration): POSIX leaves it to the program

namespace baton {
namespace {

std::string contents_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  try {
    return {std::istreambuf_iterator<char>(file), {}};
  } catch (const std::ios_base::failure&) {
    return {};  // of a process that has ended meanwhile
  }
}

std::vector<std::string> split_at_zeros(const std::string& text) {
  std::vector<std::string> words;
  for (std::size_t first = 0; first < text.size();) {
    const auto end = std::min(text.find('\0', first), text.size());
    words.push_back(text.substr(first, end - first));
    first = end + 1;
  }
  return words;
}

std::set<std::string> names_in(const std::string& folder) {
  std::set<std::string> names;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder, ignored))
    names.insert(entry.path().string());
  return names;
}

/// Whether a living process has this file in its memory: then another test's processes do.
bool is_mapped(const std::string& file) {
  std::error_code ignored;
  for (const auto& process : std::filesystem::directory_iterator("/proc", ignored)) {
    if (contents_of(process.path() / "maps").find(file) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

char state_of(int pid) {
  const auto stat = contents_of("/proc/" + std::to_string(pid) + "/stat");
  const auto name_end = stat.rfind(')');
  return name_end == std::string::npos || name_end + 2 >= stat.size() ? '-' : stat[name_end + 2];
}

bool is_gone(int pid) { return state_of(pid) == '-' || state_of(pid) == 'Z'; }

std::string running_process::option(const std::string& name) const {
  const auto found = std::ranges::find(arguments, name);
  return found == arguments.end() || found + 1 == arguments.end() ? std::string() : *(found + 1);
}

baton_process::baton_process(const std::vector<std::string>& arguments, const std::string& input,
                             const std::vector<std::string>& environment, company beside)
    : beside_(beside) {
  std::string pattern = (std::filesystem::temp_directory_path() / "baton-test-XXXXXX").string();
  if (!mkdtemp(pattern.data())) throw std::runtime_error("no temporary folder");
  folder_ = pattern;
  std::filesystem::create_directory(folder_ + "/tmp");
  std::ofstream(folder_ + "/in", std::ios::binary) << input;
  static std::atomic<int> runs = 0;
  mark_ = "BATON_TEST_RUN=" + std::to_string(getpid()) + "." + std::to_string(++runs);
  shared_memory_ = names_in("/dev/shm");

  std::vector<std::string> words{BATON_BINARY};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::vector<std::string> extra = environment;
  extra.push_back(mark_);
  extra.push_back("TMPDIR=" + folder_ + "/tmp");
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
    expect_nothing_left();
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void baton_process::send_signal(int signal) const { kill(pid_, signal); }

std::vector<running_process> baton_process::processes() const {
  std::vector<running_process> all;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const auto name = entry.path().filename().string();
    running_process process;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), process.pid);
    if (error != std::errc() || end != name.data() + name.size() || process.pid == getpid()) continue;
    const auto environment = split_at_zeros(contents_of(entry.path() / "environ"));
    if (std::ranges::find(environment, mark_) == environment.end()) continue;
    process.arguments = split_at_zeros(contents_of(entry.path() / "cmdline"));
    if (!process.arguments.empty()) process.arguments.erase(process.arguments.begin());
    all.push_back(std::move(process));
  }
  return all;
}

void baton_process::expect_nothing_left() const {
  // A process that was killed together with its parent is taken by init, a moment later.
  auto left = processes();
  for (int i = 0; i < 1000 && !left.empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    left = processes();
  }
  for (const auto& process : left) {
    std::string words;
    for (const auto& word : process.arguments) words += " " + word;
    ADD_FAILURE() << "process " << process.pid << " is left:" << words;
    kill(process.pid, SIGKILL);
  }
  for (const auto& file : names_in(folder_ + "/tmp")) ADD_FAILURE() << file << " is left";
  if (beside_ == company::others) return;
  const auto unmapped = [&] {
    auto files = names_in("/dev/shm");
    std::erase_if(files, [&](const auto& file) { return shared_memory_.contains(file) || is_mapped(file); });
    return files;
  };
  // Tests beside this one have files that nobody has mapped yet, or any more, for a moment.
  auto files = unmapped();
  for (int i = 0; i < 100 && !files.empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    files = unmapped();
  }
  for (const auto& file : files) ADD_FAILURE() << file << " is left";
}

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
  expect_nothing_left();
  process_result result;
  result.exit_code = late ? 124 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.peak_bytes = usage.ru_maxrss * 1024;
  result.out = contents_of(folder_ + "/out");
  result.err = contents_of(folder_ + "/err");
  // Workers and agents write there too: what a sanitizer found in one of them must not end as a death that was recovered from.
  for (const char* report : {"Sanitizer", "runtime error:", "Assertion "}) {
    if (result.err.find(report) != std::string::npos) ADD_FAILURE() << report << " in\n" << result.err;
  }
  return result;
}

process_result run_baton(const std::vector<std::string>& arguments, const std::string& input,
                         const std::vector<std::string>& environment) {
  return baton_process(arguments, input, environment).wait();
}

}  // namespace baton
