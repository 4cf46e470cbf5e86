#pragma once

#include <span>
#include <vector>

#include "tests/support/reference_weights.hpp"

namespace baton::reference {

/// The numbers of one token.
using row = std::vector<double>;

double dot(std::span<const double> a, std::span<const double> b);

/// weight · x + bias.
row multiply(const linear& l, const row& x);

/// x / rms(x), times the weight.
row rms_normed(const row& x, std::span<const float> weight, double eps);

double silu(double x);

/// Rotary position embedding in Hugging Face's half-split layout: dimension i turns with dimension i + head_dim/2.
/// Frequencies, angles, cosines and sines are computed in fp32, in the order of operations of transformers.
class rotary_embedding {
 public:
  explicit rotary_embedding(const shape& s);

  /// Turns each head of `heads` (any number of heads, head_dim) to `position`.
  [[nodiscard]] row turned(row heads, int position) const;

  /// Radians per position, (head_dim / 2).
  [[nodiscard]] const std::vector<float>& frequencies() const { return frequencies_; }

 private:
  std::vector<float> frequencies_;
  float amplitude_ = 1;  ///< yarn's factor of cosines and sines
};

}  // namespace baton::reference
