#include "kernels/cpu/few_rows.hpp"

#include <algorithm>

#include "kernels/cpu/launch.hpp"

#ifndef BATON_KERNELS_CPU_FEW_ROWS_ONCE
#define BATON_KERNELS_CPU_FEW_ROWS_ONCE

namespace baton::cpu {
namespace {

/// Of one call: as many as linear_layers puts into a panel.
constexpr std::int64_t columns_max = 256;

/// Columns [0, columns) of a block, `steps` of them, and the rows that they are multiplied with.
struct block_part {
  const std::uint32_t* words;
  std::int64_t step_words;
  std::int64_t steps;
  std::int64_t columns;
  const float* x;
  std::int64_t x_stride;
  float* sums;  ///< (rows, columns_max)
};

}  // namespace
}  // namespace baton::cpu

#endif  // BATON_KERNELS_CPU_FEW_ROWS_ONCE

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/few_rows.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace baton::cpu::HWY_NAMESPACE {
namespace {

/// What a word of 32 bits holds: one fp32 weight, or two of bf16.
struct one_weight {
  static constexpr std::size_t inputs = 1;
};
struct two_weights {
  static constexpr std::size_t inputs = 2;
};

using words_vector = hn::Vec<hn::Rebind<std::uint32_t, float_lanes>>;

HWY_INLINE words_vector load_words(const std::uint32_t* from, whole) {
  return hn::LoadU(hn::Rebind<std::uint32_t, float_lanes>(), from);
}
HWY_INLINE words_vector load_words(const std::uint32_t* from, part lanes) {
  const hn::Rebind<std::uint32_t, float_lanes> d32;
  alignas(64) std::uint32_t buffer[hn::MaxLanes(float_lanes())] = {};
  for (std::size_t i = 0; i < lanes.count; ++i) buffer[i] = from[i];
  return hn::Load(d32, buffer);
}

/// What will be read when all strips have gone over a tile: asked for piece by piece, in the order in which it lies in memory.
struct next_tile {
  const std::uint32_t* at;  ///< null: a block is not read as a whole, so each strip asks for its own words
  std::int64_t ahead;

  HWY_INLINE void prefetch(const std::uint32_t* words, std::size_t count) {
    constexpr std::size_t line = 16;
    constexpr int into_first_level_cache = 3;
    const std::uint32_t* const from = at != nullptr ? at : words + ahead;
    for (std::size_t i = 0; i < count; i += line) __builtin_prefetch(from + i, 0, into_first_level_cache);
    if (at != nullptr) at += count;
  }
};

/// Sums of `rows` rows with `vectors` vectors of columns, from column `first` on, over the steps [step, end). The order of a column's
/// additions is the same for any number of rows and vectors.
template <class Word, std::size_t rows, std::size_t vectors, class Lanes>
HWY_INLINE void add_strip(const block_part& b, std::int64_t first, std::int64_t step, std::int64_t end, next_tile& next,
                          Lanes lanes) {
  const float_lanes d;
  const hn::Rebind<std::uint32_t, float_lanes> d32;
  const std::size_t width = hn::Lanes(d);
  const std::uint32_t* words = b.words + step * b.step_words + first;
  const float* x = b.x + step * static_cast<std::int64_t>(Word::inputs);
  float_vector sums[rows][vectors];
  unrolled<rows>([&](auto r) HWY_ATTR {
    unrolled<vectors>([&](auto v) HWY_ATTR {
      sums[r][v] = load(d, b.sums + std::int64_t{r} * columns_max + first + v * width, lanes);
    });
  });
  for (; step < end; ++step, words += b.step_words, x += Word::inputs) {
    next.prefetch(words, vectors * width);
    unrolled<vectors>([&](auto v) HWY_ATTR {
      const auto word = load_words(words + v * width, lanes);
      if constexpr (Word::inputs == 1) {
        unrolled<rows>([&](auto r) HWY_ATTR {
          sums[r][v] = hn::MulAdd(hn::Set(d, x[std::int64_t{r} * b.x_stride]), hn::BitCast(d, word), sums[r][v]);
        });
      } else {
        const auto even = hn::BitCast(d, hn::ShiftLeft<16>(word));
        const auto odd = hn::BitCast(d, hn::And(word, hn::Set(d32, 0xffff0000U)));
        unrolled<rows>([&](auto r) HWY_ATTR {
          const float* pair = x + std::int64_t{r} * b.x_stride;
          sums[r][v] = hn::MulAdd(hn::Set(d, pair[0]), even, sums[r][v]);
          sums[r][v] = hn::MulAdd(hn::Set(d, pair[1]), odd, sums[r][v]);
        });
      }
    });
  }
  unrolled<rows>([&](auto r) HWY_ATTR {
    unrolled<vectors>([&](auto v) HWY_ATTR {
      store(d, sums[r][v], b.sums + std::int64_t{r} * columns_max + first + v * width, lanes);
    });
  });
}

/// As many as registers hold sums of.
template <std::size_t rows>
constexpr std::size_t strip_vectors() {
  return HWY_TARGET <= HWY_AVX3 ? 4 : rows == 1 ? 8 : rows == 2 ? 4 : 2;
}

/// A block is read from front to back in tiles of some steps; all strips of columns go over a tile before the next, which is on its way
/// meanwhile.
template <class Word, std::size_t rows>
void add_block(const block_part& b) {
  constexpr std::int64_t tile_words = 2048;
  constexpr std::size_t vectors = strip_vectors<rows>();
  const auto width = static_cast<std::int64_t>(hn::Lanes(float_lanes()));
  const std::int64_t tile = std::max<std::int64_t>(tile_words / b.step_words, 8);
  for (std::int64_t step = 0; step < b.steps; step += tile) {
    const std::int64_t end = std::min(step + tile, b.steps);
    const std::int64_t ahead = tile * b.step_words;
    next_tile next{b.columns == b.step_words ? b.words + step * b.step_words + ahead : nullptr, ahead};
    std::int64_t column = 0;
    for (; column + static_cast<std::int64_t>(vectors) * width <= b.columns; column += vectors * width)
      add_strip<Word, rows, vectors>(b, column, step, end, next, whole{});
    for (; column + width <= b.columns; column += width) add_strip<Word, rows, 1>(b, column, step, end, next, whole{});
    if (column < b.columns)
      add_strip<Word, rows, 1>(b, column, step, end, next, part{static_cast<std::size_t>(b.columns - column)});
  }
}

template <class Word>
void add_block_of(const block_part& b, std::int64_t rows) {
  switch (rows) {
    case 1: return add_block<Word, 1>(b);
    case 2: return add_block<Word, 2>(b);
    case 3: return add_block<Word, 3>(b);
    default: return add_block<Word, 4>(b);
  }
}

template <class T>
void finish_rows_as(const float* sums, const float* bias, const matrix& out, bool accumulate) {
  const float_lanes d;
  for (std::int64_t row = 0; row < out.rows; ++row) {
    const float* from = sums + row * columns_max;
    T* to = row_of<T>(out, row);
    map_to(to, static_cast<std::size_t>(out.columns), [&](std::size_t i, auto lanes) HWY_ATTR {
      auto sum = load(d, from + i, lanes);
      if (bias != nullptr) sum = hn::Add(sum, load(d, bias + i, lanes));
      return accumulate ? hn::Add(sum, load(d, to + i, lanes)) : sum;
    });
  }
}

}  // namespace

void multiply_rows(const column_blocks& layout, const std::byte* panel, std::int64_t first, const float* x,
                   const float* bias, const matrix& out, bool accumulate) {
  alignas(64) float sums[few_rows_max * columns_max];
  for (std::int64_t row = 0; row < out.rows; ++row) std::fill_n(sums + row * columns_max, out.columns, 0.0f);
  const auto* words = reinterpret_cast<const std::uint32_t*>(panel);
  for (std::int64_t column = first; column < first + out.columns;) {
    const std::int64_t block = column / layout.block_columns;
    const std::int64_t inside = column % layout.block_columns;
    const std::int64_t count = std::min(layout.block_columns - inside, first + out.columns - column);
    const block_part b{words + block * layout.block_words + inside,
                       layout.step_words,
                       layout.steps,
                       count,
                       x,
                       layout.padded_inputs(),
                       sums + column - first};
    if (layout.type == element_type::bf16) {
      add_block_of<two_weights>(b, out.rows);
    } else {
      add_block_of<one_weight>(b, out.rows);
    }
    column += count;
  }
  if (out.type == element_type::f32) {
    finish_rows_as<float>(sums, bias, out, accumulate);
  } else {
    finish_rows_as<std::uint16_t>(sums, bias, out, accumulate);
  }
}

}  // namespace baton::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace baton::cpu {

HWY_EXPORT(multiply_rows);

std::optional<column_blocks> column_blocks_of(const dnnl::memory::desc& layout) {
  const auto& d = layout.data;
  if (d.ndims != 2 || d.format_kind != dnnl_blocked || d.offset0 != 0) return {};
  if (d.data_type != dnnl_f32 && d.data_type != dnnl_bf16) return {};
  const bool pairs = d.data_type == dnnl_bf16;
  const auto& blocking = d.format_desc.blocking;
  // The inner blocks from the outermost on: maybe some inputs, then columns, then the pair of inputs where weights are bf16.
  int inner = 0;
  std::int64_t block_inputs = 1;
  const auto is = [&](int dimension) {
    return inner < blocking.inner_nblks && blocking.inner_idxs[inner] == dimension;
  };
  column_blocks found;
  found.type = pairs ? element_type::bf16 : element_type::f32;
  found.columns = d.dims[1];
  if (blocking.inner_nblks == 0) {
    if (pairs || blocking.strides[1] != 1) return {};
    found.block_columns = found.columns;
    found.step_words = blocking.strides[0];
  } else {
    if (is(0)) block_inputs = blocking.inner_blks[inner++];
    if (!is(1)) return {};
    found.block_columns = blocking.inner_blks[inner++];
    if (pairs && (!is(0) || blocking.inner_blks[inner++] != 2)) return {};
    if (inner != blocking.inner_nblks) return {};
    const std::int64_t word_weights = pairs ? 2 : 1;
    if (blocking.strides[0] != block_inputs * found.block_columns * word_weights) return {};
    found.step_words = found.block_columns;
    found.block_words = blocking.strides[1] / word_weights;
  }
  found.steps = d.padded_dims[0] / (pairs ? 2 : 1);
  return found;
}

void multiply_few_rows(const column_blocks& layout, const std::byte* panel, std::int64_t first, const float* x,
                       const float* bias, const matrix& out, bool accumulate) {
  require(out.rows >= 1 && out.rows <= few_rows_max && out.columns <= columns_max, "multiply_few_rows",
          "one to four rows and 256 columns at most");
  require(first >= 0 && first + out.columns <= layout.columns, "multiply_few_rows", "columns of the panel");
  HWY_DYNAMIC_DISPATCH(multiply_rows)(layout, panel, first, x, bias, out, accumulate);
}

}  // namespace baton::cpu
#endif  // HWY_ONCE
