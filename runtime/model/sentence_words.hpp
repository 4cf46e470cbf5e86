#pragma once

#include <string>
#include <string_view>

#include "runtime/model/added_tokens.hpp"
#include "runtime/model/sentence_normalizer.hpp"
#include "runtime/model/token_borders.hpp"

namespace baton {

/// Makes words of a text as SentencePiece would encode it in one go. Immutable; any thread may use it.
class sentence_words {
 public:
  sentence_words(sentence_rules rules, token_borders borders)
      : normalizer_(std::move(rules)), borders_(std::move(borders)) {}

  /// What `text` is when normalized; `storage` holds it.
  std::string_view normalize(std::string_view text, text_place place, std::string& storage) const {
    return storage = normalizer_.normalize(text, place);
  }
  /// None.
  [[nodiscard]] const added_token_set& normalized_tokens() const { return none_; }
  /// Gives `take` every word of a normalized text in order.
  template <typename Take>
  void split(std::string_view normalized, const Take& take) const {
    borders_.split(normalized, take);
  }

 private:
  sentence_normalizer normalizer_;
  token_borders borders_;
  added_token_set none_{{}};
};

}  // namespace baton
