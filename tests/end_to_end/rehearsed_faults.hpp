#pragma once

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/temporary_directory.hpp"

namespace baton {

/// False after `patience_s`.
inline bool wait_for(const std::function<bool()>& what, int patience_s = 60) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(patience_s);
  while (!what()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

/// A point of one rank's work.
struct work_place {
  int rank = 0;
  std::string stage = "prefill0";  ///< also query0, decodeN
  int layer = 0;
  int chunk = 0;

  [[nodiscard]] std::string text() const {
    return "rank" + std::to_string(rank) + "." + stage + ".layer" + std::to_string(layer) + ".chunk" +
           std::to_string(chunk);
  }
};

/// What happens once to whichever process comes to a place of a rank's work (runtime/device/rehearsed_fault.hpp).
class rehearsed_faults {
 public:
  /// For processes that shall know of it.
  [[nodiscard]] std::string environment() const { return "BATON_FAULT=" + folder_.path().string(); }
  [[nodiscard]] std::pair<std::string, std::string> environment_variable() const {
    return {"BATON_FAULT", folder_.path().string()};
  }
  /// The process stops itself. That it stands still, who it is and what becomes of it is left to the system and the test.
  void stop_at(const work_place& at) const { std::ofstream(file("stop", at)) << '\n'; }
  /// The device fails.
  void fail_at(const work_place& at) const { std::ofstream(file("fail", at)) << '\n'; }
  /// Nobody has come there since.
  [[nodiscard]] bool is_to_fail_at(const work_place& at) const { return std::filesystem::exists(file("fail", at)); }

 private:
  [[nodiscard]] std::filesystem::path file(const std::string& what, const work_place& at) const {
    return folder_.path() / (what + "." + at.text());
  }

  const temporary_directory folder_;
};

}  // namespace baton
