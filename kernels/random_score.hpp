#pragma once

#include <cstdint>

namespace baton {

/// SplitMix64 (Steele, Lea, Flood 2014): a bijection whose outputs look random.
constexpr std::uint64_t splitmix64(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// The score of the `random` compressor: 24 bits, so that fp32 holds it exactly. `token` is the index in the document.
constexpr float random_score(std::uint64_t seed, int layer, int kv_head, std::int64_t token) {
  const std::uint64_t place = static_cast<std::uint64_t>(layer) << 48 | static_cast<std::uint64_t>(kv_head) << 40 |
                              static_cast<std::uint64_t>(token);
  return static_cast<float>(splitmix64(splitmix64(seed) ^ place) >> 40);
}

}  // namespace baton
