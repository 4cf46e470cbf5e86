#include "runtime/model/tokenizer.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <rapidcheck/gtest.h>

#include "kernels/fault.hpp"
#include "tests/support/tokenizer_fixtures.hpp"

namespace baton {
namespace {

using nlohmann::json;
using ids = std::vector<std::int32_t>;

// A tokenizer.json that exists for one test.
class written_file {
 public:
  explicit written_file(const std::string& content) { std::ofstream(path(), std::ios::binary) << content; }
  [[nodiscard]] std::filesystem::path path() const { return directory_.path() / "tokenizer.json"; }

 private:
  temporary_directory directory_;
};

// The fault that loading `content` ends with.
fault refusal(const std::string& content) {
  const written_file file(content);
  try {
    tokenizer::load_file(file.path());
  } catch (const fault& f) {
    EXPECT_EQ(f.code(), fault_code::bad_input);
    EXPECT_EQ(f.where().find(file.path().string()), 0u) << f.what();
    return f;
  }
  ADD_FAILURE() << "loaded: " << content.substr(0, 200);
  return fault(fault_code::internal, "loaded");
}

TEST(tokenizer, gives_the_ids_of_the_reference_for_every_fixture_line) {
  const auto records = fixture_lines("lines.jsonl");
  ASSERT_GE(records.size(), 2000u);
  for (const json& record : records) {
    const auto text = record.at("text").get<std::string>();
    for (const auto& [name, expected] : record.at("ids").items()) {
      EXPECT_EQ(fixture_tokenizer(name).encode(text, special_tokens::as_text), expected.get<ids>())
          << name << ": " << record.at("text");
    }
  }
}

TEST(tokenizer, recognises_special_tokens_where_the_reference_does) {
  int with_special_tokens = 0;
  for (const json& record : fixture_lines("lines.jsonl")) {
    const auto text = record.at("text").get<std::string>();
    const json parsed = record.value("parsed", json::object());
    for (const auto& [name, as_text] : record.at("ids").items()) {
      with_special_tokens += parsed.contains(name) ? 1 : 0;
      EXPECT_EQ(fixture_tokenizer(name).encode(text, special_tokens::parsed), parsed.value(name, as_text).get<ids>())
          << name << ": " << record.at("text");
    }
  }
  EXPECT_GE(with_special_tokens, 50);
}

TEST(tokenizer, decodes_every_fixture_line_to_its_text) {
  for (const json& record : fixture_lines("lines.jsonl")) {
    const json decoded = record.value("decoded", json::object());
    for (const auto& [name, encoded] : record.at("ids").items()) {
      EXPECT_EQ(fixture_tokenizer(name).decode(encoded.get<ids>()),
                decoded.value(name, record.at("text")).get<std::string>())
          << name << ": " << record.at("text");
    }
  }
}

TEST(tokenizer, replaces_bytes_that_form_no_character_as_the_reference_does) {
  const auto records = fixture_lines("decodes.jsonl");
  ASSERT_GE(records.size(), 1200u);
  for (const json& record : records) {
    const auto name = record.at("tokenizer").get<std::string>();
    EXPECT_EQ(fixture_tokenizer(name).decode(record.at("ids").get<ids>()), record.at("text").get<std::string>())
        << name << ": " << record.at("ids");
  }
}

// FNV-1a over the ids and the text that they decode to; base64 as in the fixture.
std::string hash_of(const tokenizer& t, const std::string& text) {
  std::uint64_t hash = 0xCBF29CE484222325;
  const auto add = [&hash](unsigned byte) { hash = (hash ^ byte) * 0x100000001B3; };
  const ids encoded = t.encode(text, special_tokens::as_text);
  for (const std::int32_t id : encoded) {
    for (const int shift : {0, 8, 16, 24}) add(static_cast<unsigned>(id) >> shift & 0xFF);
  }
  for (const char c : t.decode(encoded)) add(static_cast<unsigned char>(c));
  std::string base64;
  for (int shift = 58; shift >= -2; shift -= 6) {
    const std::uint64_t bits = shift >= 0 ? hash >> shift : hash << -shift;
    base64 += "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[bits & 63];
  }
  return base64;
}

TEST(tokenizer, turns_ten_thousand_lines_into_ids_and_back_as_the_references_do) {
  const auto records = fixture_lines("hashes.jsonl");
  ASSERT_GE(records.size(), 10'001u);
  const auto names = records.front().get<std::vector<std::string>>();
  EXPECT_EQ(names.size(), fixture_tokenizer_names().size());
  for (std::size_t t = 0; t < names.size(); ++t) {
    const tokenizer& words = fixture_tokenizer(names[t]);
    for (std::size_t i = 1; i < records.size(); ++i) {
      const auto text = records[i].at(0).get<std::string>();
      ASSERT_EQ(hash_of(words, text), records[i].at(t + 1).get<std::string>())
          << names[t] << ": " << records[i].at(0) << " gives " << json(words.encode(text, special_tokens::as_text));
    }
  }
}

TEST(tokenizer, finds_added_tokens_with_the_flags_of_hugging_face) {
  const auto records = fixture_lines("added.jsonl");
  ASSERT_GE(records.size(), 500u);
  json file = tokenizer_json("qwen2");
  file["added_tokens"] = records.front().at("added_tokens");
  const tokenizer t = load_tokenizer(file);
  for (std::size_t i = 1; i < records.size(); ++i) {
    EXPECT_EQ(t.encode(records[i].at("text").get<std::string>(), special_tokens::parsed),
              records[i].at("ids").get<ids>())
        << records[i].at("text");
  }
  EXPECT_EQ(t.id_of("caf\u00E9"), 1004);
  EXPECT_EQ(t.decode(ids{1000, 1004, 1001}), "caf\u00E9");
}

RC_GTEST_PROP(tokenizer, decodes_what_it_encoded_to_the_same_text, ()) {
  const std::string text = *any_text();
  for (const std::string name : {"needle", "llama3", "gpt2"}) {
    const tokenizer& t = fixture_tokenizer(name);
    RC_ASSERT(t.decode(t.encode(text, special_tokens::as_text)) == text);
  }
}

RC_GTEST_PROP(tokenizer, normalizes_once_and_for_all, ()) {
  const std::string text = *any_text();
  const tokenizer& t = fixture_tokenizer("qwen2");
  const ids encoded = t.encode(text, special_tokens::as_text);
  RC_ASSERT(t.encode(t.decode(encoded), special_tokens::as_text) == encoded);
}

TEST(tokenizer, normalizes_to_composed_characters_only_where_the_file_says_so) {
  const std::string composed = "caf\u00E9 \uD55C";
  const std::string decomposed = "cafe\u0301 \u1112\u1161\u11AB";
  const auto encode = [](const std::string& name, const std::string& text) {
    return fixture_tokenizer(name).encode(text, special_tokens::as_text);
  };
  EXPECT_EQ(encode("qwen2", composed), encode("qwen2", decomposed));
  EXPECT_NE(encode("llama3", composed), encode("llama3", decomposed));
}

TEST(tokenizer, takes_a_special_token_inside_a_document_for_text) {
  const tokenizer& t = fixture_tokenizer("needle");
  const std::string text = "before<|user|>after";
  const std::int32_t user = t.id_of("<|user|>").value();
  const auto contains_user = [&](special_tokens treatment) {
    const ids encoded = t.encode(text, treatment);
    return std::find(encoded.begin(), encoded.end(), user) != encoded.end();
  };
  EXPECT_FALSE(contains_user(special_tokens::as_text));
  EXPECT_TRUE(contains_user(special_tokens::parsed));
  EXPECT_EQ(t.decode(t.encode(text, special_tokens::as_text)), text);
  EXPECT_EQ(t.decode(t.encode(text, special_tokens::parsed)), "beforeafter");
}

TEST(tokenizer, joins_parts_to_one_text_but_no_special_token_across_them) {
  const tokenizer& t = fixture_tokenizer("needle");
  const auto parsed = special_tokens::parsed;
  const auto as_text = special_tokens::as_text;
  EXPECT_EQ(t.encode(std::vector<text_part>{{"\n", parsed}, {"\nThe har", as_text}, {"bour<|assistant|>", parsed}}),
            t.encode("\n\nThe harbour<|assistant|>", parsed));
  EXPECT_EQ(t.encode(std::vector<text_part>{{"x<|us", parsed}, {"er|>y", parsed}}), t.encode("x<|user|>y", as_text));
  EXPECT_EQ(t.encode(std::vector<text_part>{{"<|user|>", as_text}, {"", parsed}}), t.encode("<|user|>", as_text));
  EXPECT_TRUE(t.encode(std::vector<text_part>{}).empty());
}

TEST(tokenizer, adds_no_token_although_the_post_processor_would) {
  ASSERT_FALSE(tokenizer_json("llama3").at("post_processor").is_null());
  const tokenizer& t = fixture_tokenizer("llama3");
  EXPECT_TRUE(t.encode("", special_tokens::parsed).empty());
  EXPECT_NE(t.encode("The", special_tokens::parsed).at(0), t.id_of("<|begin_of_text|>").value());
}

TEST(tokenizer, keeps_digits_in_groups_of_three) {
  const tokenizer& t = fixture_tokenizer("needle");
  for (const std::int32_t id : t.encode("48213770291", special_tokens::as_text))
    EXPECT_LE(t.token_bytes(id).size(), 3u);
  EXPECT_EQ(t.encode("481213770", special_tokens::as_text).size(), 3u);
}

TEST(tokenizer, knows_its_added_tokens_and_their_ids) {
  const tokenizer& t = fixture_tokenizer("qwen2");
  const std::int32_t end = t.id_of("<|im_end|>").value();
  EXPECT_TRUE(t.is_special(end));
  EXPECT_EQ(t.token_bytes(end), "<|im_end|>");
  const std::int32_t call = t.id_of("<tool_call>").value();
  EXPECT_FALSE(t.is_special(call));
  EXPECT_EQ(t.decode(ids{end, call, end}), "<tool_call>");
  EXPECT_EQ(t.id_of("<|im_"), std::nullopt);
  EXPECT_EQ(t.id_of("the"), std::nullopt);
  EXPECT_EQ(t.vocabulary_size(), 1005);
  EXPECT_EQ(fixture_tokenizer("needle").vocabulary_size(), 3072);
}

TEST(tokenizer, refuses_ids_that_no_token_has) {
  const tokenizer& t = fixture_tokenizer("needle");
  for (const std::int32_t id : {-1, 3072, 2147483647}) {
    EXPECT_THROW(static_cast<void>(t.decode(ids{id})), fault) << id;
    EXPECT_THROW(static_cast<void>(t.token_bytes(id)), fault) << id;
    EXPECT_FALSE(t.is_special(id));
  }
}

TEST(tokenizer, refuses_text_that_is_not_utf8_and_says_where) {
  try {
    static_cast<void>(fixture_tokenizer("needle").encode("one\ntwo \xE2\x82 three", special_tokens::as_text));
    FAIL() << "accepted";
  } catch (const fault& f) {
    EXPECT_EQ(f.code(), fault_code::bad_input);
    EXPECT_EQ(f.where(), "text:2:5");
    EXPECT_NE(f.reason().find("byte offset 8"), std::string::npos) << f.reason();
  }
}

TEST(tokenizer, encodes_words_of_a_megabyte) {
  const tokenizer& t = fixture_tokenizer("llama3");
  for (const std::string unit : {"a", " ", "=", "\n", "<|", "中", "abcdefghij"}) {
    std::string text;
    while (text.size() < (1u << 20)) text += unit;
    EXPECT_TRUE(t.decode(t.encode(text, special_tokens::parsed)) == text) << unit;
  }
}

TEST(tokenizer, encodes_a_document_of_ten_megabytes_as_its_parts) {
  const tokenizer& t = fixture_tokenizer("llama3");
  const std::string part = "The keeper's lantern, no. 48213, hung in the harbour; it wasn't lit.\n";
  const std::size_t repeats = (10u << 20) / part.size();
  std::string document;
  for (std::size_t i = 0; i < repeats; ++i) document += part;
  const ids once = t.encode(part, special_tokens::as_text);
  const ids all = t.encode(document, special_tokens::as_text);
  ASSERT_EQ(all.size(), once.size() * repeats);
  for (std::size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], once[i % once.size()]) << i;
}

TEST(tokenizer, may_be_used_by_several_threads_at_once) {
  const tokenizer& t = fixture_tokenizer("qwen2");
  const std::string text = "cafe\u0301 keeper's 48213\n<|im_end|>";
  const ids expected = t.encode(text, special_tokens::parsed);
  std::vector<int> right(4, 0);
  std::vector<std::thread> threads;
  for (int& count : right) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) count += t.encode(text, special_tokens::parsed) == expected ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, std::vector<int>(4, 100));
}

TEST(tokenizer, stays_usable_after_a_move) {
  tokenizer first = tokenizer::load_file(tokenizer_path("llama3"));
  const ids expected = first.encode("the first water<|eot_id|>", special_tokens::parsed);
  const tokenizer second = std::move(first);
  EXPECT_EQ(second.encode("the first water<|eot_id|>", special_tokens::parsed), expected);
}

TEST(tokenizer, reads_merges_as_pairs_and_as_strings_alike) {
  json file = tokenizer_json("needle");
  json& merges = file["model"]["merges"];
  for (json& m : merges) m = m[0].get<std::string>() + " " + m[1].get<std::string>();
  const written_file as_strings(file.dump());
  const tokenizer t = tokenizer::load_file(as_strings.path());
  const std::string text = "The access code for the Lisbon archive is 48213.";
  EXPECT_EQ(t.encode(text, special_tokens::as_text), fixture_tokenizer("needle").encode(text, special_tokens::as_text));
}

TEST(tokenizer, takes_a_word_that_is_a_token_before_merging_only_where_the_file_says_so) {
  json file = tokenizer_json("llama3");
  file["model"]["merges"] = json::array();
  ASSERT_TRUE(file["model"]["vocab"].contains("the"));
  const written_file whole_words(file.dump());
  EXPECT_EQ(tokenizer::load_file(whole_words.path()).encode("the", special_tokens::as_text).size(), 1u);
  file["model"]["ignore_merges"] = false;
  const written_file letters(file.dump());
  EXPECT_EQ(tokenizer::load_file(letters.path()).encode("the", special_tokens::as_text).size(), 3u);
}

TEST(tokenizer, refuses_what_is_no_readable_json_and_says_where) {
  EXPECT_THROW(tokenizer::load_file("/nowhere/tokenizer.json"), fault);
  EXPECT_THROW(tokenizer::load_file(std::filesystem::temp_directory_path()), fault);
  EXPECT_NE(refusal("").where().find(".json:1:1"), std::string::npos);
  EXPECT_NE(refusal("{\n  \"model\": tru\n}").where().find(".json:2:"), std::string::npos);
  EXPECT_NE(refusal("{\"model\": \"\xFF\"}").reason().find("not JSON"), std::string::npos);
  EXPECT_NE(refusal("{\"model\": 1e999}").reason().find("not JSON"), std::string::npos);
  EXPECT_NE(refusal("[1, 2]").reason().find("expected an object, found array"), std::string::npos);
  EXPECT_NE(refusal("{}").reason().find("'model' is missing"), std::string::npos);
}

struct refused_change {
  const char* pointer;  // what is changed
  const char* value;    // to what; empty: removed
  const char* key;      // what the fault names
  const char* reason;
};

void expect_refusals(const std::string& name, std::span<const refused_change> examples) {
  const json original = tokenizer_json(name);
  for (const refused_change& e : examples) {
    const json::json_pointer pointer(e.pointer);
    json changed = original;
    if (std::string(e.value).empty()) {
      changed[pointer.parent_pointer()].erase(pointer.back());
    } else {
      changed[pointer] = json::parse(e.value);
    }
    const fault f = refusal(changed.dump());
    const std::string place = *e.key == '\0' ? ".json" : std::string(".json: ") + e.key;
    EXPECT_NE(f.where().find(place), std::string::npos) << e.pointer << ": " << f.what();
    EXPECT_NE(f.reason().find(e.reason), std::string::npos) << e.pointer << ": " << f.what();
  }
}

TEST(tokenizer, refuses_by_key_what_is_malformed_or_unsupported) {
  const refused_change examples[] = {
      {"/model/type", R"("Unigram")", "model.type", "'Unigram'"},
      {"/model/vocab", "[]", "model.vocab", "expected an object"},
      {"/model/vocab", "", "model", "'vocab' is missing"},
      {"/model/vocab/a", R"("7")", "model.vocab['a']", "expected a token id"},
      {"/model/vocab/a", "-1", "model.vocab['a']", "expected a token id"},
      {"/model/vocab/a", "4000000000", "model.vocab['a']", "expected a token id"},
      {"/model/vocab/a", "1.5", "model.vocab['a']", "expected a token id"},
      {"/model/vocab/a", "", "model.vocab", "no token for the byte 97"},
      {"/model/vocab/a", "3", "model.vocab['", "belongs to another token"},
      {"/model/merges", "{}", "model.merges", "expected an array"},
      {"/model/merges/1", R"("ab")", "model.merges[1]", "expected two tokens"},
      {"/model/merges/1", R"(["a"])", "model.merges[1]", "expected two tokens"},
      {"/model/merges/1", R"(["a", 3])", "model.merges[1]", "expected two tokens"},
      {"/model/merges/1", R"(["a", "no such token"])", "model.merges[1]", "'no such token' is not in model.vocab"},
      {"/model/merges/1", R"("~ ~")", "model.merges[1]", "'~~' is not in model.vocab"},
      {"/model/dropout", "0.1", "model.dropout", "random merges"},
      {"/model/byte_fallback", "true", "model.vocab", "byte fallback needs all 256"},
      {"/model/ignore_merges", "3", "model.ignore_merges", "expected true or false"},
      {"/model/end_of_word_suffix", R"("</w>")", "model.end_of_word_suffix", "not supported"},
      {"/model/continuing_subword_prefix", R"("##")", "model.continuing_subword_prefix", "not supported"},
      {"/normalizer", R"({"type": "Lowercase"})", "normalizer", "'Lowercase'"},
      {"/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "NFKC"}]})", "normalizer.normalizers[0]",
       "'NFKC'"},
      {"/pre_tokenizer", "null", "", "'pre_tokenizer' is missing"},
      {"/pre_tokenizer", R"({"type": "Metaspace"})", "pre_tokenizer", "'Metaspace'"},
      {"/pre_tokenizer/pretokenizers", "[]", "pre_tokenizer", "no ByteLevel step"},
      {"/pre_tokenizer/pretokenizers/0/type", R"("Digits")", "pre_tokenizer.pretokenizers[0]", "'Digits'"},
      {"/pre_tokenizer/pretokenizers/0/behavior", R"("Removed")", "pre_tokenizer.pretokenizers[0].behavior",
       "'Removed'"},
      {"/pre_tokenizer/pretokenizers/0/invert", "true", "pre_tokenizer.pretokenizers[0].invert", "expected false"},
      {"/pre_tokenizer/pretokenizers/0/pattern", R"({"String": " "})", "pre_tokenizer.pretokenizers[0].pattern",
       "'Regex'"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", R"("(a")", "pre_tokenizer.pretokenizers[0].pattern.Regex",
       "no regular expression"},
      {"/pre_tokenizer/pretokenizers/1/add_prefix_space", "true", "pre_tokenizer.pretokenizers[1].add_prefix_space",
       "expected false"},
      {"/pre_tokenizer/pretokenizers/2", R"({"type": "Punctuation"})", "pre_tokenizer.pretokenizers[2]",
       "after ByteLevel"},
      {"/decoder", R"({"type": "WordPiece"})", "decoder", "'WordPiece'"},
      {"/decoder", "null", "", "'decoder' is missing"},
      {"/added_tokens/0/content", R"("")", "added_tokens[0]", "empty"},
      {"/added_tokens/0/content", "", "added_tokens[0]", "'content' is missing"},
      {"/added_tokens/1/content", R"("<|endoftext|>")", "added_tokens[1]", "given twice"},
      {"/added_tokens/0/id", "5", "added_tokens[0]", "belongs to another token"},
      {"/added_tokens/0/content", R"("the")", "added_tokens[0]", "in the vocabulary"},
      {"/added_tokens/0/lstrip", "3", "added_tokens[0].lstrip", "expected true or false"},
      {"/added_tokens/0/normalized", "true", "added_tokens[0].normalized", "together with a normalizer"},
  };
  expect_refusals("qwen2", examples);
}

TEST(tokenizer, refuses_by_key_what_is_unsupported_with_byte_fallback) {
  const refused_change examples[] = {
      {"/model/vocab/<0x41>", "", "model.vocab", "no token for the byte 65"},
      {"/model/ignore_merges", "true", "model.ignore_merges", "byte fallback"},
      {"/model/byte_fallback", "false", "model.vocab", "no token for the byte"},
      {"/model/merges/0", R"(["<0x41>", "e"])", "model.merges[0]", "stands for a byte"},
      {"/normalizer/normalizers/0/type", R"("NFKC")", "normalizer.normalizers[0]", "'NFKC'"},
      {"/normalizer/normalizers/0/prepend", R"("x")", "normalizer.normalizers[0].prepend", "found \"x\""},
      {"/normalizer/normalizers/1/pattern", R"({"Regex": " "})", "normalizer.normalizers[1].pattern", "'String'"},
      {"/normalizer/normalizers/1/pattern/String", R"("x")", "normalizer.normalizers[1].pattern.String", "found \"x\""},
      {"/normalizer/normalizers/1/content", R"("x")", "normalizer.normalizers[1].content", "found \"x\""},
      {"/normalizer", "null", "", "nothing writes spaces"},
      {"/pre_tokenizer", R"({"type": "ByteLevel"})", "pre_tokenizer", "'ByteLevel'"},
      {"/pre_tokenizer", R"({"type": "Metaspace"})", "pre_tokenizer", "after a normalizer"},
      {"/added_tokens/3", R"({"id": 1500, "content": "xyzzy", "special": false, "normalized": true})",
       "added_tokens[3].normalized", "put in front"},
      {"/decoder/decoders/1/type", R"("Strip")", "decoder", "ByteFallback"},
      {"/decoder/decoders/0/content", R"("_")", "decoder.decoders[0].content", "found \"_\""},
      {"/decoder/decoders/3/start", "2", "decoder.decoders[3].start", "expected 1"},
      {"/decoder/decoders/3/stop", "2", "decoder.decoders[3].stop", "expected 0"},
      {"/decoder/decoders/3/content", R"("x")", "decoder.decoders[3].content", "found \"x\""},
      {"/decoder", R"({"type": "ByteLevel"})", "decoder", "unsupported decoder"},
  };
  expect_refusals("llama2", examples);
}

TEST(tokenizer, refuses_a_metaspace_that_cuts_words_or_that_it_does_not_know) {
  const auto refused = [](const char* key, const json& value) {
    json file = tokenizer_json("llama2");
    file["normalizer"] = nullptr;
    file["pre_tokenizer"] = {
        {"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "first"}, {"split", false}};
    file["pre_tokenizer"][key] = value;
    return std::string(refusal(file.dump()).what());
  };
  EXPECT_NE(refused("split", true).find("pre_tokenizer: words that are cut at spaces"), std::string::npos);
  EXPECT_NE(refused("prepend_scheme", "often").find("pre_tokenizer.prepend_scheme"), std::string::npos);
  EXPECT_NE(refused("replacement", "_").find("pre_tokenizer.replacement"), std::string::npos);
}

TEST(tokenizer, puts_a_space_in_front_of_a_text_as_its_file_says) {
  const auto starts_with_space = [](const tokenizer& t, const std::string& text, text_place place) {
    const ids encoded = t.encode(text, special_tokens::parsed, place);
    return t.token_bytes(encoded.at(0)).starts_with(' ');
  };
  for (const std::string name : {"llama2.model", "llama2.json"}) {
    const tokenizer& t = fixture_tokenizer(name);
    EXPECT_TRUE(starts_with_space(t, "the", text_place::start)) << name;
    EXPECT_TRUE(starts_with_space(t, "the", text_place::after_special_token)) << name;
    EXPECT_FALSE(starts_with_space(t, "the", text_place::after_text)) << name;
  }
  const tokenizer& first = fixture_tokenizer("metaspace");
  EXPECT_TRUE(starts_with_space(first, "the", text_place::start));
  EXPECT_FALSE(starts_with_space(first, "the", text_place::after_special_token));
  const tokenizer always = metaspace_tokenizer("always");
  EXPECT_TRUE(starts_with_space(always, "the", text_place::after_special_token));
  EXPECT_EQ(always.encode(" the", special_tokens::parsed), always.encode("the", special_tokens::parsed));
  EXPECT_FALSE(starts_with_space(metaspace_tokenizer("never"), "the", text_place::start));
  EXPECT_FALSE(starts_with_space(fixture_tokenizer("yi.model"), "the", text_place::start));
}

TEST(tokenizer, takes_the_json_of_a_model_or_else_its_sentencepiece_file) {
  const temporary_directory model;
  EXPECT_THROW(tokenizer::load(model.path()), fault);
  std::filesystem::copy_file(tokenizer_path("yi.model"), model.path() / "tokenizer.model");
  EXPECT_EQ(tokenizer::load(model.path()).source().filename(), "tokenizer.model");
  std::filesystem::copy_file(tokenizer_path("qwen2"), model.path() / "tokenizer.json");
  EXPECT_EQ(tokenizer::load(model.path()).source().filename(), "tokenizer.json");

  json unigram = tokenizer_json("qwen2");
  unigram["model"]["type"] = "Unigram";
  model.write("tokenizer.json", unigram.dump());
  EXPECT_EQ(tokenizer::load(model.path()).source().filename(), "tokenizer.model");
  model.write("tokenizer.model", "broken");
  try {
    static_cast<void>(tokenizer::load(model.path()));
    FAIL() << "loaded";
  } catch (const fault& f) {
    EXPECT_NE(std::string(f.what()).find("tokenizer.json: model.type"), std::string::npos) << f.what();
    EXPECT_NE(f.reason().find("tokenizer.model: not a SentencePiece model"), std::string::npos) << f.what();
  }
}

TEST(tokenizer, is_not_brought_down_by_deep_nesting) {
  const std::size_t depth = 200'000;
  json file = tokenizer_json("gpt2");
  file["model"]["merges"] = "@";
  std::string text = file.dump();
  text.replace(text.find("\"@\""), 3, std::string(depth, '[') + std::string(depth, ']'));
  refusal(text);
}

// Loads it, or refuses it with a message; nothing else may happen.
void load_or_refuse(const std::string& content) {
  const written_file file(content);
  try {
    const tokenizer t = tokenizer::load_file(file.path());
    static_cast<void>(t.encode("Some text,\n 123 of it <|im_end|>", special_tokens::parsed));
  } catch (const fault& f) {
    RC_ASSERT(f.code() == fault_code::bad_input);
    RC_ASSERT(!f.reason().empty());
  }
}

RC_GTEST_PROP(tokenizer, loads_or_refuses_a_file_with_damaged_bytes, ()) {
  static const std::string original = tokenizer_json("qwen2").dump();
  std::string damaged = original;
  const auto places = *rc::gen::container<std::vector<std::size_t>>(rc::gen::inRange<std::size_t>(0, original.size()));
  for (const std::size_t place : places) damaged[place] = *rc::gen::arbitrary<char>();
  if (*rc::gen::arbitrary<bool>()) damaged.resize(*rc::gen::inRange<std::size_t>(0, original.size()));
  load_or_refuse(damaged);
}

RC_GTEST_PROP(tokenizer, loads_or_refuses_a_file_with_a_value_replaced, ()) {
  static const json original = tokenizer_json("qwen2");
  static const std::vector<std::string> places = [] {
    std::vector<std::string> all;  // every value outside the vocabulary, a few inside
    const json flat = original.flatten();
    for (const auto& [pointer, value] : flat.items()) {
      const bool listed = pointer.starts_with("/model/vocab") || pointer.starts_with("/model/merges");
      if (!listed || pointer.ends_with("77")) all.push_back(pointer);
    }
    return all;
  }();
  json changed = original;
  json::json_pointer place(*rc::gen::elementOf(places));
  for (int up = *rc::gen::inRange(0, 3); up > 0 && !place.empty(); --up) place = place.parent_pointer();
  changed[place] = *rc::gen::element<json>(nullptr, true, -1, 3, 1e300, "", "x", "(?:(a+)+)+b", json::array(),
                                           json::object(), json::array({1, "a", nullptr}), json{{"type", "Sequence"}});
  load_or_refuse(changed.dump());
}

}  // namespace
}  // namespace baton
