#include "runtime/model/utf8.hpp"

#include <string>
#include <string_view>
#include <utility>

#include <gtest/gtest.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

using namespace std::string_literals;

TEST(utf8, finds_the_line_and_column_of_an_offset) {
  const std::string text = "ab\nçd€\n\nx";
  EXPECT_EQ(line_and_column(text, 0), "1:1");
  EXPECT_EQ(line_and_column(text, 2), "1:3");
  EXPECT_EQ(line_and_column(text, 3), "2:1");
  EXPECT_EQ(line_and_column(text, text.find("€")), "2:3");
  EXPECT_EQ(line_and_column(text, text.size() - 1), "4:1");
}

TEST(utf8, accepts_every_length_of_character_up_to_its_limits) {
  EXPECT_NO_THROW(require_utf8("", "text"));
  EXPECT_NO_THROW(
      require_utf8("\x00\x7F \xC2\x80 \xDF\xBF \xE0\xA0\x80 \xED\x9F\xBF \xEE\x80\x80 \xEF\xBF\xBF"s, "text"));
  EXPECT_NO_THROW(require_utf8("\xF0\x90\x80\x80 \xF4\x8F\xBF\xBF", "text"));
}

TEST(utf8, refuses_overlong_forms_surrogates_and_lone_or_missing_bytes) {
  for (const std::string_view bad :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80", "\xFF", "\xC3", "\xE2\x82", "\xF0\x9F\x98"}) {
    EXPECT_THROW(require_utf8(bad, "text"), fault) << bad;
    EXPECT_THROW(require_utf8("some text before it " + std::string(bad) + " and some after it", "text"), fault) << bad;
  }
}

TEST(utf8, names_byte_offset_line_and_column_of_what_is_wrong) {
  try {
    require_utf8("first line\nçé \xFF rest", "notes.txt");
    FAIL() << "accepted";
  } catch (const fault& f) {
    EXPECT_EQ(f.code(), fault_code::bad_input);
    EXPECT_EQ(f.where(), "notes.txt:2:4");
    EXPECT_NE(f.reason().find("0xFF at byte offset 16"), std::string::npos) << f.reason();
  }
}

TEST(utf8, stream_holds_a_character_back_until_it_is_whole) {
  utf8_stream stream;
  EXPECT_EQ(stream.push("a\xF0\x9F"), "a");
  EXPECT_EQ(stream.push("\x98"), "");
  EXPECT_EQ(stream.push("\x80z"), "\xF0\x9F\x98\x80z");
  EXPECT_EQ(stream.finish(), "");
}

TEST(utf8, stream_replaces_each_impossible_sequence_once) {
  utf8_stream stream;
  EXPECT_EQ(stream.push("\xF0\x9F\x98!\x80\xC0\xED\xA0"), "\uFFFD!\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(stream.push("\xE2\x82"), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(stream.finish(), "");
}

TEST(utf8, reads_the_first_character_or_the_byte_that_starts_none) {
  const auto first = [](const std::string& text) {
    const utf8_character c = first_character(text);
    return std::pair<std::uint32_t, std::size_t>(c.value, c.bytes);
  };
  EXPECT_EQ(first("ab"), std::pair(0x61u, std::size_t{1}));
  EXPECT_EQ(first("\u00E9x"), std::pair(0xE9u, std::size_t{2}));
  EXPECT_EQ(first("\u2581"), std::pair(0x2581u, std::size_t{3}));
  EXPECT_EQ(first("\U0001FAE0"), std::pair(0x1FAE0u, std::size_t{4}));
  EXPECT_EQ(first("\xE2\x96"), std::pair(0x1100E2u, std::size_t{1}));
  EXPECT_EQ(first("\x80"), std::pair(0x110080u, std::size_t{1}));
}

TEST(utf8, replaces_each_sequence_or_each_byte) {
  for (const auto& [of, expected] : {std::pair(replacement::each_sequence, "\uFFFDa\uFFFD"),
                                     std::pair(replacement::each_byte, "\uFFFD\uFFFDa\uFFFD\uFFFD\uFFFD")}) {
    utf8_stream stream(of);
    std::string text = stream.push("\xE2");
    text += stream.push("\x96");
    text += stream.push("a\xF0\x9F\xAB");
    EXPECT_EQ(text + stream.finish(), expected);
  }
}

}  // namespace
}  // namespace baton
