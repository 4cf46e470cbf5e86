#include "runtime/transport/block.hpp"

#include <cstring>

#include <fmt/format.h>
#include <xxhash.h>

#include "kernels/fault.hpp"

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

void copy_block(const block_key& key, const block& from, std::span<const std::span<std::byte>> parts) {
  std::size_t wanted = 0;
  for (const auto& part : parts) wanted += part.size();
  if (wanted != from.bytes.size()) {
    throw fault(fault_code::corruption,
                fmt::format("a block of {} bytes came where the plan says {}", from.bytes.size(), wanted),
                describe(key));
  }
  if (!is_intact(from)) throw fault(fault_code::corruption, "the checksum does not match", describe(key));
  const std::byte* at = from.bytes.data();
  for (const auto& part : parts) {
    if (!part.empty()) std::memcpy(part.data(), at, part.size());
    at += part.size();
  }
}

}  // namespace baton
