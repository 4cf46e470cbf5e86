#pragma once

#include <cstdint>

#include "kernels/backend.hpp"
#include "kernels/tensor.hpp"

namespace baton::cpu {

/// Softmax over keys that arrive in tiles (Milakov and Gimelshein, arXiv 1805.02867), for a tile of query rows, on the calling
/// thread. Powers are of 2, and the reference that keeps them small is the row's maximum rounded up to a whole number: so it
/// seldom moves, and where it does, what was summed before is rescaled by an exact power of 2.

/// What is known of each row after some key tiles. The arrays (rows) are the caller's.
struct softmax_rows {
  float* reference = nullptr;  ///< a whole number; -inf before the row's first key
  float* sum = nullptr;        ///< of 2^(score - reference)

  void clear(std::int64_t rows) const;
};

/// The keys of a tile that a row may see: the first `of_first_row`, and one more with each row where `causal`; not more than there
/// are, not fewer than none.
struct visible_keys {
  std::int64_t of_first_row = 0;
  bool causal = false;
};

/// One key tile. weights[r, k] = 2^(scale_log2 scores[r, k] - reference[r]), relative error below 1e-6 in fp32, and 0 for keys that the row
/// does not see; rows of `sums` (fp32, the weighted values of earlier tiles) are rescaled where the reference moved.
/// scores (rows, columns) fp32, weights (rows, at least those columns) bf16 or fp32, columns a multiple of 32; fp32 weights may be
/// the scores themselves.
/// |scale_log2 scores| must stay below 2^21.
void soften(const matrix& scores, float scale_log2, const visible_keys& visible, const softmax_rows& state,
            const matrix& weights, const matrix& sums);

/// After the last tile: outputs and log-sum-exps of the rows, alone or merged with those that stand in `out` and `log_sum_exp`.
/// sums (rows, dim) fp32, out (rows, dim) activations, log_sum_exp (rows, 1) fp32. Rows without keys give 0 and -inf.
void finish(const matrix& sums, const softmax_rows& state, const matrix& out, const matrix& log_sum_exp,
            attention_result result);

}  // namespace baton::cpu
