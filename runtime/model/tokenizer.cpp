#include "runtime/model/tokenizer.hpp"

#include <deque>
#include <limits>
#include <system_error>
#include <utility>

#include "kernels/fault.hpp"
#include "runtime/model/detokenizer.hpp"
#include "runtime/model/sentencepiece_file.hpp"
#include "runtime/model/utf8.hpp"

namespace baton {
namespace {

bool is_there(const std::filesystem::path& file) {
  std::error_code unreadable;
  return std::filesystem::exists(file, unreadable);
}

}  // namespace

tokenizer::tokenizer(tokenizer_file file, std::filesystem::path source)
    : source_(std::move(source)),
      tokens_(std::move(file.tokens)),
      decoding_(file.decoding),
      added_(std::move(file.added_tokens)),
      words_(words_of(file, tokens_)),
      bpe_(tokens_, std::move(file.bpe)) {}

tokenizer::word_source tokenizer::words_of(tokenizer_file& file, std::span<const token> tokens) {
  if (auto* rules = std::get_if<byte_level_rules>(&file.words)) return byte_level_words(std::move(*rules));
  token_borders borders;
  for (const merge& m : file.bpe.merges) borders.add(tokens[static_cast<std::size_t>(m.result)].bytes);
  for (const added_token& t : file.bpe.unmergeable) borders.add(t.content);
  return sentence_words(std::move(std::get<sentence_rules>(file.words)), std::move(borders));
}

tokenizer tokenizer::load_file(const std::filesystem::path& file) {
  return {file.extension() == ".model" ? read_sentencepiece_file(file) : read_tokenizer_file(file), file};
}

tokenizer tokenizer::load(const std::filesystem::path& model) {
  const auto json = model / "tokenizer.json";
  const auto sentencepiece = model / "tokenizer.model";
  if (!is_there(sentencepiece)) return load_file(json);
  if (!is_there(json)) return load_file(sentencepiece);
  try {
    return load_file(json);
  } catch (const fault& of_json) {
    try {
      return load_file(sentencepiece);
    } catch (const fault& of_sentencepiece) {
      throw fault(fault_code::bad_input,
                  of_json.reason() + "; nor can the other file be used: " + of_sentencepiece.what(), of_json.where());
    }
  }
}

std::vector<std::int32_t> tokenizer::encode(std::string_view text, special_tokens treatment, text_place place) const {
  const text_part part{text, treatment};
  return encode(std::span(&part, 1), place);
}

std::vector<added_token_set::occurrence> tokenizer::find_added(std::span<const text_part> parts,
                                                               std::string_view text) const {
  std::vector<added_token_set::occurrence> found;
  std::size_t begin = 0;
  for (const text_part& part : parts) {
    const std::size_t end = begin + part.text.size();
    added_.find(text, begin, end, part.treatment == special_tokens::parsed, found);
    begin = end;
  }
  return found;
}

std::vector<std::int32_t> tokenizer::encode(std::span<const text_part> parts, text_place place) const {
  std::string text;
  for (const text_part& part : parts) {
    require_utf8(part.text, "text");
    text += part.text;
  }
  if (text.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw fault(fault_code::bad_input,
                "a text of " + std::to_string(text.size()) + " bytes is too long; at most 2147483647 can be tokenized");
  }

  std::deque<std::string> normalized;  // the run keeps views of the words
  bpe::run run(bpe_);
  // Gives the text between the occurrences to `plain`, and the occurrences to the run.
  const auto between = [&run](std::string_view whole, const std::vector<added_token_set::occurrence>& added,
                              const auto& plain) {
    std::size_t at = 0;
    for (const auto& [begin, end, token] : added) {
      if (begin > at) plain(whole.substr(at, begin - at));
      run.append_id(token->id);
      at = end;
    }
    if (at < whole.size()) plain(whole.substr(at));
  };
  const auto encode_with = [&](const auto& words) {
    between(text, find_added(parts, text), [&](std::string_view plain) {
      const bool first = plain.data() == text.data();
      const std::string_view normal =
          words.normalize(plain, first ? place : text_place::after_special_token, normalized.emplace_back());
      std::vector<added_token_set::occurrence> added;
      words.normalized_tokens().find(normal, 0, normal.size(), false, added);
      between(normal, added, [&](std::string_view sentence) {
        words.split(sentence, [&run](std::string_view word) { run.append(word); });
      });
    });
  };
  std::visit(encode_with, words_);
  return std::move(run).take_ids();
}

std::string tokenizer::decode(std::span<const std::int32_t> ids) const {
  detokenizer pieces(*this);
  std::string text;
  for (const std::int32_t id : ids) text += pieces.push(id);
  text += pieces.finish();
  return text;
}

std::optional<std::int32_t> tokenizer::id_of(std::string_view token) const {
  const added_token* found = added_.with_content(token);
  if (found == nullptr) {
    if (const auto* words = std::get_if<byte_level_words>(&words_))
      found = words->normalized_tokens().with_content(token);
  }
  return found == nullptr ? std::nullopt : std::optional(found->id);
}

const token& tokenizer::token_of(std::int32_t id) const {
  if (id < 0 || id >= vocabulary_size() || tokens_[static_cast<std::size_t>(id)].bytes.empty()) {
    throw fault(fault_code::bad_input, "no token has the id " + std::to_string(id) +
                                           "; the vocabulary's ids go from 0 to " +
                                           std::to_string(vocabulary_size() - 1));
  }
  return tokens_[static_cast<std::size_t>(id)];
}

}  // namespace baton
