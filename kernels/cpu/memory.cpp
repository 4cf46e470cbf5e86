#include "kernels/cpu/memory.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include <sys/mman.h>

#include "kernels/fault.hpp"

namespace baton::cpu {

host_memory::host_memory(std::size_t bytes, pages_taken pages) : bytes_(bytes) {
  if (bytes == 0) return;
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) {
    throw fault(fault_code::out_of_memory,
                "cannot reserve " + std::to_string(bytes) + " bytes of host memory: " + std::strerror(errno));
  }
  data_ = static_cast<std::byte*>(mapped);
  // Weights and panels are read in long strides; a refusal costs speed only.
  madvise(mapped, bytes, MADV_HUGEPAGE);
  if (pages == pages_taken::at_once) take_pages(0, bytes);
}

void host_memory::take_pages(std::size_t first, std::size_t bytes) const {
  if (first >= bytes_) return;
  // Not at the first touch in the middle of a job; an older kernel than 5.14 declines.
  madvise(data_ + first, std::min(bytes, bytes_ - first), MADV_POPULATE_WRITE);
}

host_memory::~host_memory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

}  // namespace baton::cpu
