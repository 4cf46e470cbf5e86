#include "runtime/relay/unlinked_file.hpp"

#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

/// A descriptor, or -1 and errno.
int open_without_name(const std::filesystem::path& directory) {
  const int anonymous = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (anonymous >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return anonymous;
  // Some file systems know no files without names: there it has one for a moment.
  std::string name = (directory / "baton-log-XXXXXX").string();
  const int named = ::mkostemp(name.data(), O_CLOEXEC);
  if (named >= 0) ::unlink(name.c_str());
  return named;
}

}  // namespace

unlinked_file::unlinked_file(const std::filesystem::path& directory, std::int64_t bytes)
    : directory_(directory), descriptor_(open_without_name(directory)) {
  if (descriptor_ < 0) refuse("no file can be made", errno);
  // Returns its error instead of setting errno. A length of 0 would be an error of its own.
  int error = 0;
  do {
    error = bytes > 0 ? ::posix_fallocate(descriptor_, 0, bytes) : 0;
  } while (error == EINTR);
  if (error != 0) {
    ::close(descriptor_);
    refuse(fmt::format("no room for {} bytes", bytes).c_str(), error);
  }
}

unlinked_file::unlinked_file(unlinked_file&& other) noexcept
    : directory_(std::move(other.directory_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

unlinked_file::~unlinked_file() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void unlinked_file::write(std::span<const std::byte> from, std::int64_t offset) const {
  while (!from.empty()) {
    const ssize_t moved = ::pwrite(descriptor_, from.data(), from.size(), offset);
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) refuse("writing failed", moved < 0 ? errno : EIO);
    from = from.subspan(static_cast<std::size_t>(moved));
    offset += moved;
  }
}

void unlinked_file::read(std::span<std::byte> to, std::int64_t offset) const {
  while (!to.empty()) {
    const ssize_t moved = ::pread(descriptor_, to.data(), to.size(), offset);
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) refuse("reading failed", moved < 0 ? errno : EIO);
    to = to.subspan(static_cast<std::size_t>(moved));
    offset += moved;
  }
}

void unlinked_file::refuse(const char* doing, int error) const {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  throw fault(full ? fault_code::out_of_memory : fault_code::device,
              fmt::format("{}: {}", doing, std::generic_category().message(error)), directory_.string());
}

}  // namespace baton
