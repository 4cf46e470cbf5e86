#include "runtime/transport/block_memory.hpp"

#include <bit>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace baton {
namespace {

/// The C library keeps smaller pieces by itself.
constexpr std::size_t large_bytes_min = std::size_t{1} << 20;
constexpr std::align_val_t alignment{64};

#ifdef __SANITIZE_ADDRESS__
constexpr bool keeps = false;  // so that AddressSanitizer sees who uses a block after its end
#else
constexpr bool keeps = true;
#endif

/// Eight sizes for each power of two, so that blocks of nearly the same length share their pieces.
std::size_t size_of_piece(std::size_t bytes) {
  const std::size_t step = std::bit_floor(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

class kept_pieces {
 public:
  kept_pieces() { pieces_.reserve(kept_block_bytes_max / large_bytes_min + 1); }

  /// Null: none of this size.
  void* take(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = pieces_.size(); i-- > 0;) {
      if (pieces_[i].bytes != bytes) continue;
      void* memory = pieces_[i].memory;
      pieces_.erase(pieces_.begin() + static_cast<std::ptrdiff_t>(i));
      bytes_ -= bytes;
      return memory;
    }
    return nullptr;
  }

  void give(void* memory, std::size_t bytes) noexcept {
    const std::lock_guard lock(mutex_);
    pieces_.push_back({memory, bytes});
    bytes_ += bytes;
    while (bytes_ > kept_block_bytes_max) {
      bytes_ -= pieces_.front().bytes;
      ::operator delete(pieces_.front().memory, alignment);
      pieces_.erase(pieces_.begin());
    }
  }

  std::size_t bytes() {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  struct piece {
    void* memory = nullptr;
    std::size_t bytes = 0;
  };

  std::mutex mutex_;
  std::vector<piece> pieces_;  ///< the oldest first; never grows
  std::size_t bytes_ = 0;
};

/// Never destroyed: blocks may end later than anything that is.
kept_pieces& kept() {
  static auto& pieces = *new kept_pieces;
  return pieces;
}

}  // namespace

void* take_block_memory(std::size_t bytes) {
  if (bytes < large_bytes_min) return ::operator new(bytes, alignment);
  const std::size_t piece = size_of_piece(bytes);
  void* memory = kept().take(piece);
  return memory != nullptr ? memory : ::operator new(piece, alignment);
}

void give_block_memory(void* memory, std::size_t bytes) noexcept {
  if (keeps && bytes >= large_bytes_min) {
    kept().give(memory, size_of_piece(bytes));
  } else {
    ::operator delete(memory, alignment);
  }
}

std::size_t kept_block_bytes() { return kept().bytes(); }

}  // namespace baton
