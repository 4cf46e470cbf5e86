#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/model/added_tokens.hpp"
#include "runtime/model/bpe.hpp"
#include "runtime/model/byte_level_words.hpp"
#include "runtime/model/sentence_words.hpp"
#include "runtime/model/tokenizer_file.hpp"

namespace baton {

/// How the text of a special token, say "<|user|>", is read: as the letters that it is, or as the token.
/// Added tokens that are not special are found in any text, as Hugging Face tokenizers do.
enum class special_tokens { as_text, parsed };

/// A part of a text that is tokenized as one.
struct text_part {
  std::string_view text;
  special_tokens treatment;
};

/// Byte-pair encoding as a model's files describe it: byte-level from a Hugging Face tokenizer.json, SentencePiece's from
/// either file. Gives the ids that Hugging Face tokenizers and SentencePiece give; the post-processor is left out, so that
/// encoding adds no token. Immutable and move-only; any thread may use it.
class tokenizer {
 public:
  /// From `model`/tokenizer.json; from `model`/tokenizer.model where that is missing or asks for what is not supported.
  /// Throws fault(bad_input) that names the file and the place of what is malformed or unsupported.
  static tokenizer load(const std::filesystem::path& model);
  /// From one of these files.
  static tokenizer load_file(const std::filesystem::path& file);
  /// The file that it comes from.
  [[nodiscard]] const std::filesystem::path& source() const { return source_; }

  /// `place` says what stands before the text: SentencePiece puts a space in front where nothing does.
  /// Throws fault(bad_input) for text that is not UTF-8, with the byte offset, and for more than 2^31 - 1 bytes.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text, special_tokens treatment,
                                                 text_place place = text_place::start) const;
  /// Encodes the parts joined together, so that words may reach from one into the next. Special tokens are found only
  /// within a part that is parsed.
  [[nodiscard]] std::vector<std::int32_t> encode(std::span<const text_part> parts,
                                                 text_place place = text_place::start) const;

  /// Valid UTF-8; special tokens are left out, and so is the space that stands for the start of a text in SentencePiece.
  /// Bytes that form no character become U+FFFD: each of them in SentencePiece, else each sequence that could have begun
  /// one. Throws fault(bad_input) for an id that no token has.
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const;
  [[nodiscard]] const decoding_rules& decoding() const { return decoding_; }

  /// The id of the special or other added token with exactly this content.
  [[nodiscard]] std::optional<std::int32_t> id_of(std::string_view token) const;
  [[nodiscard]] bool is_special(std::int32_t id) const { return added_.is_special(id); }
  /// What a token stands for; may be part of a character. Throws fault(bad_input) for an id that no token has.
  [[nodiscard]] std::string_view token_bytes(std::int32_t id) const { return token_of(id).bytes; }
  /// Whether words are made of it: false for added tokens, and for the single bytes of SentencePiece.
  [[nodiscard]] bool in_words(std::int32_t id) const { return token_of(id).in_words; }
  /// One more than the greatest id.
  [[nodiscard]] std::int32_t vocabulary_size() const { return static_cast<std::int32_t>(tokens_.size()); }

 private:
  using word_source = std::variant<byte_level_words, sentence_words>;

  tokenizer(tokenizer_file file, std::filesystem::path source);
  static word_source words_of(tokenizer_file& file, std::span<const token> tokens);
  [[nodiscard]] const token& token_of(std::int32_t id) const;
  [[nodiscard]] std::vector<added_token_set::occurrence> find_added(std::span<const text_part> parts,
                                                                    std::string_view text) const;

  std::filesystem::path source_;
  std::vector<token> tokens_;
  decoding_rules decoding_;
  added_token_set added_;
  word_source words_;
  bpe bpe_;  // has views into tokens_, which stay valid when a tokenizer is moved
};

}  // namespace baton
