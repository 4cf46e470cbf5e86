#pragma once

#include <cstdint>

#include "kernels/backend.hpp"
#include "kernels/tensor.hpp"

namespace baton::cpu {

/// Softmax over keys that arrive in tiles (Milakov and Gimelshein, arXiv 1805.02867), for a tile of query rows, on
/// the calling thread. Powers are of 2, and the reference that keeps them small is the row's maximum rounded up to a
/// whole number: so it seldom moves, and where it does, what was summed before is rescaled by an exact power of 2.

/// What is known of each row after some key tiles. The arrays (rows) are the caller's.
struct softmax_rows {
  float* reference = nullptr;  ///< a whole number; -inf before the row's first key
  float* sum = nullptr;        ///< of 2^(score - reference)

  void clear(std::int64_t rows) const;
};

/// The keys of a tile that a row may see: the first `of_first_row`, and one more with each row where `causal`; not
/// more than there are, not fewer than none.
struct visible_keys {
  std::int64_t of_first_row = 0;
  bool causal = false;
};

/// Where the weights of a tile's keys go: pieces of `piece_keys` keys (a multiple of 32), each (rows, piece_keys)
/// without gaps, `piece_numbers` numbers apart; bf16 or fp32.
struct key_weights {
  void* data = nullptr;
  element_type type = element_type::f32;
  std::int64_t piece_keys = 0;
  std::int64_t piece_numbers = 0;
};

/// One key tile. A key's weight is 2^(scale_log2 score - reference), relative error below 1e-6 in fp32, and 0 where
/// the row does not see the key, up to the end of the last piece. Rows of `sums` (fp32, the weighted values of
/// earlier tiles) are rescaled where the reference moved. scores (rows, columns) fp32, columns a multiple of 32;
/// |scale_log2 score| must stay below 2^21.
void soften(const matrix& scores, float scale_log2, const visible_keys& visible, const softmax_rows& state,
            const key_weights& weights, const matrix& sums);

/// After the last tile: outputs and log-sum-exps of the rows, alone or merged with those that stand in `out` and
/// `log_sum_exp`. sums (rows, dim) fp32, out (rows, dim) activations, log_sum_exp (rows, 1) fp32. Rows without keys
/// give 0 and -inf.
void finish(const matrix& sums, const softmax_rows& state, const matrix& out, const matrix& log_sum_exp,
            attention_result result);

}  // namespace baton::cpu
