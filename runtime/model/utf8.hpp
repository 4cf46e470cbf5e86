#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace baton {

/// "line:column" of a byte offset in `text`, both counted from 1; a column is a character, not a byte.
std::string line_and_column(std::string_view text, std::size_t offset);

/// Throws fault(bad_input) unless `text` is UTF-8. The message gives the byte and its offset, `where` is "name:line:column".
void require_utf8(std::string_view text, std::string_view name);

/// Turns pieces of bytes, cut anywhere, into pieces of valid UTF-8. A character is held back until its last byte is there.
/// Every maximal sequence of bytes that can be no character becomes one U+FFFD, as the Unicode standard recommends.
/// One thread at a time.
class utf8_stream {
 public:
  /// What has become readable with `bytes`; may be empty.
  std::string push(std::string_view bytes);
  /// U+FFFD where an unfinished character is left over, else nothing. The stream can then be used again.
  std::string finish();

 private:
  std::string unfinished_;
};

}  // namespace baton
