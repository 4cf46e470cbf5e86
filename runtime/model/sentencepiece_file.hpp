#pragma once

#include <filesystem>

#include "runtime/model/tokenizer_file.hpp"

namespace baton {

/// Reads a SentencePiece tokenizer.model of the type BPE with byte fallback, as published for Llama 2 and Yi. Throws
/// fault(bad_input) that names the file and the field of what is malformed or asks for something that Baton does not do.
///
/// Control pieces, and user-defined ones that are written <like this>, are special tokens: in a document they are text.
/// Other user-defined pieces are found in any text, as in SentencePiece.
tokenizer_file read_sentencepiece_file(const std::filesystem::path& path);

}  // namespace baton
