#include "runtime/model/sentencepiece_file.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/fault.hpp"
#include "runtime/model/sentence_pieces.hpp"
#include "runtime/model/sentencepiece_model.pb.h"
#include "runtime/model/utf8.hpp"

namespace baton {
namespace {

using proto_model = sentencepiece::Model;
using proto_piece = sentencepiece::Piece;

constexpr int pieces_max = 1 << 21;
constexpr std::size_t piece_bytes_max = 1 << 12;  // the splits of a piece are all listed

class reader {
 public:
  reader(const proto_model& model, std::string file) : model_(model), where_(std::move(file)) {}

  tokenizer_file run() {
    require_supported();
    file_.bpe.byte_ids.fill(-1);
    file_.bpe.characters.emplace();
    for (int id = 0; id < model_.pieces_size(); ++id) read_piece(id);
    require_bytes_and_unknown();
    read_merges();
    read_rules();
    return std::move(file_);
  }

 private:
  [[noreturn]] void refuse(const std::string& field, const std::string& what) const {
    throw fault(fault_code::bad_input, what, where_ + ": " + field);
  }

  void require_supported() const {
    const auto& training = model_.training();
    if (model_.pieces_size() == 0 || model_.pieces_size() > pieces_max) {
      refuse("pieces",
             "expected 1 to " + std::to_string(pieces_max) + " pieces, found " + std::to_string(model_.pieces_size()));
    }
    if (training.algorithm() != sentencepiece::Training::ALGORITHM_BPE) {
      static constexpr const char* names[] = {"unigram", "bpe", "word", "char"};
      refuse("trainer_spec.model_type",
             std::string("unsupported model '") + names[training.algorithm() - 1] + "'; expected bpe");
    }
    if (!training.byte_fallback()) refuse("trainer_spec.byte_fallback", "models without it are not supported");
    if (training.space_as_suffix()) refuse("trainer_spec.treat_whitespace_as_suffix", "not supported; expected false");
    if (!model_.normalization().write_spaces()) {
      refuse("normalizer_spec.escape_whitespaces", "not supported; expected true");
    }
    if (!model_.denormalization().character_map().empty()) {
      refuse("denormalizer_spec.precompiled_charsmap", "not supported; expected none");
    }
  }

  static std::string field_of(int id) { return "pieces[" + std::to_string(id) + "]"; }

  void read_piece(int id) {
    const proto_piece& piece = model_.pieces(id);
    const std::string& text = piece.text();
    if (text.empty()) refuse(field_of(id), "the piece is empty");
    if (text.size() > piece_bytes_max) refuse(field_of(id), "the piece has more than 4096 bytes");
    try {
      require_utf8(text, "piece");
    } catch (const fault& broken) {
      refuse(field_of(id), broken.reason());
    }
    if (!seen_.emplace(text, id).second) refuse(field_of(id), "the piece '" + text + "' is given twice");
    token entry{with_spaces(text), false};
    switch (piece.kind()) {
      case proto_piece::KIND_NORMAL: add_word_piece(entry, id, text); break;
      case proto_piece::KIND_UNKNOWN:
        if (std::exchange(unknown_, id) >= 0) refuse(field_of(id), "a second piece for unknown characters");
        entry.bytes = model_.training().unknown_text();
        if (entry.bytes.empty()) refuse("trainer_spec.unk_surface", "is empty");
        break;
      case proto_piece::KIND_CONTROL: file_.added_tokens.push_back({.content = text, .id = id, .special = true}); break;
      case proto_piece::KIND_USER_DEFINED:
        if (text.size() > 2 && text.front() == '<' && text.back() == '>') {
          file_.added_tokens.push_back({.content = text, .id = id, .special = true});
        } else {
          add_word_piece(entry, id, text);
          kept_.push_back({.content = text, .id = id, .special = false});
          file_.bpe.unmergeable.push_back({.content = entry.bytes, .id = id, .special = false});
        }
        break;
      case proto_piece::KIND_UNUSED: refuse(field_of(id), "unused pieces are not supported");
      case proto_piece::KIND_BYTE:
        const auto byte = byte_of_piece(text);
        if (!byte) refuse(field_of(id), "the piece '" + text + "' is no byte; expected <0x00> to <0xFF>");
        entry.bytes.assign(1, static_cast<char>(*byte));
        file_.bpe.byte_ids[*byte] = id;
        break;
    }
    file_.tokens.push_back(std::move(entry));
  }

  // Where spaces are written as U+2581, a piece with a space in it occurs in no text.
  void add_word_piece(token& entry, int id, const std::string& text) {
    if (text.find(' ') != std::string::npos) return;
    if (!std::isfinite(model_.pieces(id).score())) refuse(field_of(id), "the score is no number");
    entry.in_words = true;
    words_.emplace(entry.bytes, id);
    const utf8_character first = first_character(entry.bytes);
    if (first.bytes == entry.bytes.size()) file_.bpe.characters->emplace(first.value, id);
  }

  void require_bytes_and_unknown() const {
    if (unknown_ < 0) refuse("pieces", "no piece for unknown characters");
    for (std::size_t byte = 0; byte < file_.bpe.byte_ids.size(); ++byte) {
      if (file_.bpe.byte_ids[byte] < 0) {
        refuse("pieces", "no piece for the byte " + std::to_string(byte) + "; byte fallback needs all 256");
      }
    }
  }

  // SentencePiece joins any two neighbours that make a piece, the one with the highest score first. So each way to cut a
  // piece into two symbols is a merge.
  void read_merges() {
    std::vector<float> scores;
    for (const auto& [text, id] : words_) scores.push_back(model_.pieces(id).score());
    std::ranges::sort(scores, std::greater());
    for (const auto& [text, id] : words_) {
      const auto rank = static_cast<std::int32_t>(
          std::ranges::lower_bound(scores, model_.pieces(id).score(), std::greater()) - scores.begin());
      for (std::size_t cut = first_character(text).bytes; cut < text.size();
           cut += first_character(std::string_view(text).substr(cut)).bytes) {
        const std::int32_t left = symbol_of(std::string_view(text).substr(0, cut));
        const std::int32_t right = symbol_of(std::string_view(text).substr(cut));
        if (left >= 0 && right >= 0) file_.bpe.merges.push_back({left, right, id, rank});
      }
    }
  }

  // A piece, or a character that is none by itself; -1 for other text, which nothing is merged to.
  std::int32_t symbol_of(std::string_view text) {
    if (const auto found = words_.find(std::string(text)); found != words_.end()) return found->second;
    const utf8_character first = first_character(text);
    if (first.bytes != text.size()) return -1;
    const auto next = static_cast<std::int32_t>(file_.tokens.size()) + without_piece_;
    const auto [place, is_new] = file_.bpe.characters->emplace(first.value, next);
    if (is_new) ++without_piece_;
    return place->second;
  }

  void read_rules() {
    const auto& normalization = model_.normalization();
    sentence_rules rules;
    if (normalization.space_before()) rules.space_before = sentence_rules::prefix::everywhere;
    rules.remove_extra_spaces = normalization.remove_extra_spaces();
    rules.kept = kept_;
    if (const std::string& map = normalization.character_map(); !map.empty()) read_character_map(map, rules);
    file_.decoding.sentence_pieces = true;
    file_.decoding.at_start = rules.remove_extra_spaces      ? decoding_rules::space::all_removed
                              : normalization.space_before() ? decoding_rules::space::one_removed
                                                             : decoding_rules::space::kept;
    file_.words = std::move(rules);
  }

  // The size of a trie in bytes (little endian, 32 bits), the trie, and what its values point to.
  void read_character_map(const std::string& map, sentence_rules& rules) const {
    const std::string field = "normalizer_spec.precompiled_charsmap";
    static_assert(std::endian::native == std::endian::little);
    std::uint32_t trie_bytes = 0;
    if (map.size() < sizeof trie_bytes) refuse(field, "is cut short");
    std::memcpy(&trie_bytes, map.data(), sizeof trie_bytes);
    if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > map.size() - sizeof trie_bytes) {
      refuse(field,
             "its trie of " + std::to_string(trie_bytes) + " bytes does not fit its " + std::to_string(map.size()));
    }
    rules.character_trie.resize(trie_bytes / 4);
    std::memcpy(rules.character_trie.data(), map.data() + sizeof trie_bytes, trie_bytes);
    rules.replacements = map.substr(sizeof trie_bytes + trie_bytes);
  }

  const proto_model& model_;
  std::string where_;
  tokenizer_file file_;
  std::unordered_map<std::string_view, int> seen_;
  std::unordered_map<std::string, std::int32_t> words_;  // with spaces
  std::vector<added_token> kept_;
  std::int32_t unknown_ = -1;
  std::int32_t without_piece_ = 0;  // characters
};

}  // namespace

tokenizer_file read_sentencepiece_file(const std::filesystem::path& path) {
  const std::string file = path.string();
  std::ifstream stream(path, std::ios::binary);
  if (std::filesystem::is_directory(path) || !stream) {
    throw fault(fault_code::bad_input, "cannot be read as a file; expected a SentencePiece tokenizer.model", file);
  }
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  proto_model model;
  if (!model.ParseFromString(bytes)) {
    throw fault(fault_code::bad_input, "not a SentencePiece model: it cannot be read as Protocol Buffers", file);
  }
  return reader(model, file).run();
}

}  // namespace baton
