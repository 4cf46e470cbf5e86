#pragma once

#include <filesystem>
#include <variant>
#include <vector>

#include "runtime/model/added_tokens.hpp"
#include "runtime/model/bpe.hpp"
#include "runtime/model/pre_tokenizer.hpp"
#include "runtime/model/sentence_normalizer.hpp"

namespace baton {

/// How byte-level BPE finds words.
struct byte_level_rules {
  bool normalize_nfc = false;
  std::vector<split_pattern> split_patterns;
  std::vector<added_token> normalized_tokens;  ///< found after normalizing; none of them is special
};

/// How tokens become text again where it is more than joining their bytes.
struct decoding_rules {
  /// Tokens are SentencePiece's: every byte that belongs to no character is replaced by itself, and a special token ends a
  /// character.
  bool sentence_pieces = false;
  enum class space { kept, one_removed, all_removed } at_start = space::kept;  ///< in front of the text
};

/// A vocabulary and what is done with it, as a file says it: checked, and with tokens turned into the bytes they stand for.
struct tokenizer_file {
  std::vector<token> tokens;  ///< by id, model and added tokens alike; all 256 bytes are among them
  bpe_rules bpe;              ///< all ids are in range
  std::variant<byte_level_rules, sentence_rules> words;
  std::vector<added_token> added_tokens;  ///< contents are distinct, ids are in range
  decoding_rules decoding;
};

/// Reads a Hugging Face tokenizer.json with BPE: byte-level as published for Llama 3, Qwen2 or GPT-2, or with byte fallback
/// as SentencePiece's models of Llama 2 or Yi are converted to it. Throws fault(bad_input) that names the file and the line
/// and column or key of what is malformed or asks for something that Baton does not do. Post-processor, truncation and
/// padding are not looked at: prompt formats add the special tokens, and a document is never cut or padded.
tokenizer_file read_tokenizer_file(const std::filesystem::path& path);

}  // namespace baton
