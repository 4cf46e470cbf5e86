#include "runtime/model/detokenizer.hpp"

namespace baton {

detokenizer::detokenizer(const tokenizer& source)
    : source_(&source),
      characters_(source.decoding().sentence_pieces ? replacement::each_byte : replacement::each_sequence) {}

std::string_view detokenizer::without_first_space(std::string_view bytes, bool in_words) {
  const auto at_start = source_->decoding().at_start;
  if (in_words && at_start != decoding_rules::space::kept && bytes.starts_with(' ')) {
    bytes.remove_prefix(1);
    begun_ = at_start == decoding_rules::space::one_removed || !bytes.empty();
  } else {
    begun_ = true;
  }
  return bytes;
}

std::string detokenizer::push(std::int32_t id) {
  std::string_view bytes = source_->token_bytes(id);
  if (source_->is_special(id)) return source_->decoding().sentence_pieces ? characters_.finish() : std::string();
  if (!begun_) bytes = without_first_space(bytes, source_->in_words(id));
  return characters_.push(bytes);
}

std::string detokenizer::finish() {
  begun_ = false;
  return characters_.finish();
}

}  // namespace baton
