#include "runtime/model/prompt_format.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "tests/support/tokenizer_fixtures.hpp"

namespace baton {
namespace {

using ids = std::vector<std::int32_t>;

const prompt_format& preset(const std::string& name) {
  const prompt_format* found = find_prompt_format(name);
  if (found == nullptr) throw fault(fault_code::internal, "no preset " + name);
  return *found;
}

ids parsed(const tokenizer& t, const std::string& text) { return t.encode(text, special_tokens::parsed); }

ids concatenated(ids first, const ids& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

template <typename Call>
std::string fault_of(Call call) {
  try {
    call();
  } catch (const fault& f) {
    EXPECT_EQ(f.code(), fault_code::bad_input);
    return f.what();
  }
  return "no fault";
}

TEST(prompt_format, knows_its_presets_by_name) {
  EXPECT_EQ(prompt_format_names(), "chatml, llama3, needle");
  for (const prompt_format& format : prompt_formats()) EXPECT_EQ(find_prompt_format(format.name), &format);
  EXPECT_EQ(find_prompt_format("alpaca"), nullptr);
  EXPECT_EQ(find_prompt_format(""), nullptr);
}

TEST(prompt_format, writes_needle_as_the_model_was_trained) {
  const tokenizer& t = fixture_tokenizer("needle");
  const std::string document = " The access code for the Lisbon archive is 48213.";
  const std::string question = "What is the access code for the Lisbon archive?";
  const prompt p = make_prompt(t, preset("needle"), document, question);
  EXPECT_EQ(p.system_tokens, 2);
  EXPECT_EQ(concatenated(p.document_ids, p.query_ids),
            parsed(t, "<|begin_of_text|><|user|>" + document + "\n" + question + "<|assistant|>"));
  EXPECT_EQ(p.query_ids, parsed(t, "\n" + question + "<|assistant|>"));
}

TEST(prompt_format, writes_llama3_with_and_without_a_system_turn) {
  const tokenizer& t = fixture_tokenizer("llama3");
  const std::string user = "<|start_header_id|>user<|end_header_id|>\n\n";
  const std::string answer = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";

  const prompt plain = make_prompt(t, preset("llama3"), "A document.", "A question?");
  EXPECT_EQ(concatenated(plain.document_ids, plain.query_ids),
            parsed(t, "<|begin_of_text|>" + user + "A document.\n\nA question?" + answer));
  EXPECT_EQ(static_cast<std::size_t>(plain.system_tokens), parsed(t, "<|begin_of_text|>" + user).size());

  const prompt with_system = make_prompt(t, preset("llama3"), "A document.", "A question?", "Be brief.");
  const std::string opening =
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>" + user;
  EXPECT_EQ(concatenated(with_system.document_ids, with_system.query_ids),
            parsed(t, opening + "A document.\n\nA question?" + answer));
  EXPECT_EQ(static_cast<std::size_t>(with_system.system_tokens), parsed(t, opening).size());
}

TEST(prompt_format, writes_chatml_with_the_system_prompt_or_that_of_qwen2) {
  const tokenizer& t = fixture_tokenizer("qwen2");
  const auto whole = [](const std::string& system) {
    return "<|im_start|>system\n" + system +
           "<|im_end|>\n<|im_start|>user\nA document.\n\nA question?<|im_end|>\n<|im_start|>assistant\n";
  };
  const prompt plain = make_prompt(t, preset("chatml"), "A document.", "A question?");
  EXPECT_EQ(concatenated(plain.document_ids, plain.query_ids), parsed(t, whole("You are a helpful assistant.")));
  const prompt with_system = make_prompt(t, preset("chatml"), "A document.", "A question?", "\nBe brief.");
  EXPECT_EQ(concatenated(with_system.document_ids, with_system.query_ids), parsed(t, whole("\nBe brief.")));
}

TEST(prompt_format, recognises_special_tokens_in_the_format_alone) {
  const tokenizer& t = fixture_tokenizer("llama3");
  const std::string marker = "<|eot_id|>";
  const std::int32_t id = t.id_of(marker).value();
  const prompt p = make_prompt(t, preset("llama3"), marker, marker, marker);
  EXPECT_EQ(std::count(p.document_ids.begin(), p.document_ids.end(), id), 1);  // the end of the system turn
  EXPECT_EQ(std::count(p.query_ids.begin(), p.query_ids.end(), id), 1);        // the end of the user's turn
}

TEST(prompt_format, gives_document_and_query_apart_as_together) {
  const tokenizer& t = fixture_tokenizer("needle");
  const prompt p = make_prompt(t, preset("needle"), " Some text.", "Which?");
  const document_prompt d = make_document_prompt(t, preset("needle"), " Some text.");
  EXPECT_EQ(d.ids, p.document_ids);
  EXPECT_EQ(d.system_tokens, p.system_tokens);
  EXPECT_EQ(make_query(t, preset("needle"), "Which?"), p.query_ids);
}

TEST(prompt_format, takes_free_text_for_a_format) {
  const tokenizer& t = fixture_tokenizer("needle");
  const prompt_format format = {.name = "free",
                                .opening = "",
                                .opening_with_system = "[{system}] {system}",
                                .query_prefix = "\nQ: ",
                                .query_suffix = "\nA:"};
  const prompt p = make_prompt(t, format, "Text <| with |> marks.", "Why?");
  EXPECT_EQ(p.system_tokens, 0);
  EXPECT_EQ(p.document_ids, parsed(t, "Text <| with |> marks."));
  EXPECT_EQ(p.query_ids, parsed(t, "\nQ: Why?\nA:"));
  EXPECT_EQ(t.decode(make_document_prompt(t, format, "Text.", "Be brief").ids), "[Be brief] {system}Text.");
}

TEST(prompt_format, refuses_a_format_whose_special_tokens_the_tokenizer_does_not_have) {
  const tokenizer& needle = fixture_tokenizer("needle");
  const std::string opening = fault_of([&] { make_document_prompt(needle, preset("chatml"), "Text."); });
  EXPECT_NE(opening.find("'chatml' needs the special token <|im_start|>"), std::string::npos) << opening;
  const std::string closing = fault_of([&] { make_query(needle, preset("llama3"), "Which?"); });
  EXPECT_NE(closing.find("'llama3' needs the special token <|eot_id|>"), std::string::npos) << closing;
  EXPECT_NE(closing.find("chatml, llama3, needle"), std::string::npos) << closing;
}

TEST(prompt_format, refuses_a_system_prompt_that_has_no_place) {
  const std::string message =
      fault_of([&] { make_prompt(fixture_tokenizer("needle"), preset("needle"), "Text.", "Which?", "Be brief."); });
  EXPECT_NE(message.find("'needle' has no place for a system prompt"), std::string::npos) << message;
}

TEST(prompt_format, refuses_empty_or_broken_text_by_its_name) {
  const tokenizer& t = fixture_tokenizer("llama3");
  const auto refused = [&](const std::string& document, const std::string& question, const std::string& system) {
    return fault_of([&] { make_prompt(t, preset("llama3"), document, question, system); });
  };
  EXPECT_EQ(refused("", "Which?", ""), "document: the document is empty");
  EXPECT_EQ(refused("Text.", "", ""), "question: the question is empty");
  EXPECT_EQ(refused("a\nb\xFF", "Which?", "").find("document:2:2: not UTF-8: the byte 0xFF at byte offset 3"), 0u);
  EXPECT_EQ(refused("Text.", "\xC3", "").find("question:1:1: not UTF-8"), 0u);
  EXPECT_EQ(refused("Text.", "Which?", "\xC3").find("system prompt:1:1: not UTF-8"), 0u);
}

}  // namespace
}  // namespace baton
