#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

/// A token that is found in the text itself, before it is cut into words.
struct added_token {
  std::string content;  ///< not empty
  std::int32_t id;
  bool special;                    ///< marks turns and ends; no part of an answer's text
  bool takes_left_space = false;   ///< white space on its left belongs to it ("lstrip")
  bool takes_right_space = false;  ///< the same on its right ("rstrip")
  bool whole_word = false;         ///< not found within a word ("single_word")
};

/// Finds added tokens in texts. Immutable; any thread may use it.
class added_token_set {
 public:
  explicit added_token_set(std::vector<added_token> tokens);

  struct occurrence {
    std::size_t begin, end;  ///< with the white space that it takes
    const added_token* token;
  };
  /// Appends what occurs in text[begin, end) from left to right, of several tokens that start at one place the longest.
  /// What is around counts as the token's neighbourhood. Special tokens are passed over unless `with_special`.
  void find(std::string_view text, std::size_t begin, std::size_t end, bool with_special,
            std::vector<occurrence>& found) const;
  /// The longest token that `text` starts with, or null.
  [[nodiscard]] const added_token* longest_at_start(std::string_view text) const;
  /// The token with exactly this content, or null.
  [[nodiscard]] const added_token* with_content(std::string_view content) const;
  [[nodiscard]] bool is_special(std::int32_t id) const;
  [[nodiscard]] bool empty() const { return tokens_.empty(); }

 private:
  std::vector<added_token> tokens_;        // sorted by content
  std::vector<std::int32_t> special_ids_;  // sorted
  std::bitset<256> first_bytes_;
};

}  // namespace baton
