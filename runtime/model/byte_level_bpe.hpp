#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace baton {

/// A vocabulary entry: the bytes that it stands for.
struct token {
  std::string bytes;      ///< empty: no token has this id
  bool in_words = false;  ///< spelt in bytes, so that words may contain it; false for tokens that were only added
};

/// Two neighbouring tokens may become one. A merge's place in the list is its rank; lower ranks go first.
struct merge {
  std::int32_t left;
  std::int32_t right;
  std::int32_t result;
};

/// Byte-level byte-pair encoding of single words. Immutable; any thread may use it.
class byte_level_bpe {
 public:
  /// `tokens` are indexed by id and must outlive this object; among them is one token for each of the 256 bytes.
  /// `whole_words_first`: a word that is itself a token is that token, whatever the merges say ("ignore_merges").
  byte_level_bpe(std::span<const token> tokens, std::span<const merge> merges, bool whole_words_first);

  /// Encodes the words of one text, remembering those it has met. One thread; must not outlive the bpe.
  class run {
   public:
    explicit run(const byte_level_bpe& bpe) : bpe_(bpe) {}
    /// Appends the ids of `word`, whose bytes must stay where they are for as long as the run lives.
    /// Takes O(length · log length), so that a word may be a whole document.
    void append(std::string_view word);
    void append_id(std::int32_t id) { ids_.push_back(id); }
    std::vector<std::int32_t> take_ids() && { return std::move(ids_); }

   private:
    struct symbol {
      std::int32_t id;              // -1: merged into a symbol to its left
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

    void merge_and_append(std::string_view word);
    void consider(std::int32_t left);

    const byte_level_bpe& bpe_;
    std::vector<std::int32_t> ids_;
    std::unordered_map<std::string_view, place> met_;  // where in ids_ a word's ids are already
    std::vector<symbol> symbols_;
    std::vector<candidate> candidates_;
  };

 private:
  struct ranked {
    std::int32_t rank, result;
  };
  [[nodiscard]] const ranked* find_merge(std::int32_t left, std::int32_t right) const;

  std::array<std::int32_t, 256> byte_ids_{};
  std::unordered_map<std::uint64_t, ranked> merges_;                // by both ids
  std::unordered_map<std::string_view, std::int32_t> whole_words_;  // empty unless whole words go first
};

}  // namespace baton
