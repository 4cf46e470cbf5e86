#pragma once

#include <string>
#include <string_view>

#include "runtime/model/added_tokens.hpp"
#include "runtime/model/pre_tokenizer.hpp"
#include "runtime/model/tokenizer_file.hpp"

namespace baton {

/// Makes words of a text as byte-level BPE wants them. Immutable; any thread may use it.
class byte_level_words {
 public:
  /// Throws fault(bad_input) for a split pattern that is malformed or unsupported.
  explicit byte_level_words(byte_level_rules rules);

  /// `text`, or what it is when normalized, which `storage` then holds.
  std::string_view normalize(std::string_view text, text_place place, std::string& storage) const;
  /// Tokens that are found in normalized text.
  [[nodiscard]] const added_token_set& normalized_tokens() const { return normalized_tokens_; }
  /// Gives `take` every word of a normalized text in order.
  template <typename Take>
  void split(std::string_view normalized, const Take& take) const {
    pre_tokenizer_.split(normalized, take);
  }

 private:
  bool normalize_nfc_;
  added_token_set normalized_tokens_;
  pre_tokenizer pre_tokenizer_;
};

}  // namespace baton
