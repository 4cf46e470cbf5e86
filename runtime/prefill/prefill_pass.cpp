#include "runtime/prefill/prefill_pass.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

extent take_workspace(device_context& device, const shard_plan& shard) {
  return device.memory().take(prefill_workspace_bytes(device.kernels(), device.config(), shard),
                              fmt::format("the workspace of rank {}", shard.rank));
}

prefill_workspace cut_workspace(device_context& device, const extent& memory, const shard_plan& shard) {
  layout cut(memory.data());
  return cut_prefill_workspace(cut, device.kernels(), device.config(), shard);
}

}  // namespace

prefill_pass::prefill_pass(device_context& device, const job_plan& plan, int rank, job_id job,
                           std::span<const std::int32_t> ids, transport& network, pass_progress& progress,
                           trace_recorder* trace)
    : prefill_pass(device, plan, find_strategy(plan.strategy), rank, job, ids, network, progress, trace) {}

prefill_pass::prefill_pass(device_context& device, const job_plan& plan, const strategy& how, int rank, job_id job,
                           std::span<const std::int32_t> ids, transport& network, pass_progress& progress,
                           trace_recorder* trace)
    : pass(progress, trace),
      device_(device),
      kernels_(device.kernels()),
      queue_(device.queue()),
      model_(device.config()),
      plan_(plan),
      share_(plan.shards.at(static_cast<std::size_t>(rank))),
      strategy_(how),
      job_(job),
      network_(network),
      memory_(take_workspace(device, share_)),
      work_(cut_workspace(device, memory_, share_)),
      shard_(device.memory(), model_, share_.block_tokens, device.activation(),
             fmt::format("the KV of rank {}", rank)) {
  if (static_cast<std::int64_t>(ids.size()) != share_.tokens()) {
    throw fault(fault_code::internal, fmt::format("{} token ids for a shard of {}", ids.size(), share_.tokens()),
                fmt::format("rank {}", rank));
  }
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= model_.vocabulary) {
      throw fault(fault_code::bad_input,
                  fmt::format("token id {} is outside the vocabulary of {}", id, model_.vocabulary), "document");
    }
  }
  std::vector<std::int32_t> positions;
  for (const auto* part : {&share_.anchor, &share_.block}) {
    for (const auto& run : *part) {
      for (std::int64_t i = 0; i < run.count; ++i) positions.push_back(static_cast<std::int32_t>(run.position + i));
    }
  }
  kernels_.upload(queue_, work_.ids, ids.data(), ids.size_bytes());
  kernels_.upload(queue_, work_.positions, positions.data(), positions.size() * sizeof(std::int32_t));
  kernels_.synchronize(queue_);
  if (share_.anchor_aside) {
    runs_ = {{causal_run{0, share_.anchor_tokens, &work_.aside_panel},
              causal_run{share_.anchor_tokens, share_.block_tokens, &work_.local_panel}},
             2};
  } else {
    runs_ = {{causal_run{0, share_.tokens(), &work_.local_panel}, {}}, 1};
  }
  prepare_attention();
  prepare_products();
  time_on(kernels_, queue_);
  begin(run());
}

/// What attend_causal and attend_dense will ask for.
void prefill_pass::prepare_attention() {
  const auto prepare = [&](std::int64_t first, std::int64_t count, const kv_panel& panel, const attention_mask& mask) {
    kernels_.prepare_attend(queries().slice(first, count), panel, mask, work_.attended.slice(first, count));
  };
  for (const auto& run : runs_.view()) {
    kv_panel panel = *run.panel;
    panel.keys = keys().slice(run.first, run.count);
    panel.values = values().slice(run.first, run.count);
    for (std::int64_t first = 0; first < run.count; first = chunk_end(first, run.count)) {
      const std::int64_t end = chunk_end(first, run.count);
      prepare(run.first + first, end - first, panel, {.causal = true, .keys = end, .first_query = first});
    }
  }
  if (share_.passing_units == 0) return;
  kv_panel panel = work_.passing_panel;
  panel.keys = work_.passing_keys;
  panel.values = work_.passing_values;
  for (std::int64_t first = share_.anchor_tokens; first < share_.tokens(); first = chunk_end(first, share_.tokens())) {
    prepare(first, chunk_end(first, share_.tokens()) - first, panel, {.keys = share_.passing_units});
  }
}

/// What project, score and feed_forward will ask for: all layers want the same.
void prefill_pass::prepare_products() {
  const auto& weights = device_.weights().layer(0);
  const auto& scratch = device_.scratch();
  for (std::int64_t first = 0; first < share_.tokens(); first = chunk_end(first, share_.tokens())) {
    const std::int64_t count = chunk_end(first, share_.tokens()) - first;
    const matrix hidden = work_.hidden.slice_rows(first, count);
    const matrix normed = scratch.normed.slice_rows(0, count);
    const matrix rows = work_.qkv.slice_rows(first, count);
    kernels_.prepare_linear(normed, *weights.qkv, weights.qkv_bias, rows, false);
    kernels_.prepare_linear(work_.attended.slice(first, count).as_matrix(), *weights.o, weights.o_bias, hidden, true);
    kernels_.prepare_linear(normed, *weights.gate_up, nullptr, scratch.gate_up.slice_rows(0, count), false);
    kernels_.prepare_linear(scratch.gated.slice_rows(0, count), *weights.down, nullptr, hidden, true);
    const std::int64_t skip = std::max<std::int64_t>(share_.anchor_tokens - first, 0);
    if (!scores_by_heads() || skip >= count) continue;
    const matrix inner = scratch.retain_hidden.slice_rows(0, count - skip);
    kernels_.prepare_linear(rows.slice_rows(skip, count - skip), *weights.retain_in, nullptr, inner, false);
    kernels_.prepare_linear(inner, *weights.retain_out, nullptr,
                            work_.scores.slice_rows(first + skip - share_.anchor_tokens, count - skip), false);
  }
}

void prefill_pass::leave_out(std::span<const std::int32_t> held_layers) {
  held_elsewhere_.assign(static_cast<std::size_t>(model_.layers), false);
  for (const std::int32_t layer : held_layers) {
    if (layer < 0 || layer >= model_.layers)
      throw fault(fault_code::internal, fmt::format("there is no layer {}", layer));
    held_elsewhere_[static_cast<std::size_t>(layer)] = true;
  }
}

void prefill_pass::send_after_all(int layer) {
  if (!held_elsewhere_.empty() && layer >= 0 && layer < model_.layers)
    held_elsewhere_[static_cast<std::size_t>(layer)] = false;
}

task prefill_pass::run() {
  for (std::int64_t first = 0; first < share_.tokens(); first = chunk_end(first, share_.tokens())) {
    const std::int64_t count = chunk_end(first, share_.tokens()) - first;
    kernels_.embed(queue_, device_.weights().embedding(), work_.ids + first, work_.hidden.slice_rows(first, count));
    co_await give_way{};
  }
  for (int index = 0; index < model_.layers; ++index) {
    enter(block_phase::prefill, 0, index);
    // Whoever has come less far goes first.
    co_await give_way{};
    layer l(*this, index);
    co_await project(index);
    co_await strategy_.attend(l);
    co_await feed_forward(index);
  }
  // Finished means done, not queued.
  kernels_.synchronize(queue_);
  settle_timings();
}

task prefill_pass::project(int index) {
  const auto& weights = device_.weights().layer(index);
  std::int64_t packed = 0;
  for (std::int64_t first = 0; first < share_.tokens();) {
    const std::int64_t end = chunk_end(first, share_.tokens());
    const std::int64_t count = end - first;
    const matrix rows = work_.qkv.slice_rows(first, count);
    {
      const timed scope(*this, phase::project);
      const matrix normed = device_.scratch().normed.slice_rows(0, count);
      kernels_.rms_norm(queue_, work_.hidden.slice_rows(first, count), weights.input_norm,
                        static_cast<float>(model_.rms_eps), normed);
      kernels_.linear(queue_, normed, *weights.qkv, weights.qkv_bias, rows, false);
    }
    if (scores_by_heads()) score(index, rows, first);
    {
      const timed scope(*this, phase::project);
      // Queries and keys stand side by side and turn alike.
      const std::int64_t local = std::clamp(share_.anchor_tokens, first, end);
      kernels_.rotate_and_store(queue_, as_heads(rows, 0, model_.heads + model_.kv_heads, model_.head_dim),
                                values().slice(first, count), work_.positions + first, device_.rope(), local - first,
                                {.keys = shard_.keys(index),
                                 .values = shard_.values(index),
                                 .first = local < end ? local - share_.anchor_tokens : 0});
      const std::int64_t tile = kernels_.panel_tile_tokens();
      for (const auto& run : runs_.view()) {
        // Whole tiles as they come, the rest with the run's last token.
        const std::int64_t run_end = run.first + run.count;
        const auto tiled = [&](std::int64_t token) {
          const std::int64_t inside = std::clamp<std::int64_t>(token - run.first, 0, run.count);
          return token >= run_end ? run.count : inside / tile * tile;
        };
        const std::int64_t from = tiled(packed);
        const std::int64_t to = tiled(end);
        if (to > from) {
          kernels_.pack_panel(queue_, keys().slice(run.first + from, to - from),
                              values().slice(run.first + from, to - from), *run.panel, from);
        }
      }
      packed = end;
    }
    first = end;
    co_await give_way{};
  }
}

/// Retaining heads see the projections before RoPE: fc2(silu(fc1([q; k; v]))).
void prefill_pass::score(int index, const matrix& rows, std::int64_t first) {
  const std::int64_t skip = std::max<std::int64_t>(share_.anchor_tokens - first, 0);
  if (skip >= rows.rows) return;
  const timed scope(*this, phase::compress);
  const auto& weights = device_.weights().layer(index);
  const std::int64_t count = rows.rows - skip;
  const matrix hidden = device_.scratch().retain_hidden.slice_rows(0, count);
  kernels_.linear(queue_, rows.slice_rows(skip, count), *weights.retain_in, nullptr, hidden, false);
  kernels_.silu(queue_, hidden);
  kernels_.linear(queue_, hidden, *weights.retain_out, nullptr,
                  work_.scores.slice_rows(first + skip - share_.anchor_tokens, count), false);
}

task prefill_pass::feed_forward(int index) {
  const auto& weights = device_.weights().layer(index);
  for (std::int64_t first = 0; first < share_.tokens();) {
    const std::int64_t count = chunk_end(first, share_.tokens()) - first;
    {
      const timed scope(*this, phase::feed_forward);
      const auto& scratch = device_.scratch();
      const matrix hidden = work_.hidden.slice_rows(first, count);
      const matrix normed = scratch.normed.slice_rows(0, count);
      const matrix gate_up = scratch.gate_up.slice_rows(0, count);
      const matrix gated = scratch.gated.slice_rows(0, count);
      kernels_.linear(queue_, work_.attended.slice(first, count).as_matrix(), *weights.o, weights.o_bias, hidden, true);
      kernels_.rms_norm(queue_, hidden, weights.post_attention_norm, static_cast<float>(model_.rms_eps), normed);
      kernels_.linear(queue_, normed, *weights.gate_up, nullptr, gate_up, false);
      kernels_.swiglu(queue_, gate_up, gated);
      kernels_.linear(queue_, gated, *weights.down, nullptr, hidden, true);
    }
    progress().tokens_done.fetch_add(count, std::memory_order_relaxed);
    first += count;
    co_await give_way{};
  }
}

head_matrix prefill_pass::queries() const { return as_heads(work_.qkv, 0, model_.heads, model_.head_dim); }

head_matrix prefill_pass::keys() const {
  return as_heads(work_.qkv, static_cast<std::int64_t>(model_.heads) * model_.head_dim, model_.kv_heads,
                  model_.head_dim);
}

head_matrix prefill_pass::values() const {
  return as_heads(work_.qkv, static_cast<std::int64_t>(model_.heads + model_.kv_heads) * model_.head_dim,
                  model_.kv_heads, model_.head_dim);
}

std::int32_t* prefill_pass::chosen(int layer) const {
  return work_.chosen + layer * model_.kv_heads * share_.compressed_units;
}

std::vector<std::int32_t> prefill_pass::chosen_of_block(int layer) const {
  std::vector<std::int32_t> indices(static_cast<std::size_t>(model_.kv_heads * share_.compressed_units));
  kernels_.download(queue_, indices.data(), chosen(layer), indices.size() * sizeof(std::int32_t));
  kernels_.synchronize(queue_);
  return indices;
}

std::vector<std::int32_t> prefill_pass::chosen_units(int layer) const {
  auto indices = chosen_of_block(layer);
  for (auto& index : indices) index = static_cast<std::int32_t>(share_.document_index(index));
  return indices;
}

std::optional<block> prefill_pass::gather_again(int layer) const {
  if (layer >= layers_compressed_) return std::nullopt;
  return gather_compressed(device_, shard_, layer, chosen_of_block(layer));
}

compressed_source prefill_pass::source() const {
  std::vector<std::vector<std::int32_t>> chosen_by_layer(static_cast<std::size_t>(model_.layers));
  for (int layer = 0; layer < layers_compressed_; ++layer)
    chosen_by_layer[static_cast<std::size_t>(layer)] = chosen_of_block(layer);
  return compressed_source(std::move(chosen_by_layer));
}

// ---- one layer, as a strategy sees it ----

int layer::rank() const { return pass_.share_.rank; }

int layer::ranks() const { return pass_.plan_.ranks(); }

kv_block layer::compress() {
  auto& p = pass_;
  const auto& share = p.share_;
  if (share.compressed_units == 0) return {};
  const prefill_pass::timed scope(p, phase::compress);
  const auto& work = p.work_;
  const head_matrix local_keys = p.shard_.keys(index_);
  matrix scores = work.scores;
  switch (p.plan_.compressor) {
    case compressor_kind::retaining_heads:
      p.kernels_.max_pool(p.queue_, work.scores, work.pooled);
      scores = work.pooled;
      break;
    case compressor_kind::query_key:
      p.kernels_.mean_query(p.queue_, p.queries().slice(share.anchor_query_first, share.anchor_query_tokens),
                            work.mean_query);
      p.kernels_.score_keys(p.queue_, local_keys, work.mean_query, work.scores);
      p.kernels_.max_pool(p.queue_, work.scores, work.pooled);
      scores = work.pooled;
      break;
    case compressor_kind::recent: p.kernels_.score_recent(p.queue_, work.scores); break;
    case compressor_kind::random: {
      std::int64_t row = 0;
      for (const auto& run : share.block) {
        p.kernels_.score_random(p.queue_, p.plan_.compressor_seed, index_, run.first,
                                work.scores.slice_rows(row, run.count));
        row += run.count;
      }
      break;
    }
    case compressor_kind::none: throw fault(fault_code::internal, "a plan that passes units without a compressor");
  }
  p.kernels_.select_top(p.queue_, scores, share.eligible_from, share.compressed_units, p.chosen(index_),
                        work.selection);
  p.kernels_.gather(p.queue_, local_keys, p.chosen(index_), work.compressed_keys);
  p.kernels_.gather(p.queue_, p.shard_.values(index_), p.chosen(index_), work.compressed_values);
  p.layers_compressed_ = index_ + 1;
  return {work.compressed_keys, work.compressed_values};
}

passing_blocks layer::exchange(const kv_block& compressed, rank_range to, rank_range from) {
  auto& p = pass_;
  const prefill_pass::timed scope(p, phase::exchange);
  const auto bytes = [](const head_matrix& m) {
    return std::span(static_cast<std::byte*>(m.data), static_cast<std::size_t>(m.tokens * m.stride * bytes_of(m.type)));
  };
  const auto key = [&](int source) { return compressed_key(p.job_, index_, source); };
  std::vector<outgoing_block> sends;
  const bool is_held = !p.held_elsewhere_.empty() && p.held_elsewhere_[static_cast<std::size_t>(index_)];
  if (compressed.keys.tokens > 0 && !to.empty() && !is_held) {
    sends.push_back({key(rank()), {bytes(compressed.keys), bytes(compressed.values)}, to});
  }
  std::vector<incoming_block> receives;
  std::int64_t unit = 0;
  for (int source = from.first; source < from.last; ++source) {
    const std::int64_t units = p.plan_.shards[static_cast<std::size_t>(source)].compressed_units;
    if (units == 0) continue;
    receives.push_back(
        {key(source),
         {bytes(p.work_.passing_keys.slice(unit, units)), bytes(p.work_.passing_values.slice(unit, units))}});
    unit += units;
  }
  return {p.network_.exchange(sends, receives), {p.work_.passing_keys, p.work_.passing_values}};
}

causal_runs layer::anchor_and_local() const { return pass_.runs_; }

task layer::attend_causal(causal_runs keys) {
  auto& p = pass_;
  for (const auto& run : keys.view()) {
    for (std::int64_t first = 0; first < run.count;) {
      const std::int64_t end = p.chunk_end(first, run.count);
      {
        const prefill_pass::timed scope(p, phase::attend);
        const attention_mask mask{.causal = true, .keys = end, .first_query = first};
        p.kernels_.attend(p.queue_, p.queries().slice(run.first + first, end - first), *run.panel, mask,
                          1.0f / std::sqrt(static_cast<float>(p.model_.head_dim)),
                          p.work_.attended.slice(run.first + first, end - first),
                          p.work_.log_sum_exp.slice_rows(run.first + first, end - first), attention_result::replace);
      }
      first = end;
      co_await give_way{};
    }
  }
}

task layer::attend_dense(const kv_block& passing) {
  auto& p = pass_;
  const std::int64_t units = passing.keys.tokens;
  if (units == 0) co_return;
  {
    const prefill_pass::timed scope(p, phase::attend);
    p.kernels_.pack_panel(p.queue_, passing.keys, passing.values, p.work_.passing_panel, 0);
  }
  for (std::int64_t first = p.share_.anchor_tokens; first < p.share_.tokens();) {
    const std::int64_t end = p.chunk_end(first, p.share_.tokens());
    {
      const prefill_pass::timed scope(p, phase::attend);
      p.kernels_.attend(p.queue_, p.queries().slice(first, end - first), p.work_.passing_panel, {.keys = units},
                        1.0f / std::sqrt(static_cast<float>(p.model_.head_dim)),
                        p.work_.attended.slice(first, end - first), p.work_.log_sum_exp.slice_rows(first, end - first),
                        attention_result::merge);
    }
    first = end;
    co_await give_way{};
  }
}

}  // namespace baton
