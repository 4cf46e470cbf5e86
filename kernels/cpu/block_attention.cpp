#include "kernels/cpu/block_attention.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <numbers>

#include "kernels/cpu/convert.hpp"
#include "kernels/cpu/isa.hpp"
#include "kernels/cpu/launch.hpp"
#include "kernels/cpu/online_softmax.hpp"

namespace baton::cpu {
namespace {

constexpr std::int64_t query_tile = 256;
constexpr std::int64_t key_tile = block_attention::key_tile;
// Products over a part of a key tile exist in these steps, so that little is computed only to be masked.
constexpr std::int64_t score_step = 128;
constexpr std::int64_t value_step = 256;
// Rows of a query tile that is not full are padded to a multiple of this: few different matmuls for all lengths.
constexpr std::int64_t row_step = 16;

std::int64_t pieces_of(std::int64_t count, std::int64_t piece) { return (count + piece - 1) / piece; }

/// One key tile of one KV head in a panel: K^T (dim, 512), then V as two halves (256, dim).
struct tile_layout {
  tile_layout(int dim, element_type type)
      : keys(dim, key_tile, type),
        values(value_step, dim, type),
        bytes(keys.bytes() + key_tile / value_step * values.bytes()) {}

  [[nodiscard]] std::byte* tile(const kv_panel& panel, std::int64_t kv_head, std::int64_t index) const {
    const std::int64_t tiles = pieces_of(panel.tokens_max, key_tile);
    return panel.data + static_cast<std::size_t>(kv_head * tiles + index) * bytes;
  }
  [[nodiscard]] std::byte* values_of(std::byte* tile, std::int64_t half) const {
    return tile + keys.bytes() + static_cast<std::size_t>(half) * values.bytes();
  }

  weight_format keys;
  weight_format values;
  std::size_t bytes;
};

matrix head_rows(const head_matrix& x, std::int64_t first, std::int64_t count, std::int64_t head) {
  return x.as_matrix().slice_columns(head * x.dim, x.dim).slice_rows(first, count);
}

/// Copies rows and zeroes those up to `rows`: what is multiplied, though with 0, must be a number.
void convert_padded(const matrix& from, std::byte* to, element_type type, std::int64_t rows) {
  convert(from, {to, type, from.rows, from.columns, from.columns});
  std::memset(bytes_at(to, type, from.rows * from.columns), 0,
              static_cast<std::size_t>((rows - from.rows) * from.columns * bytes_of(type)));
}

}  // namespace

struct block_attention::packers {
  packers(int dim, element_type type) : layout(dim, type), keys(layout.keys, true), values(layout.values, false) {}

  tile_layout layout;
  weight_packer keys;
  weight_packer values;
};

/// The matmuls of a query tile of so many (padded) rows.
struct block_attention::products {
  std::int64_t rows = 0;
  std::array<const matmul*, key_tile / score_step> scores{};  // over 128, 256, … keys
  const matmul* first_values = nullptr;                       // sums = weights V
  const matmul* more_values = nullptr;                        // sums += weights V
};

/// What all tasks of one launch share.
struct block_attention::launch {
  const head_matrix& q;
  const kv_panel& panel;
  const attention_mask& mask;
  float scale_log2;
  const head_matrix& out;
  const matrix& log_sum_exp;
  attention_result result;
  const tile_layout& layout;
};

block_attention::block_attention(thread_pool& pool, element_type activations)
    : pool_(pool),
      activations_(activations),
      arithmetic_(effective_isa().bf16_matmul ? activations : element_type::f32),
      matmuls_(pool.size()),
      scratch_(static_cast<std::size_t>(pool.size())) {}

block_attention::~block_attention() = default;

std::size_t block_attention::panel_bytes(std::int64_t tokens_max, int kv_heads, int dim) const {
  const auto tiles = static_cast<std::size_t>(kv_heads * pieces_of(tokens_max, key_tile));
  return tiles * tile_layout(dim, arithmetic_).bytes;
}

const block_attention::packers& block_attention::packers_for(int dim) {
  return packers_.try_emplace(dim, dim, arithmetic_).first->second;
}

block_attention::products block_attention::products_for(std::int64_t rows, int dim) {
  products made;
  made.rows = pieces_of(rows, row_step) * row_step;
  std::int64_t keys = 0;
  for (auto& product : made.scores) {
    keys += score_step;
    product = &matmuls_.get({made.rows, dim, keys, key_tile, arithmetic_, element_type::f32, false});
  }
  made.first_values = &matmuls_.get({made.rows, value_step, dim, dim, arithmetic_, element_type::f32, false});
  made.more_values = &matmuls_.get({made.rows, value_step, dim, dim, arithmetic_, element_type::f32, true});
  return made;
}

void block_attention::reserve_scratch(int dim) {
  if (dim <= scratch_dim_) return;
  const std::int64_t number_bytes = bytes_of(arithmetic_);
  const std::int64_t queries = query_tile * dim * number_bytes;
  const std::int64_t scores = std::max(query_tile * key_tile * 4, key_tile * dim * number_bytes);
  const std::int64_t weights = query_tile * key_tile * number_bytes;
  const std::int64_t sums = query_tile * dim * 4;
  const std::int64_t row_numbers = query_tile * 4;
  for (scratch& own : scratch_) {
    own.memory =
        std::make_unique<host_memory>(static_cast<std::size_t>(queries + scores + weights + sums + 2 * row_numbers));
    own.queries = own.memory->data();
    own.scores = own.queries + queries;
    own.weights = own.scores + scores;
    own.sums = reinterpret_cast<float*>(own.weights + weights);
    own.reference = own.sums + query_tile * dim;
    own.sum = own.reference + query_tile;
  }
  scratch_dim_ = dim;
}

void block_attention::pack(const head_matrix& keys, const head_matrix& values, const kv_panel& panel,
                           std::int64_t first) {
  require(keys.tokens == values.tokens && keys.heads == panel.kv_heads && values.heads == panel.kv_heads &&
              keys.dim == panel.dim && values.dim == panel.dim,
          "pack_panel", "keys and values of the panel's shape");
  require(keys.type == activations_ && values.type == activations_, "pack_panel", "keys and values in activation type");
  require(first >= 0 && first % key_tile == 0 && first + keys.tokens <= panel.tokens_max, "pack_panel",
          "a first token at a tile's start, and room for all");
  if (keys.tokens == 0) return;
  reserve_scratch(panel.dim);
  const packers& pack = packers_for(panel.dim);
  const std::int64_t tiles = pieces_of(keys.tokens, key_tile);
  pool_.parallel_for(tiles * panel.kv_heads, [&](std::int64_t index, int thread) {
    const std::int64_t head = index / tiles;
    const std::int64_t from = index % tiles * key_tile;
    const std::int64_t tokens = std::min(key_tile, keys.tokens - from);
    std::byte* plain = scratch_[static_cast<std::size_t>(thread)].scores;
    std::byte* tile = pack.layout.tile(panel, head, first / key_tile + index % tiles);
    convert_padded(head_rows(keys, from, tokens, head), plain, arithmetic_, key_tile);
    pack.keys(plain, tile);
    convert_padded(head_rows(values, from, tokens, head), plain, arithmetic_, key_tile);
    for (std::int64_t half = 0; half < key_tile / value_step; ++half) {
      pack.values(bytes_at(plain, arithmetic_, half * value_step * panel.dim), pack.layout.values_of(tile, half));
    }
  });
}

void block_attention::attend(const head_matrix& q, const kv_panel& panel, const attention_mask& mask, float scale,
                             const head_matrix& out, const matrix& log_sum_exp, attention_result result) {
  require(q.type == activations_ && out.type == activations_ && log_sum_exp.type == element_type::f32, "attend",
          "queries and outputs in activation type, log-sum-exps in fp32");
  require(
      out.tokens == q.tokens && out.heads == q.heads && log_sum_exp.rows == q.tokens && log_sum_exp.columns == q.heads,
      "attend", "an output and a log-sum-exp for each query and head");
  require(q.dim == panel.dim && out.dim == panel.dim && panel.kv_heads > 0 && q.heads % panel.kv_heads == 0, "attend",
          "heads of the panel's dimension, a multiple of its KV heads");
  require(mask.keys >= 0 && mask.keys <= panel.tokens_max, "attend", "keys inside the panel");
  require(!mask.causal || (mask.first_query >= 0 && mask.first_query + q.tokens <= mask.keys), "attend",
          "causal queries whose own keys are in the panel");
  require(scale > 0, "attend", "a positive scale");
  if (q.tokens == 0) return;
  reserve_scratch(panel.dim);
  const std::int64_t tiles = pieces_of(q.tokens, query_tile);
  const std::int64_t rest_rows = q.tokens - (tiles - 1) * query_tile;
  const launch all{q,   panel,       mask,   scale * std::numbers::log2e_v<float>,
                   out, log_sum_exp, result, packers_for(panel.dim).layout};
  const products rest = products_for(rest_rows, panel.dim);
  const products full = tiles > 1 ? products_for(query_tile, panel.dim) : rest;
  // Last tiles first: causally they see most keys, and the long tasks should not come at the end. All heads of a tile
  // follow one another, so that those of one KV head find its keys in cache.
  pool_.parallel_for(tiles * q.heads, [&](std::int64_t index, int thread) {
    const std::int64_t tile = tiles - 1 - index / q.heads;
    const bool last = tile == tiles - 1;
    attend_tile(scratch_[static_cast<std::size_t>(thread)], thread, all, last ? rest : full, tile * query_tile,
                last ? rest_rows : query_tile, index % q.heads);
  });
}

void block_attention::attend_tile(const scratch& own, int thread, const launch& all, const products& product,
                                  std::int64_t first, std::int64_t rows, std::int64_t head) const {
  const int dim = all.panel.dim;
  const std::int64_t kv_head = head / (all.q.heads / all.panel.kv_heads);
  const std::int64_t own_key = all.mask.first_query + first;  // of the first row, if causal
  const std::int64_t keys_end = all.mask.causal ? std::min(all.mask.keys, own_key + rows) : all.mask.keys;
  const softmax_rows state{own.reference, own.sum};
  const matrix sums{own.sums, element_type::f32, rows, dim, dim};
  state.clear(rows);
  convert_padded(head_rows(all.q, first, rows, head), own.queries, arithmetic_, product.rows);

  for (std::int64_t from = 0; from < keys_end; from += key_tile) {
    const std::int64_t keys = std::min(key_tile, keys_end - from);
    std::byte* tile = all.layout.tile(all.panel, kv_head, from / key_tile);
    const std::int64_t score_pieces = pieces_of(keys, score_step);
    const std::int64_t value_pieces = pieces_of(keys, value_step);
    auto* scores = reinterpret_cast<float*>(own.scores);
    product.scores[static_cast<std::size_t>(score_pieces - 1)]->run(thread, own.queries, tile, scores);
    const std::int64_t columns = score_pieces * score_step;
    const visible_keys visible{all.mask.causal ? own_key + 1 - from : keys, all.mask.causal};
    const key_weights weights{own.weights, arithmetic_, value_step, product.rows * value_step};
    soften({scores, element_type::f32, rows, columns, columns}, all.scale_log2, visible, state, weights, sums);
    for (std::int64_t piece = 0; piece < value_pieces; ++piece) {
      const matmul* sum_up = from == 0 && piece == 0 ? product.first_values : product.more_values;
      sum_up->run(thread, bytes_at(own.weights, arithmetic_, piece * weights.piece_numbers),
                  all.layout.values_of(tile, piece), own.sums);
    }
  }
  finish(sums, state, head_rows(all.out, first, rows, head),
         all.log_sum_exp.slice_rows(first, rows).slice_columns(head, 1), all.result);
}

}  // namespace baton::cpu
