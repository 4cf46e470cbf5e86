#include "runtime/model/byte_level_words.hpp"

#include <cstdint>
#include <utility>
#include <vector>

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>

#include "kernels/fault.hpp"

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

std::vector<added_token> with_normal_contents(std::vector<added_token> tokens) {
  for (added_token& t : tokens) t.content = to_nfc(nfc_normalizer(), t.content);
  return tokens;
}

}  // namespace

byte_level_words::byte_level_words(byte_level_rules rules)
    : normalize_nfc_(rules.normalize_nfc),
      normalized_tokens_(with_normal_contents(std::move(rules.normalized_tokens))),
      pre_tokenizer_(rules.split_patterns) {}

std::string_view byte_level_words::normalize(std::string_view text, text_place /*place*/, std::string& storage) const {
  if (!normalize_nfc_ || is_nfc(nfc_normalizer(), text)) return text;
  return storage = to_nfc(nfc_normalizer(), text);
}

}  // namespace baton
