#pragma once

#include <cstddef>

namespace baton {

/// Memory for the bytes of blocks. Large pieces that are given back wait for the next block of their size, up to
/// `kept_block_bytes_max` in the whole process, the oldest ones going first: a block that lands in pages that the kernel has just
/// taken away and clears anew costs up to twice the CPU time. Any thread. Throws std::bad_alloc.
[[nodiscard]] void* take_block_memory(std::size_t bytes);
/// `bytes`: as they were taken.
void give_block_memory(void* memory, std::size_t bytes) noexcept;

inline constexpr std::size_t kept_block_bytes_max = std::size_t{128} << 20;
[[nodiscard]] std::size_t kept_block_bytes();

}  // namespace baton
