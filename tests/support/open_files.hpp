#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace baton {

/// Descriptors of this process that stand for files in `directory`, which have no names there.
inline std::vector<int> files_open_in(const std::filesystem::path& directory) {
  std::vector<int> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const auto to = std::filesystem::read_symlink(entry.path(), gone).string();
    if (to.starts_with(directory.string() + "/")) found.push_back(std::stoi(entry.path().filename()));
  }
  return found;
}

}  // namespace baton
