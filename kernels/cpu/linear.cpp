#include "kernels/cpu/linear.hpp"

#include <algorithm>
#include <optional>

#include "kernels/cpu/convert.hpp"
#include "kernels/cpu/few_rows.hpp"
#include "kernels/cpu/isa.hpp"
#include "kernels/cpu/launch.hpp"
#include "kernels/random_weight.hpp"

namespace baton::cpu {
namespace {

constexpr std::int64_t tile_rows = 128;
constexpr std::int64_t panel_columns = 256;

std::int64_t tiles_of(std::int64_t count, std::int64_t tile) { return (count + tile - 1) / tile; }

/// Plain rows without gaps.
matrix dense(void* data, element_type type, std::int64_t rows, std::int64_t columns) {
  return {data, type, rows, columns, columns};
}

}  // namespace

/// Panels of 256 outputs (the last may have fewer), one behind the other, each in oneDNN's own order.
class linear_layers::packed final : public packed_weights {
 public:
  packed(std::int64_t outputs, std::int64_t inputs, element_type type)
      : outputs_(outputs),
        inputs_(inputs),
        type_(type),
        full_bytes_(outputs >= panel_columns ? weight_format(inputs, panel_columns, type).bytes() : 0),
        memory_(bytes_for(outputs, inputs, type), pages_taken::when_written) {
    const auto lies = [&](std::int64_t columns) {
      return column_blocks_of(weight_format(inputs, columns, type).layout());
    };
    last_lies_ = lies(columns_of(panels() - 1));
    full_lies_ = panels() > 1 ? lies(panel_columns) : last_lies_;
  }

  static std::size_t bytes_for(std::int64_t outputs, std::int64_t inputs, element_type type) {
    const auto full = static_cast<std::size_t>(outputs / panel_columns);
    const std::int64_t rest = outputs % panel_columns;
    return (full > 0 ? full * weight_format(inputs, panel_columns, type).bytes() : 0) +
           (rest > 0 ? weight_format(inputs, rest, type).bytes() : 0);
  }

  [[nodiscard]] std::int64_t outputs() const override { return outputs_; }
  [[nodiscard]] std::int64_t inputs() const override { return inputs_; }
  [[nodiscard]] std::size_t bytes() const override { return memory_.bytes(); }

  [[nodiscard]] element_type type() const { return type_; }
  [[nodiscard]] std::int64_t panels() const { return tiles_of(outputs_, panel_columns); }
  [[nodiscard]] std::byte* panel(std::int64_t index) const {
    return memory_.data() + static_cast<std::size_t>(index) * full_bytes_;
  }
  [[nodiscard]] std::int64_t columns_of(std::int64_t panel) const {
    return std::min(panel_columns, outputs_ - panel * panel_columns);
  }
  /// Whether panels lie as multiply_few_rows reads them.
  [[nodiscard]] bool few_rows() const {
    return full_lies_ && last_lies_ && full_lies_->padded_inputs() == last_lies_->padded_inputs();
  }
  /// Where few_rows.
  [[nodiscard]] const column_blocks& lies(std::int64_t panel) const {
    return panel == panels() - 1 ? *last_lies_ : *full_lies_;
  }

 private:
  std::int64_t outputs_;
  std::int64_t inputs_;
  element_type type_;
  std::size_t full_bytes_;
  host_memory memory_;
  std::optional<column_blocks> full_lies_;
  std::optional<column_blocks> last_lies_;
};

namespace {

/// Without AMX oneDNN's products for AVX-512 give a row the same bits among few as among many, and get nearly all of the bandwidth.
bool own_few_rows() { return !effective_isa().name.starts_with("avx512"); }

}  // namespace

linear_layers::linear_layers(thread_pool& pool, element_type activations)
    : pool_(pool),
      activations_(activations),
      arithmetic_(effective_isa().bf16_matmul ? activations : element_type::f32),
      matmuls_(pool.size()),
      scratch_(static_cast<std::size_t>(pool.size())) {}

std::size_t linear_layers::packed_bytes(std::int64_t outputs, std::int64_t inputs) const {
  return packed::bytes_for(outputs, inputs, arithmetic_);
}

/// Packs single panels of one matrix; each thread of a pool has one. A panel's rows are read in place where they stand
/// together in the type that is multiplied. Else they are gathered from the parts that they stand in, rounded to the type of
/// activations, and widened again where the CPU multiplies fp32 only.
class linear_layers::panel_packer {
 public:
  panel_packer(std::span<const host_matrix> parts, element_type activations, element_type arithmetic)
      : parts_(parts), inputs_(parts.front().columns), activations_(activations), arithmetic_(arithmetic) {}

  void pack(const packed& to, std::int64_t index) { pack(to, index, index * panel_columns); }
  /// `first`: the row of the parts that is the panel's first.
  void pack(const packed& to, std::int64_t index, std::int64_t first) {
    const std::int64_t columns = to.columns_of(index);
    if (columns != packer_columns_) packer_.emplace(weight_format(inputs_, columns, arithmetic_), true);
    packer_columns_ = columns;
    (*packer_)(plain_rows(first, columns), to.panel(index));
  }

 private:
  const void* plain_rows(std::int64_t first, std::int64_t count) {
    auto part = parts_.begin();
    for (; first >= part->rows; ++part) first -= part->rows;
    const auto alike = activations_ == element_type::bf16 ? host_type::bf16 : host_type::f32;
    const auto at = [&] { return static_cast<const std::byte*>(part->data) + first * inputs_ * bytes_of(part->type); };
    if (arithmetic_ == activations_ && part->type == alike && first + count <= part->rows) return at();

    rounded_.resize(static_cast<std::size_t>(panel_columns * inputs_ * bytes_of(activations_)));
    const matrix panel = dense(rounded_.data(), activations_, count, inputs_);
    for (std::int64_t row = 0; row < count; ++part, first = 0) {
      const std::int64_t here = std::min(count - row, part->rows - first);
      round_rows(at(), part->type, panel.slice_rows(row, here));
      row += here;
    }
    if (arithmetic_ == activations_) return rounded_.data();
    widened_.resize(static_cast<std::size_t>(panel_columns * inputs_ * bytes_of(arithmetic_)));
    convert(panel, dense(widened_.data(), arithmetic_, count, inputs_));
    return widened_.data();
  }

  void round_rows(const std::byte* from, host_type type, const matrix& to) {
    if (type != host_type::f16) {
      const auto same = type == host_type::f32 ? element_type::f32 : element_type::bf16;
      convert(dense(const_cast<std::byte*>(from), same, to.rows, inputs_), to);
      return;
    }
    row_.resize(static_cast<std::size_t>(inputs_));
    for (std::int64_t row = 0; row < to.rows; ++row) {
      widen_halves(reinterpret_cast<const std::uint16_t*>(from) + row * inputs_, row_);
      convert(dense(row_.data(), element_type::f32, 1, inputs_), to.slice_rows(row, 1));
    }
  }

  std::span<const host_matrix> parts_;
  std::int64_t inputs_;
  element_type activations_;
  element_type arithmetic_;
  std::vector<std::byte> rounded_;  // (256, inputs) in the type of activations
  std::vector<std::byte> widened_;  // (256, inputs) in the type that is multiplied
  std::vector<float> row_;
  std::optional<weight_packer> packer_;
  std::int64_t packer_columns_ = 0;
};

std::unique_ptr<packed_weights> linear_layers::pack(std::span<const host_matrix> parts, const host_memory_read& read) {
  std::int64_t outputs = 0;
  for (const host_matrix& part : parts) {
    if (part.columns != parts.front().columns || part.columns <= 0 || part.rows <= 0) {
      throw fault(fault_code::bad_input, "fused weights must have the same number of columns, and rows", "pack");
    }
    outputs += part.rows;
  }
  if (parts.empty()) throw fault(fault_code::bad_input, "there are no weights to pack", "pack");
  const std::int64_t inputs = parts.front().columns;
  auto weights = std::make_unique<packed>(outputs, inputs, arithmetic_);

  std::vector<panel_packer> packers(static_cast<std::size_t>(pool_.size()),
                                    panel_packer(parts, activations_, arithmetic_));
  // So many panels at a time that all threads have several, and that little memory has been read and not been let go.
  constexpr std::int64_t piece_bytes = 16 << 20;
  const std::int64_t panel_bytes = panel_columns * inputs * bytes_of(activations_);
  const std::int64_t step = std::max<std::int64_t>(piece_bytes / panel_bytes, pool_.size());
  auto part = parts.begin();
  std::int64_t part_row = 0;
  for (std::int64_t first = 0; first < weights->panels(); first += step) {
    const std::int64_t panels = std::min(step, weights->panels() - first);
    pool_.parallel_for(panels, [&](std::int64_t index, int thread) {
      packers[static_cast<std::size_t>(thread)].pack(*weights, first + index);
    });
    if (!read) continue;
    for (std::int64_t rows = std::min((first + panels) * panel_columns, outputs) - first * panel_columns; rows > 0;) {
      const std::int64_t here = std::min(rows, part->rows - part_row);
      const std::int64_t row_bytes = inputs * bytes_of(part->type);
      read({static_cast<const std::byte*>(part->data) + part_row * row_bytes,
            static_cast<std::size_t>(here * row_bytes)});
      rows -= here;
      part_row += here;
      if (part_row == part->rows) ++part, part_row = 0;
    }
  }
  return weights;
}

std::unique_ptr<packed_weights> linear_layers::pack_random(std::int64_t outputs, std::int64_t inputs,
                                                           std::uint64_t seed, float scale) {
  if (outputs <= 0 || inputs <= 0) {
    throw fault(fault_code::bad_input, "weights must have rows and columns", "pack_random");
  }
  auto weights = std::make_unique<packed>(outputs, inputs, arithmetic_);
  const random_weights draw(seed, scale);
  // A panel's rows are drawn as a host matrix of their own, so that they are rounded as a checkpoint's are.
  std::vector<std::vector<float>> drawn(static_cast<std::size_t>(pool_.size()));
  pool_.parallel_for(weights->panels(), [&](std::int64_t index, int thread) {
    auto& rows = drawn[static_cast<std::size_t>(thread)];
    rows.resize(static_cast<std::size_t>(panel_columns * inputs));
    const std::int64_t columns = weights->columns_of(index);
    const std::int64_t first = index * panel_columns * inputs;
    for (std::int64_t i = 0; i < columns * inputs; ++i) {
      rows[static_cast<std::size_t>(i)] = draw(static_cast<std::uint64_t>(first + i));
    }
    const host_matrix part{rows.data(), host_type::f32, columns, inputs};
    panel_packer(std::span(&part, 1), activations_, arithmetic_).pack(*weights, index, 0);
  });
  return weights;
}

void linear_layers::reserve_scratch(std::int64_t inputs) {
  const auto x_bytes = static_cast<std::size_t>(tile_rows * inputs * bytes_of(arithmetic_));
  for (scratch& own : scratch_) {
    if (!own.product) {
      own.product = std::make_unique<host_memory>(static_cast<std::size_t>(tile_rows * panel_columns * 4));
    }
    if (!own.x || own.x->bytes() < x_bytes) own.x = std::make_unique<host_memory>(x_bytes);
  }
}

/// Some rows of a launch and what multiplies them.
struct linear_layers::tile {
  std::int64_t first = 0;
  std::int64_t rows = 0;
  const matmul* full_panel = nullptr;
  const matmul* last_panel = nullptr;
};

linear_layers::tile linear_layers::tile_from(std::int64_t first, std::int64_t rows_left, const packed& weights,
                                             element_type product_type, bool with_bias) {
  // Whole tiles, then the largest multiple of 32, then the rest: few different matmuls serve all lengths.
  const std::int64_t rows = rows_left >= tile_rows ? tile_rows : rows_left >= 32 ? rows_left / 32 * 32 : rows_left;
  const auto with_columns = [&](std::int64_t columns) {
    return &matmuls_.get({rows, weights.inputs(), columns, columns, arithmetic_, product_type, false, with_bias});
  };
  const matmul* last = with_columns(weights.columns_of(weights.panels() - 1));
  return {first, rows, weights.panels() > 1 ? with_columns(panel_columns) : last, last};
}

void linear_layers::run(const matrix& x, const packed_weights& w, const float* bias, const matrix& out,
                        bool accumulate) {
  const auto* weights = dynamic_cast<const packed*>(&w);
  require(weights != nullptr, "linear", "weights that a CPU backend packed");
  require(weights->type() == arithmetic_, "linear", "weights that were packed for this type of activations");
  require(x.type == activations_ && x.columns == w.inputs(), "linear",
          "inputs of the weights' width in activation type");
  require(out.rows == x.rows && out.columns == w.outputs(), "linear",
          "outputs for each row of inputs, of the weights' height");
  require(out.type == activations_ || out.type == element_type::f32, "linear", "outputs in activation type or fp32");
  if (x.rows == 0) return;
  if (x.rows <= few_rows_max && own_few_rows() && weights->few_rows()) {
    return run_few(x, *weights, bias, out, accumulate);
  }
  reserve_scratch(x.columns);
  // A sum is rounded once, so its product is not; and without bf16 arithmetic there are no bf16 products.
  const element_type product_type = accumulate                    ? element_type::f32
                                    : arithmetic_ == activations_ ? out.type
                                                                  : arithmetic_;

  // All tiles but the last two are alike.
  const std::int64_t full_tiles = x.rows / tile_rows;
  const tile full = full_tiles > 0 ? tile_from(0, tile_rows, *weights, product_type, bias != nullptr) : tile{};
  std::vector<tile> rest;
  for (std::int64_t first = full_tiles * tile_rows; first < x.rows; first += rest.back().rows) {
    rest.push_back(tile_from(first, x.rows - first, *weights, product_type, bias != nullptr));
  }
  const std::int64_t tiles = full_tiles + static_cast<std::int64_t>(rest.size());

  // Panel by panel, so that threads share the weights that are in cache.
  pool_.parallel_for(tiles * weights->panels(), [&](std::int64_t index, int thread) {
    const std::int64_t panel = index / tiles;
    const std::int64_t place = index % tiles;
    const tile& kind = place < full_tiles ? full : rest[static_cast<std::size_t>(place - full_tiles)];
    const std::int64_t first = place < full_tiles ? place * tile_rows : kind.first;
    const scratch& own = scratch_[static_cast<std::size_t>(thread)];

    matrix x_tile = x.slice_rows(first, kind.rows);
    if (x.type != arithmetic_ || x.stride != x.columns) {
      const matrix plain = dense(own.x->data(), arithmetic_, kind.rows, x.columns);
      convert(x_tile, plain);
      x_tile = plain;
    }
    const std::int64_t columns = weights->columns_of(panel);
    const matrix out_tile = out.slice_rows(first, kind.rows).slice_columns(panel * panel_columns, columns);
    const matmul& multiply = panel == weights->panels() - 1 ? *kind.last_panel : *kind.full_panel;
    const bool in_place = out.type == product_type && out.stride == columns && !accumulate;
    const matrix product = in_place ? out_tile : dense(own.product->data(), product_type, kind.rows, columns);
    const float* const panel_bias = bias != nullptr ? bias + panel * panel_columns : nullptr;
    multiply.run(thread, x_tile.data, weights->panel(panel), product.data, panel_bias);
    if (in_place) return;
    if (accumulate) {
      add(product, out_tile);
    } else {
      convert(product, out_tile);
    }
  });
}

/// Every thread streams neighbouring columns' weights; several pieces for each, for one may be held up.
void linear_layers::run_few(const matrix& x, const packed& weights, const float* bias, const matrix& out,
                            bool accumulate) {
  constexpr std::int64_t pieces_per_thread = 4;
  constexpr std::int64_t alone_weights = 1 << 16;
  const std::int64_t inputs = weights.lies(0).padded_inputs();
  if (static_cast<std::int64_t>(few_x_.size()) < few_rows_max * inputs) {
    few_x_.resize(static_cast<std::size_t>(few_rows_max * inputs));
  }
  for (std::int64_t row = 0; row < x.rows; ++row) {
    float* const wide = few_x_.data() + row * inputs;
    convert(x.slice_rows(row, 1), dense(wide, element_type::f32, 1, x.columns));
    std::fill(wide + x.columns, wide + inputs, 0.0f);
  }
  // Whole panels, whose weights lie together, where there are enough of them.
  const std::int64_t unit = weights.panels() >= 2 * pool_.size() ? panel_columns : panel_columns / 4;
  const std::int64_t units = tiles_of(out.columns, unit);
  const std::int64_t pieces =
      out.columns * inputs <= alone_weights ? 1 : std::min(units, pieces_per_thread * pool_.size());
  pool_.parallel_for(pieces, [&](std::int64_t piece, int) {
    const std::int64_t end = std::min(units * (piece + 1) / pieces * unit, out.columns);
    for (std::int64_t column = units * piece / pieces * unit; column < end;) {
      const std::int64_t panel = column / panel_columns;
      const std::int64_t first = column % panel_columns;
      const std::int64_t count = std::min(panel_columns - first, end - column);
      multiply_few_rows(weights.lies(panel), weights.panel(panel), first, few_x_.data(),
                        bias == nullptr ? nullptr : bias + column, out.slice_columns(column, count), accumulate);
      column += count;
    }
  });
}

}  // namespace baton::cpu
