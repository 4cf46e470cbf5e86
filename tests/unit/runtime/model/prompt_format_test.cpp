#include "runtime/model/prompt_format.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "kernels/fault.hpp"
#include "tests/support/places.hpp"
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
  EXPECT_EQ(prompt_format_names(), "chatml, llama2, llama3, needle, yi");
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

// tests/fixtures/prompts.jsonl; make_prompt_fixtures.py says what a record is.
std::vector<nlohmann::json> rendered_prompts() {
  std::ifstream file(std::filesystem::path(BATON_SOURCE_DIR) / "tests/fixtures/prompts.jsonl");
  std::vector<nlohmann::json> records;
  for (std::string line; std::getline(file, line);) records.push_back(nlohmann::json::parse(line));
  return records;
}

TEST(prompt_format, writes_what_the_chat_templates_of_the_models_write) {
  const auto records = rendered_prompts();
  ASSERT_EQ(records.size(), 26u);
  for (const auto& record : records) {
    const auto text = [&](const char* key) { return record.at(key).get<std::string>(); };
    const prompt_format& format = preset(text("preset"));
    EXPECT_EQ(format.query_prefix, text("separator"));
    std::string opening = format.opening;
    if (!text("system").empty()) {
      opening = format.opening_with_system;
      opening.replace(opening.find("{system}"), 8, text("system"));
    }
    EXPECT_EQ(opening + text("document") + format.query_prefix + text("question") + format.query_suffix, text("text"))
        << text("model");
  }
}

TEST(prompt_format, gives_the_ids_of_the_whole_prompt_with_every_preset) {
  const std::map<std::string, std::vector<std::string>> tokenizers = {{"chatml", {"qwen2"}},
                                                                      {"llama2", {"llama2.model", "llama2.json"}},
                                                                      {"llama3", {"llama3"}},
                                                                      {"needle", {"needle"}},
                                                                      {"yi", {"yi.model", "yi.json"}}};
  for (const auto& record : rendered_prompts()) {
    const auto text = [&](const char* key) { return record.at(key).get<std::string>(); };
    for (const std::string& name : tokenizers.at(text("preset"))) {
      const tokenizer& t = fixture_tokenizer(name);
      const prompt p = make_prompt(t, preset(text("preset")), text("document"), text("question"), text("system"));
      const std::string whole = text("text");
      const std::size_t document = whole.find(text("document"));
      const std::size_t query = document + text("document").size();
      const std::string_view view = whole;
      EXPECT_EQ(concatenated(p.document_ids, p.query_ids),
                t.encode(std::vector<text_part>{{view.substr(0, document), special_tokens::parsed},
                                                {view.substr(document, query - document), special_tokens::as_text},
                                                {view.substr(query), special_tokens::parsed}}))
          << name << ": " << whole;
    }
  }
}

TEST(prompt_format, lets_a_space_that_ends_the_opening_begin_the_first_word) {
  const tokenizer& t = fixture_tokenizer("llama2.model");
  const prompt p = make_prompt(t, preset("llama2"), "the lantern", "Which?");
  const auto opening = std::span(p.document_ids).first(static_cast<std::size_t>(p.system_tokens));
  EXPECT_EQ(t.decode(opening), "[INST]");
  EXPECT_EQ(p.document_ids.at(opening.size()), t.encode("the", special_tokens::as_text).at(0));
  // Nothing but special tokens stands before the text: it gets SentencePiece's space.
  const prompt_format bare = {.name = "bare", .opening = "<s>", .query_suffix = "</s>"};
  EXPECT_EQ(make_document_prompt(t, bare, "the").ids, parsed(t, "<s>the"));
  const prompt_format nothing = {.name = "nothing"};
  EXPECT_EQ(make_document_prompt(t, nothing, "the").ids, parsed(t, "the"));
  EXPECT_FALSE(t.token_bytes(make_query(t, nothing, "the").at(0)).starts_with(' '));
}

TEST(prompt_format, ends_every_query_with_the_closing_of_the_turn) {
  const std::map<std::string, std::string> tokenizers = {
      {"chatml", "qwen2"}, {"llama2", "llama2.model"}, {"llama3", "llama3"}, {"needle", "needle"}, {"yi", "yi.model"}};
  for (const prompt_format& format : prompt_formats()) {
    const tokenizer& t = fixture_tokenizer(tokenizers.at(format.name));
    const ids query = make_query(t, format, "Which archive?");
    const ids closing = t.encode(format.query_suffix, special_tokens::parsed, text_place::after_text);
    ASSERT_LT(closing.size(), query.size());
    EXPECT_TRUE(std::equal(closing.rbegin(), closing.rend(), query.rbegin())) << format.name;
  }
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
  EXPECT_NE(closing.find("chatml, llama2, llama3, needle, yi"), std::string::npos) << closing;
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
