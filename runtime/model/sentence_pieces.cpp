#include "runtime/model/sentence_pieces.hpp"

#include <cstddef>

namespace baton {

std::string with_spaces(std::string_view piece) {
  std::string text;
  while (true) {
    const std::size_t space = piece.find(written_space);
    text += piece.substr(0, space);
    if (space == std::string_view::npos) return text;
    text += ' ';
    piece.remove_prefix(space + written_space.size());
  }
}

std::optional<unsigned char> byte_of_piece(std::string_view piece) {
  static constexpr std::string_view digits = "0123456789ABCDEF";
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return std::nullopt;
  const std::size_t high = digits.find(piece[3]);
  const std::size_t low = digits.find(piece[4]);
  if (high == std::string_view::npos || low == std::string_view::npos) return std::nullopt;
  return static_cast<unsigned char>(high << 4 | low);
}

}  // namespace baton
