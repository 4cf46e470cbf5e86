#include "runtime/model/tokenizer_file.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <nlohmann/json.hpp>

#include "kernels/fault.hpp"
#include "runtime/model/json_node.hpp"
#include "runtime/model/sentence_pieces.hpp"
#include "runtime/model/utf8.hpp"

namespace baton {
namespace {

using nlohmann::json;
using node = json_node;

// The pattern of the ByteLevel pre-tokenizer itself (GPT-2).
constexpr std::string_view byte_level_regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Byte-level vocabularies write a byte as a printable character: itself where it is one, else U+0100 and upwards in order.
std::array<std::int16_t, 324> bytes_of_characters() {
  std::array<std::int16_t, 324> bytes{};
  bytes.fill(-1);
  std::size_t next = 256;
  for (std::int16_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    bytes[printable ? static_cast<std::size_t>(byte) : next++] = byte;
  }
  return bytes;
}

// Nothing where a character stands for no byte. The JSON parser has made sure of UTF-8, so only its two-byte forms are read.
std::optional<std::string> bytes_of_token(std::string_view written) {
  static const auto bytes = bytes_of_characters();
  std::string result;
  for (std::size_t i = 0; i < written.size(); ++i) {
    auto character = static_cast<std::size_t>(static_cast<unsigned char>(written[i]));
    if (character >= 0x80) {
      if (character >= 0xE0) return std::nullopt;
      character = (character & 0x1F) << 6 | (static_cast<unsigned char>(written[++i]) & 0x3Fu);
    }
    if (character >= bytes.size() || bytes[character] < 0) return std::nullopt;
    result += static_cast<char>(bytes[character]);
  }
  return result;
}

class reader {
 public:
  reader(const json& document, const std::string& file) : root_(document, "", file) {}

  tokenizer_file run() {
    const node model = root_.at("model");
    read_model(model);
    if (sentence_pieces_) {
      read_pieces(model.at("vocab"));
    } else {
      read_byte_level_tokens(model.at("vocab"));
    }
    read_merges(model.at("merges"));
    if (const auto added = root_.find("added_tokens")) read_added_tokens(*added);
    sentence_pieces_ ? read_sentence_steps() : read_byte_level_steps();
    return std::move(file_);
  }

 private:
  void read_model(const node& model) {
    if (const auto type = model.find("type"); type && type->string() != "BPE") {
      type->refuse("unsupported model '" + type->string() + "'; expected BPE");
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (const auto affix = model.find(key); affix && !affix->string().empty()) {
        affix->refuse("not supported; expected null");
      }
    }
    if (const auto dropout = model.find("dropout"); dropout && dropout->value() != 0.0) {
      dropout->refuse("random merges are not supported; expected null");
    }
    sentence_pieces_ = model.flag("byte_fallback", false);
    file_.bpe.whole_words_first = model.flag("ignore_merges", false);
    if (sentence_pieces_ && file_.bpe.whole_words_first) {
      model.at("ignore_merges").refuse("not supported together with byte fallback; expected false");
    }
    read_vocabulary(model.at("vocab"));
  }

  void read_vocabulary(const node& vocabulary) {
    if (!vocabulary.value().is_object()) vocabulary.refuse("expected an object of tokens and their ids");
    ids_.reserve(vocabulary.value().size());
    for (const auto& [written, value] : vocabulary.value().items()) {
      const node entry = vocabulary.child(value, "['" + written + "']");
      const std::int32_t id = entry.token_id();
      token& slot = slot_of(id);
      if (!slot.bytes.empty()) entry.refuse("the id " + std::to_string(id) + " belongs to another token as well");
      slot.bytes = written;
      ids_.emplace(written, id);
    }
    file_.bpe.byte_ids.fill(-1);
  }

  void read_byte_level_tokens(const node& vocabulary) {
    for (const auto& [written, id] : ids_) {
      // A token that no bytes spell stands for its own text.
      const auto bytes = bytes_of_token(written);
      if (!bytes) continue;
      slot_of(id) = {*bytes, true};
      if (bytes->size() == 1) file_.bpe.byte_ids[static_cast<unsigned char>(bytes->front())] = id;
    }
    require_all_bytes(vocabulary, "byte-level BPE needs all 256");
  }

  void read_pieces(const node& vocabulary) {
    auto& characters = file_.bpe.characters.emplace();
    for (const auto& [written, id] : ids_) {
      if (const auto byte = byte_of_piece(written)) {
        slot_of(id) = {std::string(1, static_cast<char>(*byte)), false};
        file_.bpe.byte_ids[*byte] = id;
        continue;
      }
      // Where spaces are written as U+2581, a piece with a space in it occurs in no text.
      token& slot = slot_of(id);
      slot = {with_spaces(written), written.find(' ') == std::string::npos};
      if (!slot.in_words || slot.bytes.empty()) continue;
      const utf8_character first = first_character(slot.bytes);
      if (first.bytes == slot.bytes.size()) characters.emplace(first.value, id);
    }
    require_all_bytes(vocabulary, "byte fallback needs all 256, as <0x00> to <0xFF>");
  }

  void require_all_bytes(const node& vocabulary, const std::string& reason) const {
    for (std::size_t byte = 0; byte < file_.bpe.byte_ids.size(); ++byte) {
      if (file_.bpe.byte_ids[byte] < 0)
        vocabulary.refuse("no token for the byte " + std::to_string(byte) + "; " + reason);
    }
  }

  void read_merges(const node& merges) {
    const std::size_t count = merges.array_size();
    file_.bpe.merges.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      const json& entry = merges.value()[i];
      std::string left, right;
      if (entry.is_string()) {
        const auto& both = entry.get_ref<const std::string&>();
        const std::size_t space = both.find(' ');
        left = both.substr(0, space);
        right = space == std::string::npos ? "" : both.substr(space + 1);
      } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
        left = entry[0].get_ref<const std::string&>();
        right = entry[1].get_ref<const std::string&>();
      }
      if (left.empty() || right.empty()) {
        merges.at(i).refuse("expected two tokens, as [\"a\", \"b\"] or \"a b\", found " + brief(entry));
      }
      file_.bpe.merges.push_back({id_in(merges, i, left), id_in(merges, i, right), id_in(merges, i, left + right),
                                  static_cast<std::int32_t>(i)});
    }
  }

  void read_added_tokens(const node& added) {
    const std::size_t count = added.array_size();
    std::unordered_map<std::string_view, std::int32_t> seen;
    for (std::size_t i = 0; i < count; ++i) {
      const node entry = added.at(i);
      const std::string& content = entry.at("content").string();
      const std::int32_t id = entry.at("id").token_id();
      if (content.empty()) entry.refuse("the content is empty");
      if (!seen.emplace(content, id).second) entry.refuse("the token '" + content + "' is given twice");

      const auto in_model = ids_.find(content);
      token& slot = slot_of(id);
      if (in_model != ids_.end() ? in_model->second != id : !slot.bytes.empty()) {
        entry.refuse("the token '" + content + "' has the id " + std::to_string(id) + ", " +
                     (in_model != ids_.end() ? "but " + std::to_string(in_model->second) + " in the vocabulary"
                                             : "which belongs to another token as well"));
      }
      if (in_model == ids_.end()) slot = {sentence_pieces_ ? with_spaces(content) : content, false};
      const added_token token{.content = content,
                              .id = id,
                              .special = entry.flag("special", false),
                              .takes_left_space = entry.flag("lstrip", false),
                              .takes_right_space = entry.flag("rstrip", false),
                              .whole_word = entry.flag("single_word", false)};
      if (entry.flag("normalized", false)) {
        normalized_tokens_.push_back(token);
        normalized_entries_.push_back(entry);
      } else {
        file_.added_tokens.push_back(token);
      }
    }
  }

  void read_byte_level_steps() {
    byte_level_rules rules;
    if (const auto normalizer = root_.find("normalizer")) {
      for (const node& step : steps_of(*normalizer, "normalizers")) {
        const std::string& type = step.at("type").string();
        if (type != "NFC") step.refuse("unsupported normalizer '" + type + "'; expected null or NFC");
        rules.normalize_nfc = true;
      }
    }
    for (std::size_t i = 0; i < normalized_tokens_.size(); ++i) {
      // Where nothing is normalized it makes no difference.
      if (rules.normalize_nfc && normalized_tokens_[i].special) {
        normalized_entries_[i].at("normalized").refuse("not supported for a special token together with a normalizer");
      }
      (rules.normalize_nfc ? rules.normalized_tokens : file_.added_tokens).push_back(normalized_tokens_[i]);
    }
    const node pre_tokenizer = root_.at("pre_tokenizer");
    for (const node& step : steps_of(pre_tokenizer, "pretokenizers")) read_split(step, rules);
    if (!byte_level_)
      pre_tokenizer.refuse("has no ByteLevel step; without byte fallback only byte-level BPE is supported");
    const node decoder = root_.at("decoder");
    if (decoder.at("type").string() != "ByteLevel") {
      decoder.refuse("unsupported decoder '" + decoder.at("type").string() + "'; expected ByteLevel");
    }
    file_.words = std::move(rules);
  }

  void read_split(const node& step, byte_level_rules& rules) {
    const std::string& type = step.at("type").string();
    if (byte_level_) step.refuse("a step after ByteLevel is not supported");
    if (type == "Split") {
      const node behavior = step.at("behavior");
      if (behavior.string() != "Isolated") {
        behavior.refuse("unsupported behavior '" + behavior.string() + "'; expected Isolated");
      }
      if (step.flag("invert", false)) step.at("invert").refuse("not supported; expected false");
      const node regex = step.at("pattern").at("Regex");
      rules.split_patterns.push_back({regex.string(), regex.where()});
    } else if (type == "ByteLevel") {
      if (step.at("add_prefix_space").boolean()) step.at("add_prefix_space").refuse("not supported; expected false");
      if (step.flag("use_regex", true)) rules.split_patterns.push_back({std::string(byte_level_regex), step.where()});
      byte_level_ = true;
    } else {
      step.refuse("unsupported pre-tokenizer '" + type + "'; expected Split and ByteLevel, in a Sequence or alone");
    }
  }

  // SentencePiece in a tokenizer.json: either a normalizer writes spaces as U+2581, or the pre-tokenizer Metaspace.
  void read_sentence_steps() {
    sentence_rules rules;
    bool writes_spaces = false;
    if (const auto normalizer = root_.find("normalizer")) {
      for (const node& step : steps_of(*normalizer, "normalizers")) {
        const std::string& type = step.at("type").string();
        if (type == "Prepend") {
          step.at("prepend").require_string(std::string(written_space));
          rules.space_before = sentence_rules::prefix::everywhere;
        } else if (type == "Replace") {
          step.at("pattern").at("String").require_string(" ");
          step.at("content").require_string(std::string(written_space));
          writes_spaces = true;
        } else {
          step.refuse("unsupported normalizer '" + type + "'; with byte fallback Prepend and Replace are expected");
        }
      }
    }
    if (const auto pre_tokenizer = root_.find("pre_tokenizer")) {
      if (const auto& type = pre_tokenizer->at("type").string(); type != "Metaspace") {
        pre_tokenizer->refuse("unsupported pre-tokenizer '" + type +
                              "'; with byte fallback null or Metaspace is expected");
      }
      if (rules.space_before != sentence_rules::prefix::none || writes_spaces) {
        pre_tokenizer->refuse("Metaspace after a normalizer is not supported; expected null");
      }
      read_metaspace(*pre_tokenizer, rules);
      writes_spaces = true;
    }
    if (!writes_spaces) root_.refuse("nothing writes spaces as U+2581; expected a normalizer Replace, or Metaspace");
    for (std::size_t i = 0; i < normalized_tokens_.size(); ++i) {
      // A special token is looked for in the prompt's format, as it is written there. Normalized, it would only be found
      // after a space.
      if (!normalized_tokens_[i].special && rules.space_before != sentence_rules::prefix::none) {
        normalized_entries_[i].at("normalized").refuse("not supported where a space is put in front; expected false");
      }
      file_.added_tokens.push_back(normalized_tokens_[i]);
    }
    read_sentence_decoder(root_.at("decoder"));
    file_.words = std::move(rules);
  }

  static void read_metaspace(const node& metaspace, sentence_rules& rules) {
    metaspace.at("replacement").require_string(std::string(written_space));
    if (metaspace.flag("split", true)) {
      metaspace.refuse("words that are cut at spaces are not supported with byte fallback; expected \"split\": false");
    }
    rules.unless_there = true;
    const node scheme = metaspace.at("prepend_scheme");
    if (scheme.string() == "always") {
      rules.space_before = sentence_rules::prefix::everywhere;
    } else if (scheme.string() == "first") {
      rules.space_before = sentence_rules::prefix::at_start;
    } else if (scheme.string() != "never") {
      scheme.refuse("unsupported scheme '" + scheme.string() + "'; expected always, first or never");
    }
  }

  void read_sentence_decoder(const node& decoder) {
    file_.decoding.sentence_pieces = true;
    const std::vector<node> steps = steps_of(decoder, "decoders");
    const auto is = [&](std::size_t i, const char* type) { return steps[i].at("type").string() == type; };
    if (steps.size() < 3 || steps.size() > 4 || !is(0, "Replace") || !is(1, "ByteFallback") || !is(2, "Fuse") ||
        (steps.size() == 4 && !is(3, "Strip"))) {
      decoder.refuse("unsupported decoder; expected a Sequence of Replace, ByteFallback, Fuse and perhaps Strip");
    }
    steps[0].at("pattern").at("String").require_string(std::string(written_space));
    steps[0].at("content").require_string(" ");
    if (steps.size() < 4) return;
    steps[3].at("content").require_string(" ");
    if (steps[3].at("start").value() != 1) steps[3].at("start").refuse("unsupported; expected 1");
    if (steps[3].at("stop").value() != 0) steps[3].at("stop").refuse("unsupported; expected 0");
    file_.decoding.at_start = decoding_rules::space::one_removed;
  }

  static std::vector<node> steps_of(const node& one_or_sequence, const char* key) {
    if (one_or_sequence.at("type").string() != "Sequence") return {one_or_sequence};
    const node sequence = one_or_sequence.at(key);
    std::vector<node> steps;
    for (std::size_t i = 0; i < sequence.array_size(); ++i) steps.push_back(sequence.at(i));
    return steps;
  }

  token& slot_of(std::int32_t id) {
    if (static_cast<std::size_t>(id) >= file_.tokens.size()) file_.tokens.resize(static_cast<std::size_t>(id) + 1);
    return file_.tokens[static_cast<std::size_t>(id)];
  }

  std::int32_t id_in(const node& merges, std::size_t index, const std::string& written) const {
    const auto found = ids_.find(written);
    if (found == ids_.end()) merges.at(index).refuse("the token '" + written + "' is not in model.vocab");
    if (sentence_pieces_ && !slot_is_piece(found->second)) {
      merges.at(index).refuse("the token '" + written + "' stands for a byte or has a space; no text is merged to it");
    }
    return found->second;
  }
  [[nodiscard]] bool slot_is_piece(std::int32_t id) const {
    return file_.tokens[static_cast<std::size_t>(id)].in_words;
  }

  node root_;
  tokenizer_file file_;
  std::unordered_map<std::string, std::int32_t> ids_;  // as written in model.vocab
  std::vector<added_token> normalized_tokens_;
  std::vector<node> normalized_entries_;  // where they stand
  bool sentence_pieces_ = false;
  bool byte_level_ = false;
};

}  // namespace

tokenizer_file read_tokenizer_file(const std::filesystem::path& path) {
  const std::string file = path.string();
  const json document = read_json(path, "a Hugging Face tokenizer.json");
  return reader(document, file).run();
}

}  // namespace baton
