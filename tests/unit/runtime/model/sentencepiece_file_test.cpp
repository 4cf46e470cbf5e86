#include "runtime/model/sentencepiece_file.hpp"

#include <algorithm>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "runtime/model/sentencepiece_model.pb.h"
#include "runtime/model/tokenizer.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/tokenizer_fixtures.hpp"

namespace baton {
namespace {

using sentencepiece::Model;
using sentencepiece::Piece;
using ids = std::vector<std::int32_t>;

std::string bytes_of(const std::string& name) {
  std::ifstream file(tokenizer_path(name), std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Model model_of(const std::string& name) {
  Model model;
  EXPECT_TRUE(model.ParseFromString(bytes_of(name)));
  return model;
}

tokenizer load(const Model& model) {
  const temporary_directory directory;
  return tokenizer::load_file(directory.write("tokenizer.model", model.SerializeAsString()));
}

// The fault's place behind the file's name, and its reason.
std::pair<std::string, std::string> refusal(const std::function<void(Model&)>& change) {
  Model model = model_of("yi.model");
  change(model);
  try {
    static_cast<void>(load(model));
  } catch (const fault& f) {
    EXPECT_EQ(f.code(), fault_code::bad_input);
    const std::string file = "tokenizer.model";
    return {f.where().substr(f.where().find(file) + file.size()), f.reason()};
  }
  return {"loaded", "loaded"};
}

TEST(sentencepiece_file, refuses_by_field_what_is_malformed_or_unsupported) {
  constexpr int letter = 300;  // a piece of text, behind bytes and markers
  ASSERT_EQ(model_of("yi.model").pieces(letter).kind(), Piece::KIND_NORMAL);
  struct example {
    std::function<void(Model&)> change;
    const char* field;
    const char* reason;
  };
  const example examples[] = {
      {[](Model& m) { m.mutable_training()->clear_algorithm(); }, ": trainer_spec.model_type", "'unigram'"},
      {[](Model& m) { m.mutable_training()->set_byte_fallback(false); }, ": trainer_spec.byte_fallback",
       "not supported"},
      {[](Model& m) { m.mutable_training()->set_space_as_suffix(true); }, ": trainer_spec.treat_whitespace_as_suffix",
       "not supported"},
      {[](Model& m) { m.mutable_training()->set_unknown_text(""); }, ": trainer_spec.unk_surface", "empty"},
      {[](Model& m) { m.mutable_normalization()->set_write_spaces(false); }, ": normalizer_spec.escape_whitespaces",
       "expected true"},
      {[](Model& m) { m.mutable_denormalization()->set_character_map("xxxx"); },
       ": denormalizer_spec.precompiled_charsmap", "not supported"},
      {[](Model& m) { m.mutable_normalization()->set_character_map("xx"); }, ": normalizer_spec.precompiled_charsmap",
       "cut short"},
      {[](Model& m) { m.mutable_normalization()->set_character_map(std::string("\x08\0\0\0xxxx", 8)); },
       ": normalizer_spec.precompiled_charsmap", "does not fit"},
      {[](Model& m) { m.clear_pieces(); }, ": pieces", "found 0"},
      {[](Model& m) { m.mutable_pieces(letter)->set_text(""); }, ": pieces[300]", "empty"},
      {[](Model& m) { m.mutable_pieces(letter)->set_text("\xFF"); }, ": pieces[300]", "not UTF-8"},
      {[](Model& m) { m.mutable_pieces(letter)->set_text(std::string(5000, 'a')); }, ": pieces[300]", "4096"},
      {[](Model& m) { *m.mutable_pieces(letter) = m.pieces(letter + 1); }, ": pieces[301]", "given twice"},
      {[](Model& m) { m.mutable_pieces(letter)->set_score(std::numeric_limits<float>::quiet_NaN()); }, ": pieces[300]",
       "score"},
      {[](Model& m) { m.mutable_pieces(letter)->set_kind(Piece::KIND_UNUSED); }, ": pieces[300]", "unused"},
      {[](Model& m) { m.mutable_pieces(letter)->set_kind(Piece::KIND_BYTE); }, ": pieces[300]", "no byte"},
      {[](Model& m) { m.mutable_pieces(letter)->set_kind(Piece::KIND_UNKNOWN); }, ": pieces[300]", "second piece"},
      {[](Model& m) { m.mutable_pieces(0)->set_kind(Piece::KIND_CONTROL); }, ": pieces", "unknown characters"},
      {[](Model& m) {
         const auto byte = std::ranges::find(*m.mutable_pieces(), "<0x41>", &Piece::text);
         byte->set_kind(Piece::KIND_CONTROL);
       },
       ": pieces", "no piece for the byte 65"},
  };
  for (const example& e : examples) {
    const auto [field, reason] = refusal(e.change);
    EXPECT_EQ(field, e.field) << reason;
    EXPECT_NE(reason.find(e.reason), std::string::npos) << reason;
  }
}

TEST(sentencepiece_file, refuses_what_is_no_model) {
  EXPECT_THROW(tokenizer::load_file("/nowhere/tokenizer.model"), fault);
  const temporary_directory directory;
  EXPECT_THROW(tokenizer::load_file(directory.write("a.model", "")), fault);
  EXPECT_THROW(tokenizer::load_file(directory.write("b.model", "{\"model\": {}}")), fault);
  std::filesystem::create_directory(directory.path() / "c.model");
  EXPECT_THROW(tokenizer::load_file(directory.path() / "c.model"), fault);
}

TEST(sentencepiece_file, takes_markers_in_a_document_for_text) {
  const tokenizer& t = fixture_tokenizer("yi.model");
  for (const std::string marker : {"<s>", "</s>", "<|im_start|>", "<|im_end|>", "<fim_prefix>"}) {
    const std::int32_t id = t.id_of(marker).value();
    EXPECT_TRUE(t.is_special(id)) << marker;
    const ids as_text = t.encode("a" + marker + "b", special_tokens::as_text);
    EXPECT_EQ(std::count(as_text.begin(), as_text.end(), id), 0) << marker;
    EXPECT_EQ(t.decode(as_text), "a" + marker + "b");
    const ids parsed = t.encode("a" + marker + "b", special_tokens::parsed);
    EXPECT_EQ(std::count(parsed.begin(), parsed.end(), id), 1) << marker;
    EXPECT_EQ(t.decode(parsed), "ab");
  }
  EXPECT_EQ(t.id_of("<unk>"), std::nullopt);
  EXPECT_EQ(t.id_of("<0x41>"), std::nullopt);
}

TEST(sentencepiece_file, gives_the_ids_of_the_converted_json) {
  for (const std::string name : {"llama2", "yi"}) {
    const tokenizer& model = fixture_tokenizer(name + ".model");
    const tokenizer& json = fixture_tokenizer(name + ".json");
    for (const auto& record : fixture_lines("lines.jsonl")) {
      const auto text = record.at("text").get<std::string>();
      for (const auto treatment : {special_tokens::as_text, special_tokens::parsed}) {
        EXPECT_EQ(model.encode(text, treatment), json.encode(text, treatment)) << name << ": " << record.at("text");
      }
    }
  }
}

}  // namespace
}  // namespace baton
