#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace baton {

/// "line:column" of a byte offset in `text`, both counted from 1; a column is a character, not a byte.
std::string line_and_column(std::string_view text, std::size_t offset);

/// Throws fault(bad_input) unless `text` is UTF-8. The message gives the byte and its offset, `where` is "name:line:column".
void require_utf8(std::string_view text, std::string_view name);

/// A code point and how many bytes it takes. For a byte that starts no character: that byte alone, plus 0x110000.
struct utf8_character {
  std::uint32_t value;
  std::size_t bytes;
};
/// The character at the start of `text`, which is not empty.
utf8_character first_character(std::string_view text);

/// What stands for bytes that form no character: one U+FFFD for every maximal sequence that could have begun one, as the
/// Unicode standard recommends, or one for every byte.
enum class replacement { each_sequence, each_byte };

/// Turns pieces of bytes, cut anywhere, into pieces of valid UTF-8. A character is held back until its last byte is there.
/// One thread at a time.
class utf8_stream {
 public:
  explicit utf8_stream(replacement of = replacement::each_sequence) : replacement_(of) {}

  /// What has become readable with `bytes`; may be empty.
  std::string push(std::string_view bytes);
  /// U+FFFD where an unfinished character is left over, else nothing. The stream can then be used again.
  std::string finish();

 private:
  void replace(std::size_t bytes, std::string& readable) const;

  replacement replacement_;
  std::string unfinished_;
};

}  // namespace baton
