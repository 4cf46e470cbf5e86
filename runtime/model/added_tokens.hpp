#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace baton {

/// A token that is found in the text itself, before it is cut into words.
struct added_token {
  std::string content;  ///< not empty
  std::int32_t id;
  bool special;  ///< marks turns and ends; no part of an answer's text
};

/// Finds added tokens in texts. Immutable; any thread may use it.
class added_token_set {
 public:
  explicit added_token_set(std::vector<added_token> tokens);

  struct occurrence {
    std::size_t offset;
    const added_token* token;
  };
  /// The first occurrence at or after `from`; of several tokens that start there the longest.
  [[nodiscard]] std::optional<occurrence> find(std::string_view text, std::size_t from) const;
  /// The token with exactly this content, or null.
  [[nodiscard]] const added_token* with_content(std::string_view content) const;
  [[nodiscard]] bool is_special(std::int32_t id) const;

 private:
  [[nodiscard]] const added_token* longest_at_start(std::string_view text) const;

  std::vector<added_token> tokens_;        // sorted by content
  std::vector<std::int32_t> special_ids_;  // sorted
  std::bitset<256> first_bytes_;
};

}  // namespace baton
