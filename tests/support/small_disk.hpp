#pragma once

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include <sys/mount.h>

namespace baton {

/// A file system of some megabytes in memory, mounted on a folder while this object lives. Only root may have one, and not everywhere.
class small_disk {
 public:
  /// Makes the folder. Throws std::runtime_error with the system's reason where there can be no such disk.
  small_disk(std::filesystem::path at, const std::string& size) : at_(std::move(at)) {
    std::filesystem::create_directories(at_);
    if (::mount("small_disk", at_.c_str(), "tmpfs", 0, ("size=" + size).c_str()) != 0)
      throw std::runtime_error("no small disk at " + at_.string() + ": " + std::strerror(errno));
  }
  small_disk(const small_disk&) = delete;
  small_disk& operator=(const small_disk&) = delete;
  ~small_disk() { ::umount2(at_.c_str(), MNT_DETACH); }

  /// Not a byte is left.
  void fill() const {
    std::ofstream rest(filler(), std::ios::binary | std::ios::app);
    const std::string page(4096, 'x');
    while (rest.write(page.data(), static_cast<std::streamsize>(page.size())).flush()) {
    }
  }
  void make_room() const { std::filesystem::remove(filler()); }

 private:
  [[nodiscard]] std::filesystem::path filler() const { return at_ / "filler"; }

  const std::filesystem::path at_;
};

}  // namespace baton
