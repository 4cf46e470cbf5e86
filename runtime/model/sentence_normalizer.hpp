#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model/added_tokens.hpp"

namespace baton {

/// What SentencePiece does to a text before it looks for pieces.
struct sentence_rules {
  /// A space goes in front of a text: of none; of a text that nothing stands before; of every text, also between special
  /// tokens.
  enum class prefix { none, at_start, everywhere } space_before = prefix::none;
  bool unless_there = false;         ///< not in front of a text that starts with one (Metaspace)
  bool remove_extra_spaces = false;  ///< at both ends, and all but one in between

  std::vector<std::uint32_t> character_trie;  ///< a double array that finds what is to be replaced; empty: nothing is
  std::string replacements;                   ///< each ends with a zero byte; the trie's values are offsets into it
  std::vector<added_token> kept;              ///< left as they are
};

/// Where a text stands in a prompt.
enum class text_place { start, after_special_token, after_text };

/// Applies sentence_rules. U+2581, which SentencePiece writes for a space, becomes a space too: they are one and the same to
/// it. Immutable; any thread may use it.
class sentence_normalizer {
 public:
  explicit sentence_normalizer(sentence_rules rules);
  [[nodiscard]] std::string normalize(std::string_view text, text_place place) const;

 private:
  struct step {
    std::string_view result;
    std::size_t bytes;  // of the text, at least 1
  };
  [[nodiscard]] step next(std::string_view text) const;
  [[nodiscard]] bool wants_space_before(std::string_view text, text_place place) const;

  sentence_rules rules_;
  added_token_set kept_;
};

}  // namespace baton
