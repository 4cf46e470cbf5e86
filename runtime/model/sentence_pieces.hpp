#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace baton {

/// Vocabularies of SentencePiece, also those that were turned into a tokenizer.json, write a space as U+2581 and a byte as
/// "<0x41>".
inline constexpr std::string_view written_space = "\u2581";

/// `piece` with spaces for U+2581.
std::string with_spaces(std::string_view piece);

/// The byte that `piece` is written for; nothing where it is another piece.
std::optional<unsigned char> byte_of_piece(std::string_view piece);

}  // namespace baton
