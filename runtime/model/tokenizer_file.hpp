#pragma once

#include <filesystem>
#include <vector>

#include "runtime/model/added_tokens.hpp"
#include "runtime/model/byte_level_bpe.hpp"
#include "runtime/model/pre_tokenizer.hpp"

namespace baton {

/// What a Hugging Face tokenizer.json says about byte-level BPE, checked and with tokens turned into the bytes they stand for.
struct tokenizer_file {
  std::vector<token> tokens;  ///< by id, model and added tokens alike; all 256 bytes are among them
  std::vector<merge> merges;  ///< by rank; all ids are in range
  bool ignore_merges = false;
  bool normalize_nfc = false;
  std::vector<split_pattern> split_patterns;
  std::vector<added_token> added_tokens;  ///< contents are distinct, ids are in range
};

/// Reads a tokenizer.json as published for Llama 3, Qwen2 or GPT-2. Throws fault(bad_input) that names the file and the line and
/// column or key of what is malformed or asks for something that Baton does not do. Post-processor, truncation and
/// padding are not looked at: prompt formats add the special tokens, and a document is never cut or padded.
tokenizer_file read_tokenizer_file(const std::filesystem::path& path);

}  // namespace baton
