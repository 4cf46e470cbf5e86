#include "runtime/wire/plan_codec.hpp"

#include <cfloat>
#include <utility>

namespace baton::wire {
namespace {

static_assert(COMPRESSOR_KIND_RANDOM == static_cast<int>(compressor_kind::random) + 1);
static_assert(TokenRun::SOURCE_QUERY == static_cast<int>(token_run::source_kind::query) + 1);

compressor_kind read(CompressorKind in, const place& at) { return one_of(in, compressor_kind::random, at); }

void write(const token_run& from, TokenRun& to) {
  to.set_source(number_of<TokenRun::Source>(from.source));
  to.set_first(from.first);
  to.set_count(from.count);
  to.set_position(from.position);
}

/// A run of the document or the query of `plan`; its positions are below those of new tokens.
token_run read(const TokenRun& in, const job_plan& plan, const place& at) {
  token_run run;
  run.source = one_of(in.source(), token_run::source_kind::query, at / "source");
  const auto source_tokens = run.source == token_run::source_kind::document ? plan.document_tokens : plan.query_tokens;
  run.first = within(in.first(), 0, source_tokens, at / "first");
  run.count = within(in.count(), 1, source_tokens - run.first, at / "count");
  run.position = within(in.position(), 0, plan.document_tokens + plan.query_tokens - run.count, at / "position");
  return run;
}

void write(const shard_plan& from, ShardPlan& to) {
  to.set_rank(from.rank);
  for (const auto& run : from.anchor) write(run, *to.add_anchor());
  for (const auto& run : from.block) write(run, *to.add_block());
  to.set_anchor_tokens(from.anchor_tokens);
  to.set_block_tokens(from.block_tokens);
  to.set_anchor_aside(from.anchor_aside);
  to.set_anchor_query_first(from.anchor_query_first);
  to.set_anchor_query_tokens(from.anchor_query_tokens);
  to.set_eligible_from(from.eligible_from);
  to.set_compressed_units(from.compressed_units);
  to.set_passing_units(from.passing_units);
  to.set_node(from.node);
  to.set_device(from.device);
}

/// `value`, which must be what the parts that it sums up come to.
std::int64_t sum(std::int64_t value, std::int64_t of_parts, std::string_view parts, const place& at) {
  if (value != of_parts) refuse(at, fmt::format("{}, but {} come to {}", value, parts, of_parts));
  return value;
}

/// The next shard of `plan`, given the units that those before it pass on.
shard_plan read(const ShardPlan& in, const job_plan& plan, std::int64_t passed_units, const place& at) {
  shard_plan shard;
  shard.rank = static_cast<int>(plan.shards.size());
  if (in.rank() != shard.rank) {
    refuse(at / "rank", fmt::format("{}, but it is the shard of rank {}", in.rank(), shard.rank));
  }

  std::int64_t anchor_tokens = 0;
  for (int i = 0; i < in.anchor_size(); ++i) {
    shard.anchor.push_back(read(in.anchor(i), plan, at.item("anchor", i)));
    anchor_tokens += shard.anchor.back().count;
  }
  std::int64_t block_tokens = 0;
  for (int i = 0; i < in.block_size(); ++i) {
    const place run = at.item("block", i);
    shard.block.push_back(read(in.block(i), plan, run));
    if (shard.block.back().source != token_run::source_kind::document) {
      refuse(run / "source", "a block is of the document");
    }
    block_tokens += shard.block.back().count;
  }
  shard.anchor_tokens =
      tokens(sum(in.anchor_tokens(), anchor_tokens, "the anchor's runs", at / "anchor_tokens"), at / "anchor_tokens");
  shard.block_tokens = within(sum(in.block_tokens(), block_tokens, "the block's runs", at / "block_tokens"), 1,
                              plan.document_tokens, at / "block_tokens");

  shard.anchor_aside = in.anchor_aside();
  shard.anchor_query_tokens = within(in.anchor_query_tokens(), 0, shard.anchor_tokens, at / "anchor_query_tokens");
  // Where no query stands in the anchor the opening may be longer than the anchor.
  const auto query_first_max =
      shard.anchor_query_tokens > 0 ? shard.anchor_tokens - shard.anchor_query_tokens : plan.document_tokens;
  shard.anchor_query_first = within(in.anchor_query_first(), 0, query_first_max, at / "anchor_query_first");
  shard.eligible_from = within(in.eligible_from(), 0, shard.block_tokens, at / "eligible_from");
  shard.compressed_units =
      within(in.compressed_units(), 0, shard.block_tokens - shard.eligible_from, at / "compressed_units");
  shard.passing_units = sum(in.passing_units(), passed_units, "the units of earlier ranks", at / "passing_units");
  shard.node = text(in.node(), at / "node");
  shard.device = text(in.device(), at / "device");
  return shard;
}

}  // namespace

void write(const sampling_options& from, SamplingOptions& to) {
  to.set_temperature(from.temperature);
  to.set_top_p(from.top_p);
  to.set_seed(from.seed);
}

sampling_options read(const SamplingOptions& in, const place& at) {
  if (!(in.temperature() >= 0 && in.temperature() <= FLT_MAX)) {
    refuse(at / "temperature", "not a finite number of at least 0");
  }
  if (!(in.top_p() > 0 && in.top_p() <= 1)) refuse(at / "top_p", "not between 0 (excluded) and 1");
  return {.temperature = in.temperature(), .top_p = in.top_p(), .seed = in.seed()};
}

void write(const job_options& from, JobOptions& to) {
  to.set_strategy(from.strategy);
  to.set_ranks(from.ranks);
  if (from.anchor_tokens) to.set_anchor_tokens(*from.anchor_tokens);
  if (from.passing_tokens) to.set_passing_tokens(*from.passing_tokens);
  append(from.block_tokens, *to.mutable_block_tokens());
  if (from.compressor) to.set_compressor(number_of<CompressorKind>(*from.compressor));
  to.set_compressor_seed(from.compressor_seed);
  to.set_chunk_tokens(from.chunk_tokens);
  to.set_max_new_tokens(from.max_new_tokens);
  write(from.sampling, *to.mutable_sampling());
}

job_options read(const JobOptions& in, const place& at) {
  job_options options;
  options.strategy = text(in.strategy(), at / "strategy");
  options.ranks = within(in.ranks(), 0, ranks_max, at / "ranks");
  if (in.has_anchor_tokens()) options.anchor_tokens = tokens(in.anchor_tokens(), at / "anchor_tokens");
  if (in.has_passing_tokens()) options.passing_tokens = tokens(in.passing_tokens(), at / "passing_tokens");
  within(in.block_tokens_size(), 0, ranks_max, at / "block_tokens");
  for (int i = 0; i < in.block_tokens_size(); ++i) {
    options.block_tokens.push_back(tokens(in.block_tokens(i), at.item("block_tokens", i)));
  }
  if (in.has_compressor()) options.compressor = read(in.compressor(), at / "compressor");
  options.compressor_seed = in.compressor_seed();
  options.chunk_tokens = tokens(in.chunk_tokens(), at / "chunk_tokens");
  options.max_new_tokens = within(in.max_new_tokens(), 0, INT32_MAX, at / "max_new_tokens");
  options.sampling = read(in.sampling(), at / "sampling");
  return options;
}

void write(const job_plan& from, JobPlan& to) {
  to.set_strategy(from.strategy);
  to.set_compressor(number_of<CompressorKind>(from.compressor));
  to.set_compressor_reason(from.compressor_reason);
  to.set_compressor_seed(from.compressor_seed);
  to.set_document_tokens(from.document_tokens);
  to.set_query_tokens(from.query_tokens);
  to.set_system_tokens(from.system_tokens);
  to.set_anchor_tokens(from.anchor_tokens);
  to.set_passing_tokens(from.passing_tokens);
  to.set_chunk_tokens(from.chunk_tokens);
  to.set_max_new_tokens(from.max_new_tokens);
  write(from.sampling, *to.mutable_sampling());
  to.set_kernel_class(from.kernel_class);
  for (const auto& shard : from.shards) write(shard, *to.add_shards());
}

job_plan read(const JobPlan& in, const place& at) {
  job_plan plan;
  plan.strategy = text(in.strategy(), at / "strategy");
  plan.compressor = read(in.compressor(), at / "compressor");
  plan.compressor_reason = text(in.compressor_reason(), at / "compressor_reason");
  plan.compressor_seed = in.compressor_seed();
  plan.document_tokens = within(in.document_tokens(), 1, tokens_max, at / "document_tokens");
  plan.query_tokens = within(in.query_tokens(), 0, tokens_max - plan.document_tokens, at / "query_tokens");
  plan.system_tokens = within(in.system_tokens(), 0, plan.document_tokens, at / "system_tokens");
  plan.anchor_tokens = within(in.anchor_tokens(), 0, plan.document_tokens + plan.query_tokens, at / "anchor_tokens");
  plan.passing_tokens = tokens(in.passing_tokens(), at / "passing_tokens");
  plan.chunk_tokens = within(in.chunk_tokens(), 1, tokens_max, at / "chunk_tokens");
  plan.max_new_tokens = within(in.max_new_tokens(), 1, INT32_MAX, at / "max_new_tokens");
  plan.sampling = read(in.sampling(), at / "sampling");
  plan.kernel_class = text(in.kernel_class(), at / "kernel_class");

  within(in.shards_size(), 1, ranks_max, at / "shards");
  std::int64_t passed_units = 0;
  std::int64_t block_tokens = 0;
  for (int i = 0; i < in.shards_size(); ++i) {
    plan.shards.push_back(read(in.shards(i), plan, passed_units, at.item("shards", i)));
    passed_units += plan.shards.back().compressed_units;
    block_tokens += plan.shards.back().block_tokens;
  }
  sum(plan.document_tokens, block_tokens, "the blocks", at / "document_tokens");
  return plan;
}

}  // namespace baton::wire
