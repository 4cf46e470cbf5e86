#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "runtime/device/device_context.hpp"
#include "runtime/device/pass.hpp"
#include "runtime/plan/job_plan.hpp"
#include "runtime/prefill/kv_shard.hpp"

namespace baton {

/// One question about a prefilled document.
struct question {
  std::uint32_t number = 0;  ///< of the job
  std::vector<std::int32_t> query_ids;
  int max_new_tokens = 64;
  std::vector<std::int32_t> stop_tokens;  ///< end the answer, not part of it
  sampling_options sampling;
  /// How often it has been asked again because a rank was lost meanwhile: the blocks of one asking never meet those of another.
  std::uint32_t repeat = 0;
  /// The answer's first tokens, which are known already: they run as if they had been chosen again.
  std::vector<std::int32_t> forced_tokens{};

  bool operator==(const question&) const = default;
};

/// The buffers of one decode pass. Q = the most tokens that run at once (query pieces), R = ranks.
struct decode_workspace {
  std::int32_t* inputs = nullptr;    ///< (1 + 2 Q), see step_inputs
  matrix hidden;                     ///< (Q, hidden)
  matrix qkv;                        ///< (Q, (n_q + 2 n_kv) D)
  head_matrix attended;              ///< (Q, n_q, D)
  matrix last_normed;                ///< (1, hidden)
  std::vector<head_matrix> partial;  ///< R + 1 of (Q, n_q, D) fp32: each rank's shard, then query and answer tokens
  std::vector<matrix> partial_log_sum_exp;  ///< R + 1 of (Q, n_q) fp32
  std::byte* attention = nullptr;
};

/// What changes from step to step, in device memory: what is launched for one token is the same for the next.
struct step_inputs {
  const std::int32_t* tail_tokens = nullptr;  ///< how many tokens of query and answer went before
  const std::int32_t* ids = nullptr;          ///< (T)
  const std::int32_t* positions = nullptr;    ///< (T)
};

/// Query stage and decoding on one rank (APB section 3.5): every rank runs the same hidden states and attends to its own shard,
/// the last one also to query and answer; the partial results go to every rank and are merged in rank order. The last rank
/// samples. On a GPU what lies between two exchanges is captured at the first token that is decoded and launched as one for each
/// later one; without other ranks that is a whole token, whose phases are not told apart. Borrows everything that it is given.
class decode_pass final : public pass {
 public:
  /// Hears the results, on the compute thread.
  struct listener {
    std::function<void(int index, std::int32_t token)> on_token;  ///< on every rank; not for forced ones
    std::function<void(std::span<const float>)>
        on_first_logits;  ///< on the last; (vocabulary); empty: nobody wants them
  };

  decode_pass(device_context& device, const job_plan& plan, int rank, job_id job, const kv_shard& shard,
              const question& asked, transport& network, pass_progress& progress, listener hears,
              trace_recorder* trace = nullptr);

  /// Seconds from the first step until the query had run and the first token was there.
  [[nodiscard]] double first_token_s() const { return first_token_s_; }
  [[nodiscard]] int answer_tokens() const { return answer_tokens_; }

  [[nodiscard]] static std::size_t bytes_needed(const buffer_sizes& kernels, const model_config& config, int ranks,
                                                std::int64_t block_tokens, std::int64_t query_tokens,
                                                int max_new_tokens);
  /// The most tokens of a query that run at once.
  static constexpr std::int64_t piece_tokens = 64;

 private:
  task run();
  /// Runs `ids` through all layers after the tokens that went before; leaves their hidden states in the workspace.
  task advance(std::span<const std::int32_t> ids, block_phase phase, std::uint32_t step);
  void upload_inputs(std::span<const std::int32_t> ids);
  [[nodiscard]] step_inputs inputs(std::int64_t count) const;
  /// Stretches [first, last) of a step of `count` tokens. Stretch i begins where the exchange of layer i - 1 is done, and ends where that
  /// of layer i begins: the first one embeds, the one behind all layers ends with the last one's hidden states.
  void launch_stretches(int first, int last, std::int64_t count);
  void project_and_attend(int layer, std::int64_t count);
  void merge_and_feed_forward(int layer, std::int64_t count);
  transfer exchange_partials(int layer, std::int64_t count, block_phase phase, std::uint32_t step);
  [[nodiscard]] head_matrix partial(int part, std::int64_t count) const;
  [[nodiscard]] matrix partial_sums(int part, std::int64_t count) const;
  /// What its blocks name it by.
  [[nodiscard]] std::uint32_t question_of_blocks() const { return asked_.repeat << 24 | asked_.number; }
  /// The last rank samples and tells the others, unless the token is forced; all return with `token_` set.
  task choose_token(int index, std::int64_t last_row);
  void sample(int index, std::int64_t last_row);
  transfer exchange(std::span<const outgoing_block> sends, std::span<const incoming_block> receives);

  [[nodiscard]] bool is_last() const { return rank_ + 1 == plan_.ranks(); }

  device_context& device_;
  backend& kernels_;
  stream& queue_;
  const model_config& model_;
  const job_plan& plan_;
  const int rank_;
  const job_id job_;
  const kv_shard& shard_;
  const question asked_;
  transport& network_;
  listener hears_;
  kv_shard tail_;  ///< KV of query and answer tokens; every rank stores it, the last one attends to it
  extent memory_;
  decode_workspace work_;
  std::int64_t tail_tokens_ = 0;
  std::vector<std::int32_t> inputs_on_host_;
  std::vector<std::unique_ptr<launch_graph>> captured_;  ///< of a decoded token, by first stretch
  std::int32_t token_ = 0;
  int answer_tokens_ = 0;
  double first_token_s_ = 0;
};

/// In [0, 1), from (seed, question, token index) alone, so that a replayed answer draws the same.
float sampling_uniform(std::uint64_t seed, std::uint32_t question, std::uint32_t token_index);

}  // namespace baton
