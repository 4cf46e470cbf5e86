#include "runtime/model/pre_tokenizer.hpp"

#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

std::vector<std::string> words_of(const std::vector<std::string>& patterns, std::string_view text) {
  std::vector<split_pattern> steps;
  for (const std::string& pattern : patterns) steps.push_back({pattern, "tokenizer.json: pre_tokenizer"});
  std::vector<std::string> words;
  pre_tokenizer(steps).split(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

using words = std::vector<std::string>;

TEST(pre_tokenizer, keeps_matches_and_the_text_between_them) {
  EXPECT_EQ(words_of({R"(\d+)"}, "ab12c3"), (words{"ab", "12", "c", "3"}));
  EXPECT_EQ(words_of({R"(\d+)"}, "abc"), (words{"abc"}));
  EXPECT_EQ(words_of({R"(\d+)"}, ""), words{});
  EXPECT_EQ(words_of({}, "a b"), (words{"a b"}));
}

TEST(pre_tokenizer, applies_each_pattern_to_the_pieces_of_the_one_before) {
  EXPECT_EQ(words_of({R"(\p{N})", R"(\s+(?!\S))"}, "a  1b "), (words{"a", "  ", "1", "b", " "}));
}

TEST(pre_tokenizer, reads_classes_as_oniguruma_does) {
  EXPECT_EQ(words_of({R"(\s+)"}, "a\u180Eb\u0085\u2028\u3000c"), (words{"a\u180Eb", "\u0085\u2028\u3000", "c"}));
  EXPECT_EQ(words_of({R"([^\s\p{L}]+)"}, "ä1\u00A0٣"), (words{"ä", "1", "\u00A0", "٣"}));
  EXPECT_EQ(words_of({R"((?i:'S|\x{e9}))"}, "a'ſÉ"), (words{"a", "'ſ", "É"}));
  EXPECT_EQ(words_of({"^b$"}, "a\nb\nc"), (words{"a\n", "b", "\nc"}));
}

TEST(pre_tokenizer, refuses_what_it_would_read_differently) {
  for (const std::string pattern :
       {R"(\w+)", R"(\bx)", R"(\h)", R"([\S])", R"(\p{Han})", R"(\p{^L})", R"(\pL)", R"(\x41)", "[a[b]]", "[a-z&&[^b]]",
        "[]a]", "(?m:x)", "(?<name>x)", "(*ACCEPT)x", "x{1,2}+", "x{1,2}?", "x{,2}", "x\\"}) {
    try {
      words_of({pattern}, "text");
      ADD_FAILURE() << "accepted " << pattern;
    } catch (const fault& f) {
      EXPECT_EQ(f.code(), fault_code::bad_input);
      EXPECT_EQ(f.where(), "tokenizer.json: pre_tokenizer");
      EXPECT_NE(f.reason().find(pattern), std::string::npos) << f.reason();
      EXPECT_NE(f.reason().find("not supported"), std::string::npos) << f.reason();
    }
  }
}

TEST(pre_tokenizer, refuses_patterns_that_are_malformed_or_match_nothing) {
  for (const std::string pattern :
       {"(a", "[a", "a**", R"(\p{L)", R"(\p{Qq})", R"(\x{110000})", "x*", "a|", R"(\s*)", "(?=a)"}) {
    EXPECT_THROW(words_of({pattern}, "text"), fault) << pattern;
  }
}

TEST(pre_tokenizer, gives_up_with_a_fault_on_a_pattern_that_backtracks_without_end) {
  try {
    words_of({"(?:x+x+)+[yz]"}, std::string(60, 'x'));
    FAIL() << "came to an end";
  } catch (const fault& f) {
    EXPECT_EQ(f.code(), fault_code::bad_input);
    EXPECT_EQ(f.where(), "tokenizer.json: pre_tokenizer");
  }
}

TEST(pre_tokenizer, survives_groups_that_repeat_over_a_long_text) {
  const std::string text(10 << 20, 'x');
  EXPECT_THROW(words_of({"(?:x|y)+z"}, text), fault);
  EXPECT_EQ(words_of({R"(\s*[\r\n]+|\s+(?!\S)|x+)"}, text + std::string(1 << 20, ' ') + "x").size(), 4u);
}

}  // namespace
}  // namespace baton
