#include "runtime/transport/block.hpp"

#include <fmt/format.h>
#include <xxhash.h>

namespace baton {

std::string describe(const block_key& key) {
  const std::string at = fmt::format("job {}, layer {}, rank {}", key.job, key.layer, key.source);
  switch (key.phase) {
    case block_phase::prefill: return at;
    case block_phase::query: return at + fmt::format(", question {}, query piece {}", key.question, key.step);
    case block_phase::decode: return at + fmt::format(", question {}, step {}", key.question, key.step);
  }
  return at;
}

std::uint64_t checksum_of(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace baton
