#pragma once

#include <span>
#include <vector>

#include "tests/support/reference_arithmetic.hpp"

/// Single kernels in plain double arithmetic, on rows of numbers. See also reference_arithmetic.hpp (RMSNorm, SiLU) and
/// reference_selection.hpp (pooling, selection).
namespace baton::reference {

/// One head's numbers turned to `position`: i turns with i + dim / 2 by the angle fp32(position) * inverse_frequencies[i].
row rotated(const row& head, int position, std::span<const float> inverse_frequencies);

/// Attention of one query head over some keys. Without keys: zeros and -inf.
struct attention_result_of_one {
  row out;
  double log_sum_exp = 0;
};

attention_result_of_one attention_of(const row& query, std::span<const row> keys, std::span<const row> values,
                                     double scale);

/// What sampling from softmax(logits / temperature), cut to the smallest set of best ids with probability >= top_p, gives at
/// `uniform`: ids in the order of their logits, of equal ones the lower first.
int nucleus_sample(std::span<const float> logits, double temperature, double top_p, double uniform);

}  // namespace baton::reference
