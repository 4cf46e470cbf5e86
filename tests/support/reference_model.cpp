#include "tests/support/reference_model.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "tests/support/reference_arithmetic.hpp"
#include "tests/support/reference_selection.hpp"

namespace baton::reference {
namespace {

using ids = std::span<const std::int32_t>;
using rows = std::vector<row>;

std::size_t at(int index) { return static_cast<std::size_t>(index); }

int ranks_of(const options& o) { return static_cast<int>(o.block_tokens.size()); }

bool anchor_holds_query(const options& o) { return o.query_in_anchor && o.anchor_tokens > 0; }

/// Whether ranks send anything: a single rank has nobody to send to.
bool passes(const options& o) { return o.how == strategy::apb && ranks_of(o) > 1 && o.passing_tokens > 0; }

void require(bool condition, const char* otherwise) {
  if (!condition) throw std::invalid_argument(otherwise);
}

void check(const weights& w, ids document, ids query, const options& o) {
  require(!document.empty(), "the document is empty");
  require(!query.empty(), "the query is empty");
  for (ids text : {document, query}) {
    for (std::int32_t id : text) require(id >= 0 && id < w.s.vocabulary, "a token id is not in the vocabulary");
  }
  for (int tokens : o.block_tokens) require(tokens > 0, "every block needs a token");
  require(std::accumulate(o.block_tokens.begin(), o.block_tokens.end(), 0) == static_cast<int>(document.size()),
          "the blocks do not add up to the document");
  require(o.anchor_tokens >= 0 && o.passing_tokens >= 0 && o.system_tokens >= 0, "lengths are not negative");
  if (passes(o) && o.chooser == compressor::retaining_heads) {
    require(w.compressor.size() == w.layers.size(), "the model has no retaining heads");
  }
  if (passes(o) && o.chooser == compressor::query_key) {
    require(anchor_holds_query(o), "query_key needs the query in the anchor block");
  }
  if (o.forced_selection) {
    require(o.forced_selection->size() == at(w.s.layers), "the forced selection has another number of layers");
    for (const auto& of_ranks : *o.forced_selection) {
      require(of_ranks.size() == at(ranks_of(o)), "the forced selection has another number of ranks");
      int begin = 0;
      for (int h = 0; h < ranks_of(o); ++h) {
        const int end = begin + o.block_tokens[at(h)];
        require(of_ranks[at(h)].size() == at(w.s.kv_heads), "the forced selection has another number of KV heads");
        for (const auto& units : of_ranks[at(h)]) {
          require(std::is_sorted(units.begin(), units.end()), "the forced selection is not in ascending order");
          for (int i : units) require(i >= begin && i < end, "a forced unit lies outside its rank's block");
        }
        begin = end;
      }
    }
  }
}

enum class part {
  anchor,  ///< a rank's copy of the anchor block
  local,   ///< a rank's share of the document
  tail,    ///< the query and what is generated after it
};

struct virtual_token {
  std::int32_t id;
  int position;  ///< RoPE's position; of a local token also its index in the document
  part where;
  int rank;
};

/// The tokens of `rank`'s copy of the anchor block.
std::vector<std::int32_t> anchor_of(int rank, ids document, ids query, const options& o) {
  if (ranks_of(o) == 1) return {};
  if (o.how == strategy::star) {
    const ids first_block = document.first(at(o.block_tokens[0]));
    return rank == 0 ? std::vector<std::int32_t>() : std::vector<std::int32_t>(first_block.begin(), first_block.end());
  }
  // Rank 0's local block never sees an anchor; query_key computes one aside, for its queries alone.
  const bool needed = rank > 0 || (passes(o) && o.chooser == compressor::query_key);
  return needed ? anchor_ids(document, query, o) : std::vector<std::int32_t>();
}

std::vector<virtual_token> lay_out(ids document, ids query, const options& o) {
  std::vector<virtual_token> tokens;
  int index = 0;
  for (int rank = 0; rank < ranks_of(o); ++rank) {
    int position = 0;
    for (std::int32_t id : anchor_of(rank, document, query, o)) tokens.push_back({id, position++, part::anchor, rank});
    for (int end = index + o.block_tokens[at(rank)]; index < end; ++index) {
      tokens.push_back({document[at(index)], index, part::local, rank});
    }
  }
  for (std::int32_t id : query) tokens.push_back({id, index++, part::tail, ranks_of(o) - 1});
  return tokens;
}

/// The mask. `passed` says which document tokens were chosen by their ranks, in this layer and for this KV head.
bool sees(const virtual_token& query, const virtual_token& key, const std::vector<bool>& passed) {
  const bool same_rank = key.rank == query.rank;
  const bool not_later = key.position <= query.position;
  switch (query.where) {
    case part::anchor: return key.where == part::anchor && same_rank && not_later;
    case part::local:
      if (key.where == part::anchor) return same_rank && query.rank > 0;
      if (key.where == part::tail) return false;
      return same_rank ? not_later : key.rank < query.rank && passed[at(key.position)];
    case part::tail:
      if (key.where == part::tail) return not_later;
      return key.where == part::local;
  }
  return false;
}

/// The virtual sequence and everything that was computed of it.
class virtual_sequence {
 public:
  virtual_sequence(const weights& w, const options& o, int document_tokens, int query_tokens)
      : w_(w),
        o_(o),
        document_tokens_(document_tokens),
        query_tokens_(query_tokens),
        rotary_(w.s),
        keys_(at(w.s.layers)),
        values_(at(w.s.layers)) {
    const std::vector<std::vector<int>> no_units(at(w.s.kv_heads));
    const std::vector<std::vector<float>> no_scores(at(w.s.kv_heads));
    chosen_.assign(at(w.s.layers), std::vector(at(ranks_of(o)), no_units));
    scores_.assign(at(w.s.layers), std::vector(at(ranks_of(o)), no_scores));
    if (o.forced_selection) chosen_ = *o.forced_selection;
  }

  /// Appends tokens, takes them through all layers and returns the last one's logits. The first call holds the whole
  /// document.
  std::vector<float> append(const std::vector<virtual_token>& tokens) {
    const std::size_t first = tokens_.size();
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    rows hidden;
    for (const virtual_token& token : tokens) {
      const auto begin = w_.embedding.begin() + static_cast<std::ptrdiff_t>(token.id) * w_.s.hidden;
      hidden.push_back(stored(row(begin, begin + w_.s.hidden)));
    }
    for (int layer = 0; layer < w_.s.layers; ++layer) take_through(layer, first, hidden);

    const row last = stored(rms_normed(hidden.back(), w_.norm, w_.s.rms_eps));
    const row logits = multiply(w_.lm_head, last);
    return {logits.begin(), logits.end()};
  }

  [[nodiscard]] const selection& chosen() const { return chosen_; }
  [[nodiscard]] const score_table& scores() const { return scores_; }
  [[nodiscard]] std::vector<std::vector<float>> document_k() const { return document_rows(keys_); }
  [[nodiscard]] std::vector<std::vector<float>> document_v() const { return document_rows(values_); }

 private:
  /// A value as the engine keeps it in memory.
  [[nodiscard]] double stored(double value) const {
    return o_.round_to_bf16 ? static_cast<double>(to_bf16(static_cast<float>(value))) : value;
  }

  [[nodiscard]] row stored(row values) const {
    for (double& value : values) value = stored(value);
    return values;
  }

  void add(row& hidden, const row& change) const {
    for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] = stored(hidden[i] + change[i]);
  }

  void take_through(int layer, std::size_t first, rows& hidden) {
    const layer_weights& l = w_.layers[at(layer)];
    rows features;  // [q; k; v] before RoPE
    rows queries;
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      const int position = tokens_[first + i].position;
      const row x = stored(rms_normed(hidden[i], l.attention_norm, w_.s.rms_eps));
      const row q = stored(multiply(l.q, x));
      const row k = stored(multiply(l.k, x));
      const row v = stored(multiply(l.v, x));
      features.push_back(q);
      features.back().insert(features.back().end(), k.begin(), k.end());
      features.back().insert(features.back().end(), v.begin(), v.end());
      queries.push_back(stored(rotary_.turned(q, position)));
      keys_[at(layer)].push_back(stored(rotary_.turned(k, position)));
      values_[at(layer)].push_back(v);
    }
    if (first == 0 && passes(o_)) choose(layer, features, queries);

    const rows attended = attend(layer, first, queries);
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      add(hidden[i], multiply(l.o, attended[i]));
      const row x = stored(rms_normed(hidden[i], l.ffn_norm, w_.s.rms_eps));
      const row gate = stored(multiply(l.gate, x));
      row up = stored(multiply(l.up, x));
      for (std::size_t j = 0; j < up.size(); ++j) up[j] = stored(silu(gate[j]) * up[j]);
      add(hidden[i], multiply(l.down, up));
    }
  }

  // ---- attention

  [[nodiscard]] rows attend(int layer, std::size_t first, const rows& queries) const {
    const std::size_t d = at(w_.s.head_dim);
    rows out(queries.size(), row(at(w_.s.heads) * d));
    for (int kv_head = 0; kv_head < w_.s.kv_heads; ++kv_head) {
      const std::vector<std::vector<bool>> mask = mask_of(layer, kv_head, first);
      const std::size_t kv_offset = at(kv_head) * d;
      for (std::size_t i = 0; i < queries.size(); ++i) {
        for (int head : heads_of(kv_head)) {
          const std::span<const double> q(&queries[i][at(head) * d], d);
          const row weights = softmax(q, keys_[at(layer)], kv_offset, mask[i]);
          const std::span<double> o(&out[i][at(head) * d], d);
          for (std::size_t j = 0; j < weights.size(); ++j) {
            if (!mask[i][j]) continue;
            for (std::size_t c = 0; c < d; ++c) o[c] += weights[j] * values_[at(layer)][j][kv_offset + c];
          }
        }
      }
    }
    for (row& token : out) token = stored(std::move(token));
    return out;
  }

  /// Who of the tokens from `first` on sees whom, (new tokens, all tokens).
  [[nodiscard]] std::vector<std::vector<bool>> mask_of(int layer, int kv_head, std::size_t first) const {
    std::vector<bool> passed(at(document_tokens_));
    for (const auto& of_rank : chosen_[at(layer)]) {
      for (int i : of_rank[at(kv_head)]) passed[at(i)] = true;
    }
    std::vector<std::vector<bool>> mask;
    for (std::size_t i = first; i < tokens_.size(); ++i) {
      mask.emplace_back();
      for (const virtual_token& key : tokens_) mask.back().push_back(sees(tokens_[i], key, passed));
    }
    return mask;
  }

  /// Attention weights over all tokens; those outside the mask are zero.
  [[nodiscard]] row softmax(std::span<const double> q, const rows& keys, std::size_t kv_offset,
                            const std::vector<bool>& mask) const {
    row weights(keys.size(), -std::numeric_limits<double>::infinity());
    for (std::size_t j = 0; j < keys.size(); ++j) {
      if (mask[j]) weights[j] = dot(q, {&keys[j][kv_offset], q.size()}) / std::sqrt(static_cast<double>(q.size()));
    }
    const double largest = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - largest);
    for (double& weight : weights) weight /= sum;
    return weights;
  }

  /// The query heads that share a KV head.
  [[nodiscard]] std::vector<int> heads_of(int kv_head) const {
    std::vector<int> heads(at(w_.s.heads / w_.s.kv_heads));
    std::iota(heads.begin(), heads.end(), kv_head * static_cast<int>(heads.size()));
    return heads;
  }

  // ---- the compressor

  void choose(int layer, const rows& features, const rows& queries) {
    for (int rank = 0; rank + 1 < ranks_of(o_); ++rank) {
      const std::vector<std::size_t> block = members(part::local, rank);
      auto& of_rank = scores_[at(layer)][at(rank)];
      for (std::size_t token : block) {
        const row token_scores = scores_of(layer, token, features, queries);
        for (std::size_t g = 0; g < of_rank.size(); ++g) of_rank[g].push_back(static_cast<float>(token_scores[g]));
      }
      for (std::size_t g = 0; g < of_rank.size(); ++g) {
        const bool pools = o_.chooser == compressor::retaining_heads || o_.chooser == compressor::query_key;
        if (pools) of_rank[g] = max_pooled(of_rank[g]);
        if (o_.forced_selection) continue;
        // The first l_a document tokens are what everybody's anchor shows already.
        const int first_eligible = rank == 0 ? o_.anchor_tokens : 0;
        for (int i : best_tokens(of_rank[g], first_eligible, o_.passing_tokens)) {
          chosen_[at(layer)][at(rank)][g].push_back(tokens_[block[at(i)]].position);
        }
      }
    }
  }

  /// How much a local token is worth passing on, before pooling: one score per KV head.
  [[nodiscard]] row scores_of(int layer, std::size_t token, const rows& features, const rows& queries) const {
    switch (o_.chooser) {
      case compressor::retaining_heads: {
        const retaining_heads& scorer = w_.compressor[at(layer)];
        row x = multiply(scorer.fc1, features[token]);
        for (double& value : x) value = stored(silu(value));
        return multiply(scorer.fc2, x);
      }
      case compressor::query_key: {
        row scores;
        for (int g = 0; g < w_.s.kv_heads; ++g) scores.push_back(mean_query_key(layer, token, g, queries));
        return scores;
      }
      case compressor::recent: return row(at(w_.s.kv_heads), tokens_[token].position);
      case compressor::random: {
        row scores;
        for (int g = 0; g < w_.s.kv_heads; ++g) {
          scores.push_back(static_cast<double>(random_score(o_.seed, layer, g, tokens_[token].position)));
        }
        return scores;
      }
    }
    return {};
  }

  /// The mean of q·k over the query's tokens in the rank's anchor and the KV head's group of query heads.
  [[nodiscard]] double mean_query_key(int layer, std::size_t token, int kv_head, const rows& queries) const {
    const std::size_t d = at(w_.s.head_dim);
    const std::span<const double> k(&keys_[at(layer)][token][at(kv_head) * d], d);
    const std::vector<std::size_t> anchor = members(part::anchor, tokens_[token].rank);
    const std::vector<int> heads = heads_of(kv_head);
    double sum = 0;
    for (int i = 0; i < query_tokens_; ++i) {
      const row& q = queries[anchor[at(o_.system_tokens + i)]];
      for (int head : heads) sum += dot({&q[at(head) * d], d}, k);
    }
    return sum / (query_tokens_ * static_cast<double>(heads.size()));
  }

  // ---- where things are

  [[nodiscard]] std::vector<std::size_t> members(part where, int rank) const {
    std::vector<std::size_t> indices;
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i].where == where && tokens_[i].rank == rank) indices.push_back(i);
    }
    return indices;
  }

  [[nodiscard]] std::vector<std::vector<float>> document_rows(const std::vector<rows>& of_layers) const {
    std::vector<std::vector<float>> result;
    for (const rows& layer : of_layers) {
      result.emplace_back();
      for (std::size_t i = 0; i < tokens_.size(); ++i) {
        if (tokens_[i].where != part::local) continue;
        for (double value : layer[i]) result.back().push_back(static_cast<float>(value));
      }
    }
    return result;
  }

  const weights& w_;
  const options& o_;
  const int document_tokens_;
  const int query_tokens_;
  const rotary_embedding rotary_;
  std::vector<virtual_token> tokens_;
  std::vector<rows> keys_;    ///< per layer and virtual token (kv_heads, head_dim), after RoPE
  std::vector<rows> values_;  ///< per layer and virtual token (kv_heads, head_dim)
  selection chosen_;
  score_table scores_;
};

}  // namespace

std::vector<int> even_split(int tokens, int ranks) {
  std::vector<int> blocks;
  for (int rank = 0; rank < ranks; ++rank) blocks.push_back(tokens / ranks + (rank < tokens % ranks ? 1 : 0));
  return blocks;
}

std::vector<std::int32_t> anchor_ids(ids document, ids query, const options& o) {
  const std::size_t length = at(o.anchor_tokens);
  if (length == 0) return {};
  if (!o.query_in_anchor) {
    require(length <= document.size(), "the document does not fill the anchor block");
    return {document.begin(), document.begin() + o.anchor_tokens};
  }
  const std::size_t opening = at(o.system_tokens);
  require(length > opening + query.size(), "the query does not fit the anchor block");
  require(length - query.size() <= document.size(), "the document does not fill the anchor block");
  std::vector<std::int32_t> anchor;
  for (std::int32_t id : document.first(opening)) anchor.push_back(id);
  for (std::int32_t id : query) anchor.push_back(id);
  for (std::int32_t id : document.first(length - query.size()).subspan(opening)) anchor.push_back(id);
  return anchor;
}

result run(const weights& w, ids document, ids query, const options& wanted, int new_tokens) {
  const int n = static_cast<int>(document.size());
  const int m = static_cast<int>(query.size());
  options o = wanted;
  if (o.how == strategy::full) o.block_tokens = {n};  // one rank sees everything before a token
  check(w, document, query, o);

  const weights stored = o.round_to_bf16 ? rounded_to_bf16(w) : w;
  virtual_sequence sequence(stored, o, n, m);
  std::vector<float> logits = sequence.append(lay_out(document, query, o));

  result r;
  r.first_logits = logits;
  for (int i = 0; i < new_tokens; ++i) {
    if (i > 0) logits = sequence.append({{r.greedy_ids.back(), n + m + i - 1, part::tail, ranks_of(o) - 1}});
    r.greedy_ids.push_back(static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  r.chosen = sequence.chosen();
  r.scores = sequence.scores();
  r.document_k = sequence.document_k();
  r.document_v = sequence.document_v();
  return r;
}

}  // namespace baton::reference
