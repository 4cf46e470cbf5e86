#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.hpp"

namespace baton::cpu {

/// When the pages of host memory are taken from the system.
enum class pages_taken : std::uint8_t {
  at_once,
  when_written,  ///< for memory that is written all over right away: its writers then zero it side by side, and in cache
};

/// Host memory as a CPU device's memory: its pages are zero, its start is a page's. Move-only through unique_ptr.
class host_memory final : public device_memory {
 public:
  /// Throws fault(out_of_memory) with the size. Any thread.
  explicit host_memory(std::size_t bytes, pages_taken pages = pages_taken::at_once);
  ~host_memory() override;
  /// Takes the pages of [first, first + bytes) now, as far as the memory reaches. Several threads may do so for other places.
  void take_pages(std::size_t first, std::size_t bytes) const;
  host_memory(const host_memory&) = delete;
  host_memory& operator=(const host_memory&) = delete;

  [[nodiscard]] std::byte* data() const override { return data_; }
  [[nodiscard]] std::size_t bytes() const override { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace baton::cpu
