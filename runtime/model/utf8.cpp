#include "runtime/model/utf8.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "kernels/fault.hpp"

namespace baton {
namespace {

constexpr std::string_view replacement_character = "\xEF\xBF\xBD";

struct sequence {
  enum class kind { whole, broken, cut_short } what;
  std::size_t bytes;  // of the character, or of what could have begun one
};

// Reads the character at the start of `text`, which is not empty (Unicode standard, table 3-7).
sequence read_sequence(std::string_view text) {
  const auto byte_at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte_at(0);
  if (lead < 0x80) return {sequence::kind::whole, 1};
  if (lead < 0xC2 || lead > 0xF4) return {sequence::kind::broken, 1};

  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range shuts out overlong forms, surrogates and what lies beyond U+10FFFF.
  unsigned lowest = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  unsigned highest = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {sequence::kind::cut_short, i};
    if (byte_at(i) < lowest || byte_at(i) > highest) return {sequence::kind::broken, i};
    lowest = 0x80;
    highest = 0xBF;
  }
  return {sequence::kind::whole, length};
}

// Bytes up to the first that belong to no whole character.
std::size_t whole_characters(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    std::uint64_t eight = 0;
    if (text.size() - at >= sizeof eight) {
      std::memcpy(&eight, text.data() + at, sizeof eight);
      if ((eight & 0x8080808080808080u) == 0) {
        at += sizeof eight;
        continue;
      }
    }
    const sequence next = read_sequence(text.substr(at));
    if (next.what != sequence::kind::whole) break;
    at += next.bytes;
  }
  return at;
}

}  // namespace

std::string line_and_column(std::string_view text, std::size_t offset) {
  const std::string_view before = text.substr(0, offset);
  const auto lines = std::ranges::count(before, '\n');
  const std::size_t line_start = before.find_last_of('\n') + 1;  // npos + 1 is 0: the first line
  const auto characters = std::ranges::count_if(before.substr(line_start), [](char c) { return (c & 0xC0) != 0x80; });
  return std::to_string(lines + 1) + ":" + std::to_string(characters + 1);
}

void require_utf8(std::string_view text, std::string_view name) {
  const std::size_t valid = whole_characters(text);
  if (valid == text.size()) return;
  char byte[8];
  std::snprintf(byte, sizeof byte, "0x%02X", static_cast<unsigned>(static_cast<unsigned char>(text[valid])));
  throw fault(fault_code::bad_input,
              std::string("not UTF-8: the byte ") + byte + " at byte offset " + std::to_string(valid) +
                  " starts no complete character; text must be given in UTF-8",
              std::string(name) + ":" + line_and_column(text, valid));
}

utf8_character first_character(std::string_view text) {
  const auto bits = [&](std::size_t i, unsigned mask) { return static_cast<unsigned char>(text[i]) & mask; };
  const sequence first = read_sequence(text);
  if (first.what != sequence::kind::whole) return {0x110000 + bits(0, 0xFF), 1};
  switch (first.bytes) {
    case 1: return {bits(0, 0x7F), 1};
    case 2: return {bits(0, 0x1F) << 6 | bits(1, 0x3F), 2};
    case 3: return {bits(0, 0x0F) << 12 | bits(1, 0x3F) << 6 | bits(2, 0x3F), 3};
    default: return {bits(0, 0x07) << 18 | bits(1, 0x3F) << 12 | bits(2, 0x3F) << 6 | bits(3, 0x3F), 4};
  }
}

void utf8_stream::replace(std::size_t bytes, std::string& readable) const {
  // None of the bytes after the first can start a character.
  const std::size_t count = replacement_ == replacement::each_byte ? bytes : 1;
  for (std::size_t i = 0; i < count; ++i) readable += replacement_character;
}

std::string utf8_stream::push(std::string_view bytes) {
  unfinished_ += bytes;
  std::string_view rest = unfinished_;
  std::string readable;
  while (!rest.empty()) {
    const std::size_t whole = whole_characters(rest);
    readable += rest.substr(0, whole);
    rest.remove_prefix(whole);
    if (rest.empty()) break;
    const sequence next = read_sequence(rest);
    if (next.what == sequence::kind::cut_short) break;
    replace(next.bytes, readable);
    rest.remove_prefix(next.bytes);
  }
  unfinished_.erase(0, unfinished_.size() - rest.size());
  return readable;
}

std::string utf8_stream::finish() {
  std::string readable;
  if (!unfinished_.empty()) replace(unfinished_.size(), readable);
  unfinished_.clear();
  return readable;
}

}  // namespace baton
