#include "runtime/model/token_borders.hpp"

#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tests/support/tokenizer_fixtures.hpp"

namespace baton {
namespace {

std::vector<std::string> words_of(const std::vector<std::string>& tokens, const std::string& text) {
  token_borders borders;
  for (const std::string& token : tokens) borders.add(token);
  std::vector<std::string> words;
  borders.split(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

using words = std::vector<std::string>;

TEST(token_borders, cuts_between_characters_that_no_token_joins) {
  EXPECT_EQ(words_of({" th", "he", "  "}, "  the the"), (words{"  the", " the"}));
  EXPECT_EQ(words_of({"\u00E9t", "t\u00E9", "\u4E2D\u6587"}, "\u00E9t\u00E9a\u4E2D\u6587\u4E2D"),
            (words{"\u00E9t\u00E9", "a", "\u4E2D\u6587", "\u4E2D"}));
  EXPECT_EQ(words_of({}, "ab"), (words{"a", "b"}));
  EXPECT_EQ(words_of({"ab"}, ""), words{});
}

RC_GTEST_PROP(token_borders, cuts_through_no_token, ()) {
  const auto tokens = *rc::gen::container<std::vector<std::string>>(3, any_text());
  std::string text;
  std::vector<std::pair<std::size_t, std::size_t>> places;  // of the tokens in the text
  for (const auto& token : *rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(tokens))) {
    places.emplace_back(text.size(), text.size() + token.size());
    text += token;
  }
  std::size_t cut = 0;
  for (const std::string& word : words_of(tokens, text)) {
    RC_ASSERT(text.compare(cut, word.size(), word) == 0);
    cut += word.size();
    for (const auto& [begin, end] : places) RC_ASSERT(cut <= begin || cut >= end);
  }
  RC_ASSERT(cut == text.size());
}

}  // namespace
}  // namespace baton
