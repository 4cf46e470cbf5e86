#pragma once

#include <cstdint>

#include "kernels/random_score.hpp"

namespace baton {

/// Numbers for weights that nobody trained: number `index` of the tensor that `seed` names, uniform in [-scale, scale). A function of
/// its arguments alone, so that every backend and every number of threads draws the same: 24 random bits, which fp32 holds
/// exactly, and one multiplication.
class random_weights {
 public:
  constexpr random_weights(std::uint64_t seed, float scale) : key_(splitmix64(seed)), step_(scale * 0x1p-23f) {}

  constexpr float operator()(std::uint64_t index) const {
    const auto bits = static_cast<std::int32_t>(splitmix64(key_ ^ index) >> 40);
    return static_cast<float>(bits - (1 << 23)) * step_;
  }

 private:
  std::uint64_t key_;
  float step_;
};

}  // namespace baton
