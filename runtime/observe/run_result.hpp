#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "runtime/cluster/messages.hpp"
#include "runtime/plan/job_plan.hpp"

namespace baton {

/// What one rank did for a job.
struct rank_row {
  int rank = 0;
  std::string node;
  std::string device;
  std::int64_t block_tokens = 0;
  std::int64_t anchor_tokens = 0;
  std::int64_t passing_tokens = 0;  ///< units per KV head that it received (P_h)
  double compute_s = 0;             ///< of the prefill
  double wait_s = 0;                ///< of the prefill
  double exposed_wait_s = 0;        ///< of wait_s, while the device had nothing else to compute
  std::int64_t bytes_sent = 0;      ///< prefill and answer
  std::int64_t bytes_received = 0;  ///< prefill and answer
  /// For each layer: chunks projected, attended to and fed forward by the worker that has finished the rank, in all its attempts.
  std::vector<std::int64_t> computed{};
};

/// A finished job.
struct run_result {
  /// As decoded: valid UTF-8, neither stripped nor made safe for a terminal; empty where there is no tokenizer.
  std::string answer;
  std::vector<std::int32_t> answer_ids;
  job_plan plan;
  double prefill_s = 0;
  double first_token_s = 0;            ///< from the question's start to the first token
  double decode_tokens_per_s = 0;      ///< of the tokens after the first; 0 where there are none
  std::vector<rank_row> ranks;         ///< ascending
  std::vector<replay_result> replays;  ///< in the order in which they ended
};

/// Bytes of `answer` that are not UTF-8 become U+FFFD. A rank that `finished` does not name has zeros.
run_result make_run_result(const job_plan& plan, const job_finished& finished, std::string answer);

/// One line per rank and their sum, then prefill, first token and decode, in at most 80 columns; in fewer than 80, some are left out. Where the answer has
/// no text, its ids.
std::string table(const run_result& result, int columns_max = 80);

/// {answer, answer_ids, strategy, plan, document_tokens, query_tokens, prefill_s, first_token_s, decode_tokens_per_s,
/// ranks: [{rank, node, device, block_tokens, anchor_tokens, passing_tokens, compute_s, wait_s, exposed_wait_s,
/// bytes_sent, bytes_received, computed: [per layer]}], replays: [{rank, cause, layers, seconds, detect_ms, replayed_on_other_class}]} with the
/// meanings given above and at replay_result.
nlohmann::json to_json(const run_result& result);

/// Both answers, whether they are the same, and how their prefills compare: `a` is the run asked for, `b` what it is
/// compared with.
std::string comparison_text(const run_result& a, const run_result& b);

}  // namespace baton
