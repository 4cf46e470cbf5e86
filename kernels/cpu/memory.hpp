#pragma once

#include <cstddef>

#include "kernels/backend.hpp"

namespace baton::cpu {

/// Host memory as a CPU device's memory: its pages are zero, its start is a page's. Move-only through unique_ptr.
class host_memory final : public device_memory {
 public:
  /// Throws fault(out_of_memory) with the size. Any thread.
  explicit host_memory(std::size_t bytes);
  ~host_memory() override;
  host_memory(const host_memory&) = delete;
  host_memory& operator=(const host_memory&) = delete;

  [[nodiscard]] std::byte* data() const override { return data_; }
  [[nodiscard]] std::size_t bytes() const override { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace baton::cpu
