#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include <oneapi/dnnl/dnnl.hpp>

#include "kernels/tensor.hpp"

namespace baton::cpu {

/// Products of one to four rows with weights that are packed for oneDNN, read where they lie: a decoded token reads every weight for one
/// row, so that nothing but the memory's bandwidth counts, of which oneDNN's matmul leaves half where there are few inputs.
inline constexpr std::int64_t few_rows_max = 4;

/// How a panel of packed weights lies in memory: its columns in blocks. In a block stands a word of 32 bits for each of its columns, one
/// behind the other, then those of the next step. A step is one input in fp32, two inputs in bf16 (the first in the lower half).
struct column_blocks {
  element_type type = element_type::f32;
  std::int64_t columns = 0;
  std::int64_t block_columns = 0;
  std::int64_t steps = 0;        ///< with the padding, whose weights are zero
  std::int64_t block_words = 0;  ///< from one block to the next
  std::int64_t step_words = 0;   ///< from one step of a block to the next

  [[nodiscard]] std::int64_t padded_inputs() const { return type == element_type::bf16 ? 2 * steps : steps; }
  friend bool operator==(const column_blocks&, const column_blocks&) = default;
};

/// Reads (inputs, columns) of oneDNN's description. Nothing where weights lie in another way.
[[nodiscard]] std::optional<column_blocks> column_blocks_of(const dnnl::memory::desc& layout);

/// out[r, c] = x[r] . panel's column first + c, plus the bias, plus what stood there where `accumulate`; rounded once. x (out.rows, padded
/// inputs) fp32 without gaps, zero in the padding; bias (out.columns) or null; out: up to four rows, in fp32 or bf16. Each number is a sum
/// in the inputs' order, whatever rows and columns are computed with it. On the calling thread.
void multiply_few_rows(const column_blocks& layout, const std::byte* panel, std::int64_t first, const float* x,
                       const float* bias, const matrix& out, bool accumulate);

}  // namespace baton::cpu
