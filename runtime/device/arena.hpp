#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "kernels/backend.hpp"

namespace baton {

class arena;

/// A contiguous piece of an arena, given back when destroyed. Move-only; the arena outlives it.
class extent {
 public:
  extent() = default;
  extent(extent&& other) noexcept;
  extent& operator=(extent&& other) noexcept;
  ~extent();

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  friend class arena;
  extent(arena& owner, std::byte* data, std::size_t bytes) : owner_(&owner), data_(data), bytes_(bytes) {}
  arena* owner_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// All device memory of jobs on one device (KV shards, pass workspaces), taken once at load and lent in extents, first fit.
/// Belongs to the device's compute thread.
class arena {
 public:
  arena(backend& kernels, std::size_t bytes);

  /// `purpose` is for the message: throws fault(out_of_memory) with what was asked, what is free and in what largest piece.
  [[nodiscard]] extent take(std::size_t bytes, const std::string& purpose);

  [[nodiscard]] std::size_t bytes() const { return memory_->bytes(); }
  [[nodiscard]] std::size_t bytes_free() const;
  [[nodiscard]] std::size_t bytes_lent() const { return lent_; }
  [[nodiscard]] std::size_t largest_free_bytes() const;
  /// The most that was ever lent at once.
  [[nodiscard]] std::size_t peak_bytes() const { return peak_; }

  static constexpr std::size_t alignment = 256;
  static constexpr std::size_t aligned(std::size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

 private:
  friend class extent;
  void give_back(std::byte* data, std::size_t bytes) noexcept;

  std::unique_ptr<device_memory> memory_;
  std::map<std::byte*, std::size_t> free_;
  std::size_t lent_ = 0;
  std::size_t peak_ = 0;
};

/// Cuts one extent into named pieces. First measure (without memory), then cut: both walk the same calls, so that what a plan
/// prints is what a pass takes.
class layout {
 public:
  layout() = default;
  explicit layout(std::byte* base) : base_(base) {}

  /// The next `bytes`, or nullptr while measuring.
  std::byte* cut(std::size_t bytes) {
    std::byte* const at = base_ ? base_ + used_ : nullptr;
    used_ += arena::aligned(bytes);
    return at;
  }
  matrix cut_matrix(std::int64_t rows, std::int64_t columns, element_type type) {
    return {cut(static_cast<std::size_t>(rows * columns * bytes_of(type))), type, rows, columns, columns};
  }
  head_matrix cut_heads(std::int64_t tokens, int heads, int dim, element_type type) {
    const auto m = cut_matrix(tokens, static_cast<std::int64_t>(heads) * dim, type);
    return {m.data, type, tokens, heads, dim, m.stride};
  }
  [[nodiscard]] std::size_t bytes() const { return used_; }

 private:
  std::byte* base_ = nullptr;
  std::size_t used_ = 0;
};

}  // namespace baton
