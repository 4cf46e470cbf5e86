#pragma once

#include <cstdint>
#include <string>

#include "runtime/model/tokenizer.hpp"
#include "runtime/model/utf8.hpp"

namespace baton {

/// Turns the tokens of one answer into text while they arrive. The pieces joined together are what tokenizer::decode gives,
/// and each of them is valid UTF-8: a character is held back until its last byte is there. One thread at a time.
class detokenizer {
 public:
  /// `source` must outlive the detokenizer.
  explicit detokenizer(const tokenizer& source) : source_(&source) {}

  /// What has become readable with this token; may be empty. Throws fault(bad_input) for an id that no token has.
  std::string push(std::int32_t id);
  /// What is left when the answer has ended.
  std::string finish() { return characters_.finish(); }

 private:
  const tokenizer* source_;
  utf8_stream characters_;
};

}  // namespace baton
