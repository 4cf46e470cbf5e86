#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace baton {

/// `baton certificates` as typed.
struct certificates_options {
  std::filesystem::path directory;
  std::filesystem::path config;    ///< empty: none; its nodes get certificates
  std::vector<std::string> nodes;  ///< further nodes
};

/// Makes what the folder lacks, and says which files belong on which host. Returns the exit code.
int certificates_command(const certificates_options& options);

}  // namespace baton
