#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

/// Who chooses the KV units that travel (APB section 3.3; Locret).
enum class compressor_kind : std::uint8_t { none, retaining_heads, query_key, recent, random };

std::string_view name_of(compressor_kind kind);
/// "auto" is not a kind: it is an empty optional in job_options. Unknown names: fault(bad_input) that lists the known ones.
compressor_kind compressor_from(std::string_view name);

struct sampling_options {
  float temperature = 0;  ///< 0 is greedy
  float top_p = 1;
  std::uint64_t seed = 0;

  bool operator==(const sampling_options&) const = default;
};

/// What somebody may ask of a job; what is left open is chosen by make_job_plan.
struct job_options {
  std::string strategy = "apb";
  int ranks = 1;
  std::optional<std::int64_t> anchor_tokens;   ///< l_a
  std::optional<std::int64_t> passing_tokens;  ///< l_p, per KV head of a rank
  std::vector<std::int64_t> block_tokens;      ///< b_h; empty: even
  std::optional<compressor_kind> compressor;   ///< empty: auto
  std::uint64_t compressor_seed = 0;           ///< of `random`
  std::int64_t chunk_tokens = 2048;            ///< token-wise work and queries go in chunks of this many
  int max_new_tokens = 64;
  sampling_options sampling;

  bool operator==(const job_options&) const = default;
};

/// Tokens of the document or the query that stand in a shard one after another, with the position of the first.
struct token_run {
  enum class source_kind : std::uint8_t { document, query };
  source_kind source = source_kind::document;
  std::int64_t first = 0;  ///< index in the source
  std::int64_t count = 0;
  std::int64_t position = 0;  ///< of the first token, for RoPE

  bool operator==(const token_run&) const = default;
};

/// One rank's share of a job: the tokens that it computes, A ++ B_h, and how much it passes on.
struct shard_plan {
  int rank = 0;
  std::vector<token_run> anchor;  ///< A; empty on rank 0 and where l_a = 0
  std::vector<token_run> block;   ///< B_h, runs of the document
  std::int64_t anchor_tokens = 0;
  std::int64_t block_tokens = 0;
  bool anchor_aside = false;            ///< A is computed for its queries' sake only; B_h does not attend to it
  std::int64_t anchor_query_first = 0;  ///< where in A the query's tokens stand
  std::int64_t anchor_query_tokens = 0;
  std::int64_t eligible_from = 0;     ///< first token of B_h that may be chosen
  std::int64_t compressed_units = 0;  ///< units per KV head of C_h; 0: passes nothing on
  std::int64_t passing_units = 0;     ///< units per KV head of P_h
  std::string node;
  std::string device;

  [[nodiscard]] std::int64_t tokens() const { return anchor_tokens + block_tokens; }
  /// The document index of token `index` of B_h.
  [[nodiscard]] std::int64_t document_index(std::int64_t index) const;

  bool operator==(const shard_plan&) const = default;
};

/// Everything that all ranks of a job must agree on. Pure data: equal plans give bit-identical results on devices of one
/// kernel class.
struct job_plan {
  std::string strategy;
  compressor_kind compressor = compressor_kind::none;
  std::string compressor_reason{};  ///< why `auto` took it; empty where it was asked for
  std::uint64_t compressor_seed = 0;
  std::int64_t document_tokens = 0;  ///< n, opening included
  std::int64_t query_tokens = 0;     ///< m
  std::int64_t system_tokens = 0;    ///< s, the opening
  std::int64_t anchor_tokens = 0;    ///< l_a
  std::int64_t passing_tokens = 0;   ///< l_p
  std::int64_t chunk_tokens = 0;
  int max_new_tokens = 0;
  sampling_options sampling;
  std::string kernel_class{};
  std::vector<shard_plan> shards{};

  [[nodiscard]] int ranks() const { return static_cast<int>(shards.size()); }

  bool operator==(const job_plan&) const = default;
};

/// A device that ranks may be placed on, in the order in which ranks are laid over them.
struct device_view {
  std::string node;
  std::string device;
  std::string kernel_class;
  std::int64_t block_multiple = 1;  ///< see buffer_sizes::block_multiple
};

struct plan_request {
  std::int64_t document_tokens = 0;
  std::int64_t query_tokens = 0;  ///< 0: ingest first, ask later
  std::int64_t system_tokens = 0;
  std::int64_t positions_max = 0;  ///< of the model
  bool has_retaining_heads = false;
  job_options options;
};

/// l_a and l_p for a document of n tokens, after the published settings (APB table 9): n/32 up to 8K, and n/64.
struct published_budget {
  std::int64_t anchor_tokens;
  std::int64_t passing_tokens;
};
published_budget budget_for(std::int64_t document_tokens);

/// Splits a job into shards and places them (APB section 3.2 for `apb`; the strategy's file says how others split). What nobody asked
/// for is rounded to the largest block_multiple of the devices where that changes it by at most an eighth: blocks, the last of which
/// takes the rest, l_a and l_p. Pure. Throws fault(bad_input) naming the option that cannot be met and what would be.
job_plan make_job_plan(const plan_request& request, std::span<const device_view> devices);

/// The token ids of a shard, A ++ B_h, and their positions.
struct shard_tokens {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> positions;
};
shard_tokens tokens_of(const shard_plan& shard, std::span<const std::int32_t> document,
                       std::span<const std::int32_t> query);

/// Bytes and messages that a job's prefill and one decoded token move between ranks.
struct traffic {
  std::int64_t messages = 0;
  std::int64_t bytes = 0;
};
struct kv_shape {
  int layers = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  std::int64_t element_bytes = 0;
};
traffic prefill_traffic(const job_plan& plan, const kv_shape& shape);
/// The most that a relay must keep of a job: every compressed block once.
std::int64_t relay_log_bytes(const job_plan& plan, const kv_shape& shape);
traffic decode_traffic(const job_plan& plan, const kv_shape& shape, std::int64_t tokens);

}  // namespace baton
