#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model/added_tokens.hpp"
#include "runtime/model/byte_level_bpe.hpp"
#include "runtime/model/pre_tokenizer.hpp"

namespace baton {

struct tokenizer_file;

/// How the text of a special token, say "<|user|>", is read: as the letters that it is, or as the token.
/// Added tokens that are not special are found in any text, as Hugging Face tokenizers do.
enum class special_tokens { as_text, parsed };

/// A part of a text that is tokenized as one.
struct text_part {
  std::string_view text;
  special_tokens treatment;
};

/// Byte-level BPE as a Hugging Face tokenizer.json describes it; gives the ids that Hugging Face tokenizers give without
/// its post-processor: encoding adds no token. Immutable and move-only; any thread may use it.
class tokenizer {
 public:
  /// Throws fault(bad_input) that names the file and the place of what is malformed or unsupported.
  static tokenizer load(const std::filesystem::path& tokenizer_json);

  /// Throws fault(bad_input) for text that is not UTF-8, with the byte offset, and for more than 2^31 - 1 bytes.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text, special_tokens treatment) const;
  /// Encodes the parts joined together, so that words may reach from one into the next. Special tokens are found only
  /// within a part that is parsed.
  [[nodiscard]] std::vector<std::int32_t> encode(std::span<const text_part> parts) const;

  /// Valid UTF-8; special tokens are left out, bytes that form no character become U+FFFD.
  /// Throws fault(bad_input) for an id that no token has.
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const;

  /// The id of the special or other added token with exactly this content.
  [[nodiscard]] std::optional<std::int32_t> id_of(std::string_view token) const;
  [[nodiscard]] bool is_special(std::int32_t id) const { return added_.is_special(id); }
  /// What a token stands for; may be part of a character. Throws fault(bad_input) for an id that no token has.
  [[nodiscard]] std::string_view token_bytes(std::int32_t id) const;
  /// One more than the greatest id.
  [[nodiscard]] std::int32_t vocabulary_size() const { return static_cast<std::int32_t>(tokens_.size()); }

 private:
  explicit tokenizer(tokenizer_file file);

  std::vector<token> tokens_;
  added_token_set added_;
  bool normalize_nfc_;
  pre_tokenizer pre_tokenizer_;
  byte_level_bpe bpe_;  // has views into tokens_, which stay valid when a tokenizer is moved
};

}  // namespace baton
