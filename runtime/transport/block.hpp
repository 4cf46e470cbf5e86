#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/transport/block_memory.hpp"

namespace baton {

using job_id = std::uint64_t;

/// What a block belongs to in the life of a job.
enum class block_phase : std::uint8_t {
  prefill,  ///< compressed blocks C_h: logged by the relay
  query,    ///< partial attentions of the query stage: straight from rank to rank
  decode,   ///< partial attentions of a new token, and the token itself
};

/// Names a block in the whole cluster. Two sends of one block by different attempts of its shard are the same block: the order
/// leaves the attempt out.
struct block_key {
  job_id job = 0;
  block_phase phase = block_phase::prefill;
  std::uint32_t question = 0;
  std::uint32_t step = 0;  ///< of the question: query pieces, then new tokens
  std::uint16_t layer = 0;
  std::uint16_t source = 0;   ///< rank
  std::uint16_t part = 0;     ///< a round, a half of an all-to-all; a token
  std::uint32_t attempt = 0;  ///< of the shard that sent it

  friend std::strong_ordering operator<=>(const block_key& a, const block_key& b) {
    if (const auto c = a.job <=> b.job; c != 0) return c;
    if (const auto c = a.phase <=> b.phase; c != 0) return c;
    if (const auto c = a.question <=> b.question; c != 0) return c;
    if (const auto c = a.step <=> b.step; c != 0) return c;
    if (const auto c = a.layer <=> b.layer; c != 0) return c;
    if (const auto c = a.source <=> b.source; c != 0) return c;
    return a.part <=> b.part;
  }
  friend bool operator==(const block_key& a, const block_key& b) { return (a <=> b) == 0; }
};

/// For people: "job 3, layer 2, rank 1".
std::string describe(const block_key& key);

/// Ranks [first, last) of a job.
struct rank_range {
  int first = 0;
  int last = 0;
  [[nodiscard]] bool empty() const { return first >= last; }
  [[nodiscard]] bool contains(int rank) const { return rank >= first && rank < last; }

  bool operator==(const rank_range&) const = default;
};

/// Leaves new elements as they are: a block's bytes are overwritten at once, and to clear megabytes first would cost as much as
/// to send them. The memory is that of `block_memory.hpp`.
template <class Value>
struct uninitialized_allocator : std::allocator<Value> {
  template <class Other>
  struct rebind {
    using other = uninitialized_allocator<Other>;
  };
  Value* allocate(std::size_t count) { return static_cast<Value*>(take_block_memory(count * sizeof(Value))); }
  void deallocate(Value* at, std::size_t count) noexcept { give_block_memory(at, count * sizeof(Value)); }
  template <class Other>
  void construct(Other* at) noexcept {
    ::new (static_cast<void*>(at)) Other;
  }
  template <class Other, class... Arguments>
  void construct(Other* at, Arguments&&... arguments) {
    ::new (static_cast<void*>(at)) Other(std::forward<Arguments>(arguments)...);
  }
};
using block_bytes = std::vector<std::byte, uninitialized_allocator<std::byte>>;

/// A block in host memory with the checksum (XXH3, 64 bits) that its sender computed.
struct block {
  block_bytes bytes;
  std::uint64_t checksum = 0;
};

std::uint64_t checksum_of(std::span<const std::byte> bytes);
[[nodiscard]] inline bool is_intact(const block& b) { return checksum_of(b.bytes) == b.checksum; }

/// Copies a block's bytes into `parts` one after another. Throws fault(corruption) when the lengths differ or the checksum does
/// not match.
void copy_block(const block_key& key, const block& from, std::span<const std::span<std::byte>> parts);

}  // namespace baton
