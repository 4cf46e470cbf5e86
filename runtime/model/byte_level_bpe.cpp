#include "runtime/model/byte_level_bpe.hpp"

#include <algorithm>

namespace baton {
namespace {

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

byte_level_bpe::byte_level_bpe(std::span<const token> tokens, std::span<const merge> merges, bool whole_words_first) {
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    const token& entry = tokens[id];
    if (!entry.in_words) continue;
    if (entry.bytes.size() == 1) byte_ids_[static_cast<unsigned char>(entry.bytes[0])] = static_cast<std::int32_t>(id);
    if (whole_words_first) whole_words_.emplace(entry.bytes, static_cast<std::int32_t>(id));
  }
  merges_.reserve(merges.size());
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const merge& m = merges[rank];
    // Of a pair that is listed twice the later entry counts, as in Hugging Face tokenizers.
    merges_[pair_key(m.left, m.right)] = {static_cast<std::int32_t>(rank), m.result};
  }
}

const byte_level_bpe::ranked* byte_level_bpe::find_merge(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void byte_level_bpe::run::append(std::string_view word) {
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
    merge_and_append(word);
  }
  met_.emplace(word, place{first, ids_.size() - first});
}

void byte_level_bpe::run::consider(std::int32_t left) {
  if (left < 0) return;
  const symbol& l = symbols_[static_cast<std::size_t>(left)];
  if (l.next < 0) return;
  if (const ranked* found = bpe_.find_merge(l.id, symbols_[static_cast<std::size_t>(l.next)].id)) {
    candidates_.push_back({found->rank, left});
    std::push_heap(candidates_.begin(), candidates_.end());
  }
}

void byte_level_bpe::run::merge_and_append(std::string_view word) {
  const auto length = static_cast<std::int32_t>(word.size());
  symbols_.clear();
  for (std::int32_t i = 0; i < length; ++i) {
    const auto byte = static_cast<unsigned char>(word[static_cast<std::size_t>(i)]);
    symbols_.push_back({bpe_.byte_ids_[byte], i - 1, i + 1 < length ? i + 1 : -1});
  }
  candidates_.clear();
  for (std::int32_t i = 0; i < length; ++i) consider(i);

  while (!candidates_.empty()) {
    std::pop_heap(candidates_.begin(), candidates_.end());
    const candidate best = candidates_.back();
    candidates_.pop_back();

    // A neighbour's merge may have taken one of the two since this candidate was noted.
    symbol& left = symbols_[static_cast<std::size_t>(best.left)];
    if (left.id < 0 || left.next < 0) continue;
    symbol& right = symbols_[static_cast<std::size_t>(left.next)];
    const ranked* found = bpe_.find_merge(left.id, right.id);
    if (found == nullptr || found->rank != best.rank) continue;

    left.id = found->result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols_[static_cast<std::size_t>(left.next)].previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (const symbol& s : symbols_) {
    if (s.id >= 0) ids_.push_back(s.id);
  }
}

}  // namespace baton
