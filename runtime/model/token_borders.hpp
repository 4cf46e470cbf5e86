#pragma once

#include <bitset>
#include <cstdint>
#include <string_view>
#include <unordered_set>

namespace baton {

/// Places in a text that no token can reach across: between two characters that stand side by side in none. Cutting a text
/// there changes none of its ids, and makes words out of text that SentencePiece encodes as one.
class token_borders {
 public:
  /// Nothing is cut between characters that are neighbours in `token`.
  void add(std::string_view token);

  /// Gives `take` every word of `text` in order; they are views into it.
  template <typename Take>
  void split(std::string_view text, const Take& take) const {
    while (!text.empty()) {
      const std::size_t word = first_word(text);
      take(text.substr(0, word));
      text.remove_prefix(word);
    }
  }

 private:
  [[nodiscard]] std::size_t first_word(std::string_view text) const;

  std::bitset<128 * 128> ascii_;  // joined pairs of ASCII characters
  std::unordered_set<std::uint64_t> others_;
};

}  // namespace baton
