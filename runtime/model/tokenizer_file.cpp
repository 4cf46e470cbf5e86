#include "runtime/model/tokenizer_file.hpp"

#include <array>
#include <cstdint>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>

#include <nlohmann/json.hpp>

#include "kernels/fault.hpp"
#include "runtime/model/utf8.hpp"

namespace baton {
namespace {

using nlohmann::json;

constexpr std::int32_t ids_max = 1 << 21;  // far above any vocabulary; a wrong id must not cost gigabytes

// The pattern of the ByteLevel pre-tokenizer itself (GPT-2).
constexpr std::string_view byte_level_regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string shown(const json& value) { return value.is_primitive() ? value.dump() : value.type_name(); }

// A value in the file that knows its key, for messages.
class node {
 public:
  node(const json& value, std::string key, const std::string& file)
      : value_(&value), key_(std::move(key)), file_(&file) {}

  [[noreturn]] void refuse(const std::string& what) const { throw fault(fault_code::bad_input, what, where()); }
  [[nodiscard]] std::string where() const { return key_.empty() ? *file_ : *file_ + ": " + key_; }
  [[nodiscard]] const json& value() const { return *value_; }

  // Nothing where the key is missing or null.
  [[nodiscard]] std::optional<node> find(const char* name) const {
    if (!value_->is_object()) refuse(std::string("expected an object, found ") + value_->type_name());
    const auto found = value_->find(name);
    if (found == value_->end() || found->is_null()) return std::nullopt;
    return node(*found, key_.empty() ? name : key_ + "." + name, *file_);
  }
  [[nodiscard]] node at(const char* name) const {
    auto found = find(name);
    if (!found) refuse(std::string("the key '") + name + "' is missing or null");
    return *std::move(found);
  }
  [[nodiscard]] node at(std::size_t index) const { return child((*value_)[index], "[" + std::to_string(index) + "]"); }
  [[nodiscard]] node child(const json& value, const std::string& suffix) const {
    return {value, key_ + suffix, *file_};
  }
  [[nodiscard]] std::size_t array_size() const {
    if (!value_->is_array()) refuse(std::string("expected an array, found ") + value_->type_name());
    return value_->size();
  }
  [[nodiscard]] const std::string& string() const {
    if (!value_->is_string()) refuse(std::string("expected a string, found ") + value_->type_name());
    return value_->get_ref<const std::string&>();
  }
  [[nodiscard]] bool boolean() const {
    if (!value_->is_boolean()) refuse(std::string("expected true or false, found ") + value_->type_name());
    return value_->get<bool>();
  }
  [[nodiscard]] std::int32_t token_id() const {
    if (!value_->is_number_unsigned() || value_->get<std::uint64_t>() >= static_cast<std::uint64_t>(ids_max)) {
      refuse("expected a token id from 0 to " + std::to_string(ids_max - 1) + ", found " + shown(*value_));
    }
    return value_->get<std::int32_t>();
  }
  [[nodiscard]] bool flag(const char* name, bool otherwise) const {
    const auto found = find(name);
    return found ? found->boolean() : otherwise;
  }

 private:
  const json* value_;
  std::string key_;
  const std::string* file_;
};

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

json read_json(const std::filesystem::path& path, const std::string& file) {
  std::ifstream stream(path, std::ios::binary);
  std::error_code no_file;
  const std::uintmax_t size = std::filesystem::file_size(path, no_file);
  std::string text(no_file ? 0 : size, '\0');
  if (no_file || !stream.read(text.data(), static_cast<std::streamsize>(size))) {
    throw fault(fault_code::bad_input, "cannot be read as a file; expected a Hugging Face tokenizer.json", file);
  }
  try {
    return json::parse(text);
  } catch (const json::parse_error& error) {
    const std::string message = error.what();
    const std::size_t column = message.find("column");
    const std::size_t detail = column == std::string::npos ? column : message.find(": ", column);
    throw fault(fault_code::bad_input,
                "not JSON: " + (detail == std::string::npos ? message : message.substr(detail + 2)),
                file + ":" + line_and_column(text, error.byte == 0 ? 0 : error.byte - 1));
  } catch (const json::exception& error) {  // a number that no double can hold
    throw fault(fault_code::bad_input, std::string("not JSON: ") + error.what(), file);
  }
}

class reader {
 public:
  reader(const json& document, const std::string& file) : root_(document, "", file) {}

  tokenizer_file run() {
    read_model(root_.at("model"));
    if (const auto added = root_.find("added_tokens")) read_added_tokens(*added);
    if (const auto normalizer = root_.find("normalizer")) {
      for (const node& step : steps_of(*normalizer, "normalizers")) read_normalizer(step);
    }
    const node pre_tokenizer = root_.at("pre_tokenizer");
    for (const node& step : steps_of(pre_tokenizer, "pretokenizers")) read_pre_tokenizer(step);
    if (!byte_level_) pre_tokenizer.refuse("has no ByteLevel step; only byte-level BPE is supported");
    const node decoder = root_.at("decoder");
    if (decoder.at("type").string() != "ByteLevel") {
      decoder.refuse("unsupported decoder '" + decoder.at("type").string() + "'; expected ByteLevel");
    }
    return std::move(file_);
  }

 private:
  void read_model(const node& model) {
    if (const auto type = model.find("type"); type && type->string() != "BPE") {
      type->refuse("unsupported model '" + type->string() + "'; expected BPE");
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (const auto affix = model.find(key); affix && !affix->string().empty()) {
        affix->refuse("not supported in byte-level BPE; expected null");
      }
    }
    if (const auto dropout = model.find("dropout"); dropout && dropout->value() != 0.0) {
      dropout->refuse("random merges are not supported; expected null");
    }
    if (model.flag("byte_fallback", false)) {
      model.at("byte_fallback").refuse("byte fallback belongs to SentencePiece models; expected byte-level BPE, false");
    }
    file_.ignore_merges = model.flag("ignore_merges", false);
    read_vocabulary(model.at("vocab"));
    read_merges(model.at("merges"));
  }

  void read_vocabulary(const node& vocabulary) {
    if (!vocabulary.value().is_object()) vocabulary.refuse("expected an object of tokens and their ids");
    ids_.reserve(vocabulary.value().size());
    for (const auto& [written, value] : vocabulary.value().items()) {
      const node entry = vocabulary.child(value, "['" + written + "']");
      const std::int32_t id = entry.token_id();
      token& slot = slot_of(id);
      if (!slot.bytes.empty()) entry.refuse("the id " + std::to_string(id) + " belongs to another token as well");
      // A token that no bytes spell stands for its own text.
      const auto bytes = bytes_of_token(written);
      slot = {bytes.value_or(written), bytes.has_value()};
      ids_.emplace(written, id);
    }
    std::array<bool, 256> present{};
    for (const token& t : file_.tokens) {
      if (t.in_words && t.bytes.size() == 1) present[static_cast<unsigned char>(t.bytes[0])] = true;
    }
    for (std::size_t byte = 0; byte < present.size(); ++byte) {
      if (!present[byte]) {
        vocabulary.refuse("no token for the byte " + std::to_string(byte) + "; byte-level BPE needs all 256");
      }
    }
  }

  void read_merges(const node& merges) {
    const std::size_t count = merges.array_size();
    file_.merges.reserve(count);
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
        merges.at(i).refuse("expected two tokens, as [\"a\", \"b\"] or \"a b\", found " + shown(entry));
      }
      file_.merges.push_back({id_in(merges, i, left), id_in(merges, i, right), id_in(merges, i, left + right)});
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
      for (const char* key : {"lstrip", "rstrip", "single_word"}) {
        if (entry.flag(key, false)) entry.at(key).refuse("not supported (token '" + content + "'); expected false");
      }
      normalized_tokens_ = normalized_tokens_ || entry.flag("normalized", false);

      const auto in_model = ids_.find(content);
      token& slot = slot_of(id);
      if (in_model != ids_.end() ? in_model->second != id : !slot.bytes.empty()) {
        entry.refuse("the token '" + content + "' has the id " + std::to_string(id) + ", " +
                     (in_model != ids_.end() ? "but " + std::to_string(in_model->second) + " in the vocabulary"
                                             : "which belongs to another token as well"));
      }
      if (in_model == ids_.end()) slot = {content, false};
      file_.added_tokens.push_back({content, id, entry.flag("special", false)});
    }
  }

  void read_normalizer(const node& normalizer) {
    const std::string& type = normalizer.at("type").string();
    if (type != "NFC") normalizer.refuse("unsupported normalizer '" + type + "'; expected null or NFC");
    if (normalized_tokens_) {
      normalizer.refuse("added tokens with \"normalized\": true are not supported together with a normalizer");
    }
    file_.normalize_nfc = true;
  }

  void read_pre_tokenizer(const node& step) {
    const std::string& type = step.at("type").string();
    if (byte_level_) step.refuse("a step after ByteLevel is not supported");
    if (type == "Split") {
      const node behavior = step.at("behavior");
      if (behavior.string() != "Isolated") {
        behavior.refuse("unsupported behavior '" + behavior.string() + "'; expected Isolated");
      }
      if (step.flag("invert", false)) step.at("invert").refuse("not supported; expected false");
      const node regex = step.at("pattern").at("Regex");
      file_.split_patterns.push_back({regex.string(), regex.where()});
    } else if (type == "ByteLevel") {
      if (step.at("add_prefix_space").boolean()) step.at("add_prefix_space").refuse("not supported; expected false");
      if (step.flag("use_regex", true)) file_.split_patterns.push_back({std::string(byte_level_regex), step.where()});
      byte_level_ = true;
    } else {
      step.refuse("unsupported pre-tokenizer '" + type + "'; expected Split and ByteLevel, in a Sequence or alone");
    }
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
    return found->second;
  }

  node root_;
  tokenizer_file file_;
  std::unordered_map<std::string, std::int32_t> ids_;  // as written in model.vocab
  bool normalized_tokens_ = false;
  bool byte_level_ = false;
};

}  // namespace

tokenizer_file read_tokenizer_file(const std::filesystem::path& path) {
  const std::string file = path.string();
  const json document = read_json(path, file);
  return reader(document, file).run();
}

}  // namespace baton
