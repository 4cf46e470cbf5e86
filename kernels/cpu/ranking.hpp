#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace baton::cpu {

/// An integer that is the greater, the better: a greater score, then, of equal scores, a lower index. No two indices have the
/// same. A NaN is below -infinity; 0 and -0 are equal.
inline std::uint64_t ranking_of(float score, std::uint32_t index) {
  std::uint32_t order = 0;
  if (!std::isnan(score)) {
    const auto bits = std::bit_cast<std::uint32_t>(score + 0.0f);
    order = bits >> 31 ? ~bits : bits | 0x80000000u;
  }
  return std::uint64_t{order} << 32 | static_cast<std::uint32_t>(~index);
}

inline std::uint32_t index_in(std::uint64_t ranking) { return ~static_cast<std::uint32_t>(ranking); }

}  // namespace baton::cpu
