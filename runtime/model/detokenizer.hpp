#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/model/tokenizer.hpp"
#include "runtime/model/utf8.hpp"

namespace baton {

/// Turns the tokens of one answer into text while they arrive. The pieces joined together are what tokenizer::decode gives,
/// and each of them is valid UTF-8: a character is held back until its last byte is there. One thread at a time.
class detokenizer {
 public:
  /// `source` must outlive the detokenizer.
  explicit detokenizer(const tokenizer& source);

  /// What has become readable with this token; may be empty. Throws fault(bad_input) for an id that no token has.
  std::string push(std::int32_t id);
  /// What is left when the answer has ended. The detokenizer can then be used again.
  std::string finish();

 private:
  std::string_view without_first_space(std::string_view bytes, bool in_words);

  const tokenizer* source_;
  utf8_stream characters_;
  bool begun_ = false;  // a space in front now belongs to the text
};

}  // namespace baton
