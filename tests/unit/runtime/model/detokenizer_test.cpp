#include "runtime/model/detokenizer.hpp"

#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "kernels/fault.hpp"
#include "runtime/model/utf8.hpp"
#include "tests/support/tokenizer_fixtures.hpp"

namespace baton {
namespace {

// All pieces of an answer, finish() included.
std::vector<std::string> pieces_of(const tokenizer& t, const std::vector<std::int32_t>& ids) {
  detokenizer stream(t);
  std::vector<std::string> pieces;
  for (const std::int32_t id : ids) pieces.push_back(stream.push(id));
  pieces.push_back(stream.finish());
  return pieces;
}

std::string joined(const std::vector<std::string>& pieces) {
  std::string text;
  for (const std::string& piece : pieces) text += piece;
  return text;
}

RC_GTEST_PROP(detokenizer, gives_pieces_that_join_to_the_decoded_text, ()) {
  const tokenizer& t = fixture_tokenizer("needle");
  const auto ids =
      *rc::gen::container<std::vector<std::int32_t>>(rc::gen::inRange<std::int32_t>(0, t.vocabulary_size()));
  RC_ASSERT(joined(pieces_of(t, ids)) == t.decode(ids));
}

RC_GTEST_PROP(detokenizer, never_gives_part_of_a_character, ()) {
  const tokenizer& t = fixture_tokenizer("needle");
  const std::string text = *any_text();
  const auto pieces = pieces_of(t, t.encode(text, special_tokens::as_text));
  for (const std::string& piece : pieces) require_utf8(piece, "piece");
  RC_ASSERT(joined(pieces) == text);
}

TEST(detokenizer, holds_an_emoji_back_until_its_last_token) {
  const tokenizer& t = fixture_tokenizer("needle");
  const auto ids = t.encode("🫠!", special_tokens::as_text);
  ASSERT_GE(ids.size(), 3u);  // several tokens for one character
  const auto pieces = pieces_of(t, ids);
  for (std::size_t i = 0; i + 3 < pieces.size(); ++i) EXPECT_EQ(pieces[i], "");
  EXPECT_EQ(joined(pieces), "🫠!");
}

TEST(detokenizer, leaves_special_tokens_out_even_inside_a_character) {
  const tokenizer& t = fixture_tokenizer("needle");
  auto ids = t.encode("🫠", special_tokens::as_text);
  ids.insert(ids.begin() + 1, t.id_of("<|end_of_text|>").value());
  EXPECT_EQ(joined(pieces_of(t, ids)), "🫠");
}

TEST(detokenizer, ends_a_cut_character_with_one_replacement_and_starts_afresh) {
  const tokenizer& t = fixture_tokenizer("needle");
  auto ids = t.encode("🫠", special_tokens::as_text);
  ids.pop_back();
  detokenizer stream(t);
  for (const std::int32_t id : ids) EXPECT_EQ(stream.push(id), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push(t.encode("a", special_tokens::as_text).at(0)), "a");
}

TEST(detokenizer, refuses_an_id_that_no_token_has) {
  detokenizer stream(fixture_tokenizer("needle"));
  EXPECT_THROW(stream.push(-1), fault);
  EXPECT_THROW(stream.push(3072), fault);
}

}  // namespace
}  // namespace baton
