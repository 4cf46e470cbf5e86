#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/model/added_tokens.hpp"
#include "runtime/model/merge_table.hpp"

namespace baton {

/// A vocabulary entry: the bytes that it stands for.
struct token {
  std::string bytes;  ///< empty: no token has this id
  bool in_words =
      false;  ///< words may contain it; false for tokens that were only added, and for single bytes of characters
};

/// What byte-pair encoding does, of either kind: byte-level (words begin as bytes) or SentencePiece's (as characters).
struct bpe_rules {
  std::vector<merge> merges;

  /// A word that is itself a token is that token, whatever the merges say ("ignore_merges").
  bool whole_words_first = false;

  /// The token of each byte: of a byte-level word, or of a character that has no token.
  std::array<std::int32_t, 256> byte_ids{};

  /// Where words begin as characters: their symbols, by code point. Those from `tokens` upwards have no token; they take
  /// part in merges, and what is left of them becomes bytes. Nothing: words begin as bytes.
  std::optional<std::unordered_map<std::uint32_t, std::int32_t>> characters;

  /// Found in a word from left to right, the longest first; no merge takes part of them.
  std::vector<added_token> unmergeable;
};

/// Byte-pair encoding of single words. Immutable; any thread may use it.
class bpe {
 public:
  /// `tokens` are indexed by id and must outlive this object.
  bpe(std::span<const token> tokens, bpe_rules rules);

  /// Encodes the words of one text, remembering those it has met. One thread; must not outlive the bpe.
  class run {
   public:
    explicit run(const bpe& of) : bpe_(of) {}
    /// Appends the ids of `word`, whose bytes must stay where they are for as long as the run lives.
    /// Takes O(length · log length), so that a word may be a whole document.
    void append(std::string_view word);
    void append_id(std::int32_t id) { ids_.push_back(id); }
    std::vector<std::int32_t> take_ids() && { return std::move(ids_); }

   private:
    struct symbol {
      std::int32_t id;  // merged: gone into a symbol to its left
      std::int32_t offset;
      std::int32_t previous, next;  // -1: none
    };
    struct candidate {
      std::int32_t rank, left;
      // A heap's top is its greatest element.
      bool operator<(const candidate& other) const {
        return rank != other.rank ? rank > other.rank : left > other.left;
      }
    };
    struct place {
      std::size_t first, count;
    };
    struct hash {
      std::size_t operator()(std::string_view word) const;
    };

    void begin_with_bytes(std::string_view word);
    void begin_with_characters(std::string_view word);
    void begin_symbol(std::int32_t id, std::size_t offset);
    void merge_symbols();
    void consider(std::int32_t left);
    void append_symbol(const symbol& s, std::string_view word);

    const bpe& bpe_;
    std::vector<std::int32_t> ids_;
    std::unordered_map<std::string_view, place, hash> met_;  // where in ids_ a word's ids are already
    std::vector<symbol> symbols_;
    std::vector<candidate> candidates_;
  };

 private:
  bpe_rules rules_;  // without its merges and whole_words_first
  merge_table merges_;
  added_token_set unmergeable_;
  std::int32_t tokens_;
  std::unordered_map<std::string_view, std::int32_t> whole_words_;  // empty unless whole words go first
};

}  // namespace baton
