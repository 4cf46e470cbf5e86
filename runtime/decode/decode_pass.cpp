#include "runtime/decode/decode_pass.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "kernels/fault.hpp"
#include "kernels/random_score.hpp"

namespace baton {
namespace {

decode_workspace cut_workspace(layout& cut, const buffer_sizes& kernels, const model_config& c, int ranks,
                               std::int64_t keys_max, std::int64_t query_tokens) {
  const auto type = kernels.activation_type();
  const std::int64_t tokens = std::min(std::max<std::int64_t>(query_tokens, 1), decode_pass::piece_tokens);
  decode_workspace w;
  w.inputs = reinterpret_cast<std::int32_t*>(cut.cut(static_cast<std::size_t>(1 + 2 * tokens) * sizeof(std::int32_t)));
  w.hidden = cut.cut_matrix(tokens, c.hidden, type);
  w.qkv = cut.cut_matrix(tokens, static_cast<std::int64_t>(c.heads + 2 * c.kv_heads) * c.head_dim, type);
  w.attended = cut.cut_heads(tokens, c.heads, c.head_dim, type);
  w.last_normed = cut.cut_matrix(1, c.hidden, type);
  for (int part = 0; part <= ranks; ++part) {
    w.partial.push_back(cut.cut_heads(tokens, c.heads, c.head_dim, element_type::f32));
    w.partial_log_sum_exp.push_back(cut.cut_matrix(tokens, c.heads, element_type::f32));
  }
  w.attention = cut.cut(kernels.decode_attention_workspace_bytes(keys_max, c.heads, c.head_dim));
  return w;
}

std::int64_t tail_length(std::int64_t query_tokens, int max_new_tokens) { return query_tokens + max_new_tokens; }

std::size_t workspace_bytes(const buffer_sizes& kernels, const model_config& c, int ranks, std::int64_t keys_max,
                            std::int64_t query_tokens) {
  layout measure;
  cut_workspace(measure, kernels, c, ranks, keys_max, query_tokens);
  return measure.bytes();
}

}  // namespace

float sampling_uniform(std::uint64_t seed, std::uint32_t question, std::uint32_t token_index) {
  const std::uint64_t place = static_cast<std::uint64_t>(question) << 32 | token_index;
  return static_cast<float>(splitmix64(splitmix64(seed) ^ place) >> 40) * 0x1p-24f;
}

std::size_t decode_pass::bytes_needed(const buffer_sizes& kernels, const model_config& config, int ranks,
                                      std::int64_t block_tokens, std::int64_t query_tokens, int max_new_tokens) {
  const std::int64_t tail = tail_length(query_tokens, max_new_tokens);
  return kv_shard::bytes_needed(config, tail, kernels.activation_type()) +
         workspace_bytes(kernels, config, ranks, std::max(block_tokens, tail), query_tokens);
}

decode_pass::decode_pass(device_context& device, const job_plan& plan, int rank, job_id job, const kv_shard& shard,
                         const question& asked, transport& network, pass_progress& progress, listener hears,
                         trace_recorder* trace)
    : pass(progress, trace),
      device_(device),
      kernels_(device.kernels()),
      queue_(device.queue()),
      model_(device.config()),
      plan_(plan),
      rank_(rank),
      job_(job),
      shard_(shard),
      asked_(asked),
      network_(network),
      hears_(std::move(hears)),
      tail_(device.memory(), model_,
            tail_length(static_cast<std::int64_t>(asked.query_ids.size()), asked.max_new_tokens), device.activation(),
            fmt::format("the KV of question {}", asked.number)),
      captured_(static_cast<std::size_t>(model_.layers) + 1) {
  const auto query_tokens = static_cast<std::int64_t>(asked_.query_ids.size());
  if (query_tokens == 0) throw fault(fault_code::bad_input, "it is empty", "question");
  for (const std::int32_t id : asked_.query_ids) {
    if (id < 0 || id >= model_.vocabulary) {
      throw fault(fault_code::bad_input,
                  fmt::format("token id {} is outside the vocabulary of {}", id, model_.vocabulary), "question");
    }
  }
  if (static_cast<std::int64_t>(asked_.forced_tokens.size()) > asked_.max_new_tokens) {
    throw fault(fault_code::internal, fmt::format("{} forced tokens for an answer of at most {}",
                                                  asked_.forced_tokens.size(), asked_.max_new_tokens));
  }
  const std::int64_t keys_max = std::max(shard_.tokens(), tail_.tokens());
  memory_ = device.memory().take(workspace_bytes(kernels_, model_, plan_.ranks(), keys_max, query_tokens),
                                 fmt::format("the workspace of question {}", asked_.number));
  layout cut(memory_.data());
  work_ = cut_workspace(cut, kernels_, model_, plan_.ranks(), keys_max, query_tokens);
  begin(run());
}

task decode_pass::run() {
  const std::span query(asked_.query_ids);
  std::uint32_t piece = 0;
  std::size_t done = 0;
  std::size_t count = 0;
  for (; done < query.size(); done += count, ++piece) {
    count = std::min(query.size() - done, static_cast<std::size_t>(piece_tokens));
    co_await advance(query.subspan(done, count), block_phase::query, piece);
  }
  for (int index = 0;; ++index) {
    co_await choose_token(index, static_cast<std::int64_t>(count) - 1);
    if (index == 0) first_token_s_ = elapsed_s();
    if (std::ranges::find(asked_.stop_tokens, token_) != asked_.stop_tokens.end()) co_return;
    ++answer_tokens_;
    const bool is_new = static_cast<std::size_t>(index) >= asked_.forced_tokens.size();
    if (is_new && hears_.on_token) hears_.on_token(index, token_);
    if (answer_tokens_ == asked_.max_new_tokens) co_return;
    count = 1;
    const std::int32_t next = token_;
    co_await advance(std::span(&next, 1), block_phase::decode, static_cast<std::uint32_t>(index));
  }
}

task decode_pass::advance(std::span<const std::int32_t> ids, block_phase phase_of_block, std::uint32_t step) {
  const auto count = static_cast<std::int64_t>(ids.size());
  const bool alone = plan_.ranks() == 1;
  const int stretches = model_.layers + 1;
  // A pass that computes while it launches gives way after each layer.
  const int at_once = alone && !kernels_.computes_on_host() ? stretches : 1;
  upload_inputs(ids);
  for (int first = 0; first < stretches; first += at_once) {
    enter(phase_of_block, step, std::min(first, model_.layers - 1));
    auto& again = captured_[static_cast<std::size_t>(first)];
    const auto launches = [&] { launch_stretches(first, first + at_once, count); };
    if (phase_of_block == block_phase::decode && !again) again = kernels_.capture(queue_, launches);
    if (phase_of_block == block_phase::decode && again) {
      kernels_.launch(queue_, *again);
    } else {
      launches();
    }
    if (!alone && first < model_.layers) {
      auto under_way = exchange_partials(first, count, phase_of_block, step);
      co_await under_way;
    }
    co_await give_way{};
  }
  tail_tokens_ += count;
}

void decode_pass::upload_inputs(std::span<const std::int32_t> ids) {
  // What the step before uploaded may be on its way still, where no token was waited for between.
  kernels_.synchronize(queue_);
  inputs_on_host_.assign(1, static_cast<std::int32_t>(tail_tokens_));
  inputs_on_host_.insert(inputs_on_host_.end(), ids.begin(), ids.end());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    inputs_on_host_.push_back(
        static_cast<std::int32_t>(plan_.document_tokens + tail_tokens_ + static_cast<std::int64_t>(i)));
  }
  kernels_.upload(queue_, work_.inputs, inputs_on_host_.data(), inputs_on_host_.size() * sizeof(std::int32_t));
}

step_inputs decode_pass::inputs(std::int64_t count) const {
  return {work_.inputs, work_.inputs + 1, work_.inputs + 1 + count};
}

void decode_pass::launch_stretches(int first, int last, std::int64_t count) {
  for (int stretch = first; stretch < last; ++stretch) {
    if (stretch == 0) {
      kernels_.embed(queue_, device_.weights().embedding(), inputs(count).ids, work_.hidden.slice_rows(0, count));
    } else {
      merge_and_feed_forward(stretch - 1, count);
    }
    if (stretch < model_.layers) project_and_attend(stretch, count);
  }
}

void decode_pass::project_and_attend(int index, std::int64_t count) {
  const auto& weights = device_.weights().layer(index);
  const matrix rows = work_.qkv.slice_rows(0, count);
  const step_inputs in = inputs(count);
  const std::int64_t first_value = static_cast<std::int64_t>(model_.heads + model_.kv_heads) * model_.head_dim;
  {
    const timed scope(*this, phase::project);
    const matrix normed = device_.scratch().normed.slice_rows(0, count);
    kernels_.rms_norm(queue_, work_.hidden.slice_rows(0, count), weights.input_norm, static_cast<float>(model_.rms_eps),
                      normed);
    kernels_.linear(queue_, normed, *weights.qkv, weights.qkv_bias, rows, false);
    kernels_.rotate_and_store(queue_, as_heads(rows, 0, model_.heads + model_.kv_heads, model_.head_dim),
                              as_heads(rows, first_value, model_.kv_heads, model_.head_dim), in.positions,
                              device_.rope(), 0,
                              {.keys = tail_.keys(index), .values = tail_.values(index), .first_at = in.tail_tokens});
  }
  const timed scope(*this, phase::attend);
  const head_matrix q = as_heads(rows, 0, model_.heads, model_.head_dim);
  const float scale = 1.0f / std::sqrt(static_cast<float>(model_.head_dim));
  // The shard stands since the prefill ended, which waited for the device.
  kernels_.attend_few(queue_, q, shard_.keys(index), shard_.values(index), {.keys = shard_.tokens(), .settled = true},
                      scale, partial(rank_, count), partial_sums(rank_, count), work_.attention);
  if (!is_last()) return;
  const int tail_part = plan_.ranks();
  kernels_.attend_few(queue_, q, tail_.keys(index), tail_.values(index),
                      {.causal = true, .keys = tail_.tokens(), .first_query_at = in.tail_tokens}, scale,
                      partial(tail_part, count), partial_sums(tail_part, count), work_.attention);
}

void decode_pass::merge_and_feed_forward(int index, std::int64_t count) {
  const auto& weights = device_.weights().layer(index);
  const auto& scratch = device_.scratch();
  {
    const timed scope(*this, phase::attend);
    std::vector<head_matrix> parts;
    std::vector<matrix> part_sums;
    for (int part = 0; part <= plan_.ranks(); ++part) {
      parts.push_back(partial(part, count));
      part_sums.push_back(partial_sums(part, count));
    }
    kernels_.merge_attention(queue_, parts, part_sums, work_.attended.slice(0, count));
  }
  const timed scope(*this, phase::feed_forward);
  const matrix hidden = work_.hidden.slice_rows(0, count);
  const matrix normed = scratch.normed.slice_rows(0, count);
  const matrix gate_up = scratch.gate_up.slice_rows(0, count);
  const matrix gated = scratch.gated.slice_rows(0, count);
  kernels_.linear(queue_, work_.attended.slice(0, count).as_matrix(), *weights.o, weights.o_bias, hidden, true);
  kernels_.rms_norm(queue_, hidden, weights.post_attention_norm, static_cast<float>(model_.rms_eps), normed);
  kernels_.linear(queue_, normed, *weights.gate_up, nullptr, gate_up, false);
  kernels_.swiglu(queue_, gate_up, gated);
  kernels_.linear(queue_, gated, *weights.down, nullptr, hidden, true);
}

head_matrix decode_pass::partial(int part, std::int64_t count) const {
  return work_.partial[static_cast<std::size_t>(part)].slice(0, count);
}

matrix decode_pass::partial_sums(int part, std::int64_t count) const {
  return work_.partial_log_sum_exp[static_cast<std::size_t>(part)].slice_rows(0, count);
}

transfer decode_pass::exchange_partials(int index, std::int64_t count, block_phase phase_of_block, std::uint32_t step) {
  const auto parts_of = [&](int source) {
    std::vector<std::span<std::byte>> parts;
    const auto add = [&](int part) {
      const head_matrix o = partial(part, count);
      const matrix l = partial_sums(part, count);
      parts.emplace_back(static_cast<std::byte*>(o.data),
                         static_cast<std::size_t>(o.tokens * o.stride) * sizeof(float));
      parts.emplace_back(static_cast<std::byte*>(l.data), static_cast<std::size_t>(l.rows * l.stride) * sizeof(float));
    };
    add(source);
    if (source + 1 == plan_.ranks()) add(plan_.ranks());
    return parts;
  };
  const auto key = [&](int source) {
    return block_key{.job = job_,
                     .phase = phase_of_block,
                     .question = question_of_blocks(),
                     .step = step,
                     .layer = static_cast<std::uint16_t>(index),
                     .source = static_cast<std::uint16_t>(source)};
  };
  const auto own = parts_of(rank_);
  const std::vector<outgoing_block> sends{
      {key(rank_), {own.begin(), own.end()}, {0, plan_.ranks()}, block_route::direct}};
  std::vector<incoming_block> receives;
  for (int source = 0; source < plan_.ranks(); ++source) {
    if (source != rank_) receives.push_back({key(source), parts_of(source), block_route::direct});
  }
  return exchange(sends, receives);
}

transfer decode_pass::exchange(std::span<const outgoing_block> sends, std::span<const incoming_block> receives) {
  const timed scope(*this, phase::exchange);
  return network_.exchange(sends, receives);
}

task decode_pass::choose_token(int index, std::int64_t last_row) {
  if (static_cast<std::size_t>(index) < asked_.forced_tokens.size()) {
    token_ = asked_.forced_tokens[static_cast<std::size_t>(index)];
    co_return;
  }
  if (is_last()) sample(index, last_row);
  if (plan_.ranks() == 1) co_return;
  const auto last = plan_.ranks() - 1;
  // Layers count from 0: the token travels as the part after all of them.
  const block_key key{.job = job_,
                      .phase = block_phase::decode,
                      .question = question_of_blocks(),
                      .step = static_cast<std::uint32_t>(index),
                      .layer = static_cast<std::uint16_t>(model_.layers),
                      .source = static_cast<std::uint16_t>(last),
                      .part = 1};
  if (is_last()) {
    const std::vector<outgoing_block> sends{
        {key, {std::as_bytes(std::span(&token_, 1))}, {0, last}, block_route::direct, true}};
    auto under_way = exchange(sends, {});
    co_await under_way;
  } else {
    const std::vector<incoming_block> receives{
        {key, {std::as_writable_bytes(std::span(&token_, 1))}, block_route::direct, true}};
    auto under_way = exchange({}, receives);
    co_await under_way;
  }
}

void decode_pass::sample(int index, std::int64_t last_row) {
  const auto& scratch = device_.scratch();
  kernels_.rms_norm(queue_, work_.hidden.slice_rows(last_row, 1), device_.weights().final_norm(),
                    static_cast<float>(model_.rms_eps), work_.last_normed);
  kernels_.linear(queue_, work_.last_normed, device_.weights().output_head(), nullptr, scratch.logits, false);
  if (index == 0 && hears_.on_first_logits) {
    std::vector<float> logits(static_cast<std::size_t>(model_.vocabulary));
    kernels_.download(queue_, logits.data(), scratch.logits.data, logits.size() * sizeof(float));
    kernels_.synchronize(queue_);
    hears_.on_first_logits(logits);
  }
  const auto& how = asked_.sampling;
  if (how.temperature == 0) {
    kernels_.sample_greedy(queue_, scratch.logits, scratch.token);
  } else {
    kernels_.sample_top_p(queue_, scratch.logits, how.temperature, how.top_p,
                          sampling_uniform(how.seed, asked_.number, static_cast<std::uint32_t>(index)), scratch.token,
                          scratch.sampling);
  }
  kernels_.download(queue_, &token_, scratch.token, sizeof token_);
  kernels_.synchronize(queue_);
}

}  // namespace baton
