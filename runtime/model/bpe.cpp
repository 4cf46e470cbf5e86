#include "runtime/model/bpe.hpp"

#include <algorithm>

#include <xxhash.h>

#include "runtime/model/utf8.hpp"

namespace baton {
namespace {

constexpr std::int32_t merged = -1;
constexpr std::int32_t unknown = -2;      // a character that no merge has
constexpr std::int32_t unmergeable = -3;  // less this: the token's id

bool merges_with_others(std::int32_t symbol) { return symbol >= 0; }

}  // namespace

bpe::bpe(std::span<const token> tokens, bpe_rules rules)
    : rules_(std::move(rules)),
      merges_(rules_.merges),
      unmergeable_(std::exchange(rules_.unmergeable, {})),
      tokens_(static_cast<std::int32_t>(tokens.size())) {
  rules_.merges = {};
  if (!rules_.whole_words_first) return;
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].in_words) whole_words_.emplace(tokens[id].bytes, static_cast<std::int32_t>(id));
  }
}

std::size_t bpe::run::hash::operator()(std::string_view word) const { return XXH3_64bits(word.data(), word.size()); }

void bpe::run::append(std::string_view word) {
  if (const auto met = met_.find(word); met != met_.end()) {
    const auto [first, count] = met->second;
    ids_.resize(ids_.size() + count);
    std::copy_n(ids_.begin() + static_cast<std::ptrdiff_t>(first), count,
                ids_.end() - static_cast<std::ptrdiff_t>(count));
    return;
  }
  const std::size_t first = ids_.size();
  if (const auto whole = bpe_.whole_words_.find(word); whole != bpe_.whole_words_.end()) {
    ids_.push_back(whole->second);
  } else {
    symbols_.clear();
    bpe_.rules_.characters ? begin_with_characters(word) : begin_with_bytes(word);
    if (!symbols_.empty()) symbols_.back().next = -1;
    merge_symbols();
    for (const symbol& s : symbols_) append_symbol(s, word);
  }
  met_.emplace(word, place{first, ids_.size() - first});
}

void bpe::run::begin_symbol(std::int32_t id, std::size_t offset) {
  const auto here = static_cast<std::int32_t>(symbols_.size());
  symbols_.push_back({id, static_cast<std::int32_t>(offset), here - 1, here + 1});
}

void bpe::run::begin_with_bytes(std::string_view word) {
  for (std::size_t i = 0; i < word.size(); ++i) {
    begin_symbol(bpe_.rules_.byte_ids[static_cast<unsigned char>(word[i])], i);
  }
}

void bpe::run::begin_with_characters(std::string_view word) {
  for (std::size_t at = 0; at < word.size();) {
    if (const added_token* fixed = bpe_.unmergeable_.longest_at_start(word.substr(at))) {
      begin_symbol(unmergeable - fixed->id, at);
      at += fixed->content.size();
      continue;
    }
    const utf8_character character = first_character(word.substr(at));
    const auto found = bpe_.rules_.characters->find(character.value);
    begin_symbol(found == bpe_.rules_.characters->end() ? unknown : found->second, at);
    at += character.bytes;
  }
}

void bpe::run::consider(std::int32_t left) {
  if (left < 0) return;
  const symbol& l = symbols_[static_cast<std::size_t>(left)];
  if (l.next < 0) return;
  const symbol& r = symbols_[static_cast<std::size_t>(l.next)];
  if (!merges_with_others(l.id) || !merges_with_others(r.id)) return;
  if (const merge_table::ranked* found = bpe_.merges_.find(l.id, r.id)) {
    candidates_.push_back({found->rank, left});
    std::push_heap(candidates_.begin(), candidates_.end());
  }
}

void bpe::run::merge_symbols() {
  candidates_.clear();
  for (std::size_t i = 0; i < symbols_.size(); ++i) consider(static_cast<std::int32_t>(i));

  while (!candidates_.empty()) {
    std::pop_heap(candidates_.begin(), candidates_.end());
    const candidate best = candidates_.back();
    candidates_.pop_back();

    // A neighbour's merge may have taken one of the two since this candidate was noted.
    symbol& left = symbols_[static_cast<std::size_t>(best.left)];
    if (left.id == merged || left.next < 0) continue;
    symbol& right = symbols_[static_cast<std::size_t>(left.next)];
    if (!merges_with_others(right.id)) continue;
    const merge_table::ranked* found = bpe_.merges_.find(left.id, right.id);
    if (found == nullptr || found->rank != best.rank) continue;

    left.id = found->result;
    left.next = right.next;
    right.id = merged;
    if (left.next >= 0) symbols_[static_cast<std::size_t>(left.next)].previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
}

void bpe::run::append_symbol(const symbol& s, std::string_view word) {
  if (s.id == merged) return;
  if (s.id <= unmergeable) return append_id(unmergeable - s.id);
  if (s.id >= 0 && s.id < bpe_.tokens_) return append_id(s.id);
  std::string_view character = word.substr(static_cast<std::size_t>(s.offset));
  character = character.substr(0, first_character(character).bytes);
  // SentencePiece spells a space as U+2581, and so does a vocabulary that lacks it.
  if (character == " ") character = "\u2581";
  for (const char byte : character) append_id(bpe_.rules_.byte_ids[static_cast<unsigned char>(byte)]);
}

}  // namespace baton
