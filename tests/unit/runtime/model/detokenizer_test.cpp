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

// Ids of `t` in random order: bytes and special tokens more often than chance would give.
std::vector<std::int32_t> any_ids(const tokenizer& t) {
  std::vector<std::int32_t> bytes, special;
  for (std::int32_t id = 0; id < t.vocabulary_size(); ++id) {
    if (t.is_special(id)) special.push_back(id);
    if (!t.is_special(id) && t.token_bytes(id).size() == 1) bytes.push_back(id);
  }
  return *rc::gen::container<std::vector<std::int32_t>>(
      rc::gen::weightedOneOf<std::int32_t>({{4, rc::gen::inRange<std::int32_t>(0, t.vocabulary_size())},
                                            {6, rc::gen::elementOf(bytes)},
                                            {1, rc::gen::elementOf(special)}}));
}

RC_GTEST_PROP(detokenizer, gives_pieces_that_are_characters_and_join_to_the_decoded_text, ()) {
  for (const std::string& name : fixture_tokenizer_names()) {
    const tokenizer& t = fixture_tokenizer(name);
    const auto ids = any_ids(t);
    const auto pieces = pieces_of(t, ids);
    for (const std::string& piece : pieces) require_utf8(piece, name);
    RC_ASSERT(joined(pieces) == t.decode(ids));
  }
}

bool is_sentencepiece(std::string_view name) { return name.starts_with("llama2") || name.starts_with("yi"); }

// SentencePiece writes spaces as U+2581, so that a U+2581 of the text comes back as a space: with the reference as well.
std::string with_spaces_for_marks(std::string text) {
  constexpr std::string_view mark = "\u2581";
  for (auto at = text.find(mark); at != std::string::npos; at = text.find(mark, at + 1))
    text.replace(at, mark.size(), " ");
  return text;
}

RC_GTEST_PROP(detokenizer, never_gives_part_of_a_character, ()) {
  const std::string text = *any_text();
  for (const std::string name : {"needle", "llama3", "gpt2", "llama2.model", "llama2.json", "yi.model", "yi.json"}) {
    const tokenizer& t = fixture_tokenizer(name);
    const auto pieces = pieces_of(t, t.encode(text, special_tokens::as_text));
    for (const std::string& piece : pieces) require_utf8(piece, name);
    RC_ASSERT(joined(pieces) == (is_sentencepiece(name) ? with_spaces_for_marks(text) : text));
  }
}

TEST(detokenizer, replaces_each_byte_of_sentencepiece_and_ends_a_character_at_a_special_token) {
  const tokenizer& t = fixture_tokenizer("yi.model");
  const auto ids = t.encode("\U0001FAE0", special_tokens::as_text);
  ASSERT_EQ(ids.size(), 4u);
  EXPECT_EQ(joined(pieces_of(t, {ids[0], ids[1], t.id_of("</s>").value(), ids[2], ids[3]})),
            "\uFFFD\uFFFD\uFFFD\uFFFD");
}

TEST(detokenizer, leaves_out_the_space_that_sentencepiece_puts_in_front) {
  const tokenizer& t = fixture_tokenizer("llama2.model");
  const auto ids = t.encode("the the", special_tokens::as_text);
  detokenizer stream(t);
  EXPECT_EQ(stream.push(ids.at(0)), "the");
  EXPECT_EQ(stream.push(ids.at(1)), " the");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push(ids.at(0)), "the");  // another answer
  // Its own normalizer removes all of them.
  const tokenizer& n = fixture_tokenizer("nfkc.model");
  const auto word = n.encode("a", special_tokens::as_text).at(0);
  ASSERT_EQ(n.token_bytes(word), " a");
  EXPECT_EQ(n.decode(std::vector{word, word}), "a a");
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
