#include "runtime/model/tokenizer.hpp"

#include <deque>
#include <limits>
#include <utility>

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>

#include "kernels/fault.hpp"
#include "runtime/model/tokenizer_file.hpp"
#include "runtime/model/utf8.hpp"

namespace baton {
namespace {

bool is_nfc(const icu::Normalizer2& nfc, std::string_view text) {
  UErrorCode status = U_ZERO_ERROR;
  const bool result = nfc.isNormalizedUTF8({text.data(), static_cast<std::int32_t>(text.size())}, status);
  if (U_FAILURE(status)) throw fault(fault_code::internal, std::string("ICU cannot normalize: ") + u_errorName(status));
  return result;
}

std::string to_nfc(const icu::Normalizer2& nfc, std::string_view text) {
  std::string normalized;
  icu::StringByteSink<std::string> sink(&normalized);
  UErrorCode status = U_ZERO_ERROR;
  nfc.normalizeUTF8(0, {text.data(), static_cast<std::int32_t>(text.size())}, sink, nullptr, status);
  if (U_FAILURE(status)) throw fault(fault_code::internal, std::string("ICU cannot normalize: ") + u_errorName(status));
  return normalized;
}

const icu::Normalizer2& nfc_normalizer() {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(status);
  if (U_FAILURE(status)) throw fault(fault_code::internal, std::string("ICU has no NFC data: ") + u_errorName(status));
  return *nfc;
}

}  // namespace

tokenizer::tokenizer(tokenizer_file file)
    : tokens_(std::move(file.tokens)),
      added_(std::move(file.added_tokens)),
      normalize_nfc_(file.normalize_nfc),
      pre_tokenizer_(file.split_patterns),
      bpe_(tokens_, file.merges, file.ignore_merges) {}

tokenizer tokenizer::load(const std::filesystem::path& tokenizer_json) {
  return tokenizer(read_tokenizer_file(tokenizer_json));
}

std::vector<std::int32_t> tokenizer::encode(std::string_view text, special_tokens treatment) const {
  const text_part part{text, treatment};
  return encode(std::span(&part, 1));
}

std::vector<std::int32_t> tokenizer::encode(std::span<const text_part> parts) const {
  std::string text;
  std::vector<added_token_set::occurrence> added;
  for (const auto& part : parts) {
    require_utf8(part.text, "text");
    for (std::size_t from = 0; const auto found = added_.find(part.text, from);) {
      from = found->offset + found->token->content.size();
      if (found->token->special && part.treatment == special_tokens::as_text) continue;
      added.push_back({text.size() + found->offset, found->token});
    }
    text += part.text;
  }
  if (text.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw fault(fault_code::bad_input,
                "a text of " + std::to_string(text.size()) + " bytes is too long; at most 2147483647 can be tokenized");
  }

  std::deque<std::string> normalized;  // the run keeps views of the words
  byte_level_bpe::run run(bpe_);
  const auto encode_plain = [&](std::string_view plain) {
    if (normalize_nfc_ && !is_nfc(nfc_normalizer(), plain)) {
      plain = normalized.emplace_back(to_nfc(nfc_normalizer(), plain));
    }
    pre_tokenizer_.split(plain, [&](std::string_view word) { run.append(word); });
  };
  const std::string_view whole = text;
  std::size_t at = 0;
  for (const auto& [offset, token] : added) {
    encode_plain(whole.substr(at, offset - at));
    run.append_id(token->id);
    at = offset + token->content.size();
  }
  encode_plain(whole.substr(at));
  return std::move(run).take_ids();
}

std::string tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string bytes;
  for (const std::int32_t id : ids) {
    const std::string_view token = token_bytes(id);
    if (!is_special(id)) bytes += token;
  }
  utf8_stream stream;
  std::string text = stream.push(bytes);
  text += stream.finish();
  return text;
}

std::optional<std::int32_t> tokenizer::id_of(std::string_view token) const {
  const added_token* found = added_.with_content(token);
  return found == nullptr ? std::nullopt : std::optional(found->id);
}

std::string_view tokenizer::token_bytes(std::int32_t id) const {
  if (id < 0 || id >= vocabulary_size() || tokens_[static_cast<std::size_t>(id)].bytes.empty()) {
    throw fault(fault_code::bad_input, "no token has the id " + std::to_string(id) +
                                           "; the vocabulary's ids go from 0 to " +
                                           std::to_string(vocabulary_size() - 1));
  }
  return tokens_[static_cast<std::size_t>(id)].bytes;
}

}  // namespace baton
