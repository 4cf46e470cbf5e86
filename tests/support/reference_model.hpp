#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "tests/support/reference_weights.hpp"

namespace baton::reference {

/// Which attention the document is computed with: `full` is plain causal attention, `star` is Star Attention (arXiv
/// 2411.17116), `apb` is APB (arXiv 2502.12085).
enum class strategy { full, star, apb };

/// How APB chooses the KV units that travel to later ranks.
enum class compressor { retaining_heads, query_key, recent, random };

/// [layer][rank][kv_head] = ascending document indices.
using selection = std::vector<std::vector<std::vector<std::vector<int>>>>;

/// [layer][rank][kv_head][i] = the score of the i-th token of the rank's block, after pooling where the compressor
/// pools.
using score_table = std::vector<std::vector<std::vector<std::vector<float>>>>;

struct options {
  strategy how = strategy::full;
  std::vector<int> block_tokens = {};  ///< b_h of each rank, sum n; `full` ignores it
  int anchor_tokens = 0;               ///< l_a (apb)
  int passing_tokens = 0;              ///< l_p (apb)
  int system_tokens = 0;               ///< s, the document's opening that stays in front of the query in the anchor
  compressor chooser = compressor::retaining_heads;
  std::uint64_t seed = 0;       ///< of compressor::random
  bool query_in_anchor = true;  ///< false: the anchor is document[0..l_a)
  /// Rounds weights and activations where an engine that computes in bf16 stores them; sums and softmax stay exact.
  bool round_to_bf16 = false;
  /// Passes these units whatever the scores say.
  std::optional<selection> forced_selection = {};
};

struct result {
  std::vector<float> first_logits;  ///< (vocabulary), at the query's last token
  std::vector<int> greedy_ids;      ///< `new_tokens` of them; of equal logits the lower id; no token stops it
  selection chosen;                 ///< the last rank chooses nothing, nor does any rank under `full` and `star`
  score_table scores;               ///< of the ranks that choose; empty for the others
  std::vector<std::vector<float>> document_k;  ///< per layer (n, kv_heads, head_dim), after RoPE
  std::vector<std::vector<float>> document_v;  ///< per layer (n, kv_heads, head_dim)
};

/// b_h of an even split: the first `tokens` mod `ranks` ranks have one token more.
std::vector<int> even_split(int tokens, int ranks);

/// The tokens of APB's anchor block: document[0..s) ++ query ++ document[s..l_a-m), or without the query
/// document[0..l_a). Throws std::invalid_argument if the query does not fit the anchor or the document does not fill
/// it.
std::vector<std::int32_t> anchor_ids(std::span<const std::int32_t> document, std::span<const std::int32_t> query,
                                     const options& o);

/// Computes what a cluster computes as one sequence on one thread. All ranks' tokens stand one after another in a
/// *virtual sequence*: for each rank its copy of the anchor block and its local block, then the query, then each
/// generated token. A boolean mask per layer and KV head says who attends to whom; passing a block is setting its mask
/// entries. Hidden states and sums are doubles, RoPE's angles fp32. Throws std::invalid_argument for options that make
/// no sense together; on a single rank nothing is asked of the anchor, which nobody computes.
result run(const weights& w, std::span<const std::int32_t> document, std::span<const std::int32_t> query,
           const options& o, int new_tokens);

}  // namespace baton::reference
