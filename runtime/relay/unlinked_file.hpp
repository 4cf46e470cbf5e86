#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace baton {

/// A file of fixed size without a name: its room on the disk is taken when it is made and given back when it is closed, however
/// the process ends. Errors are fault(out_of_memory) where the disk is full, else fault(device), and name the directory. Reading and
/// writing: any thread.
class unlinked_file {
 public:
  unlinked_file(const std::filesystem::path& directory, std::int64_t bytes);
  unlinked_file(unlinked_file&& other) noexcept;
  unlinked_file& operator=(unlinked_file&&) = delete;
  ~unlinked_file();

  void write(std::span<const std::byte> from, std::int64_t offset) const;
  void read(std::span<std::byte> to, std::int64_t offset) const;

 private:
  [[noreturn]] void refuse(const char* doing, int error) const;

  std::filesystem::path directory_;
  int descriptor_ = -1;
};

}  // namespace baton
