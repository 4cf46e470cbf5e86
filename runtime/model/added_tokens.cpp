#include "runtime/model/added_tokens.hpp"

#include <algorithm>
#include <utility>

#include <unicode/uchar.h>
#include <unicode/utf8.h>

namespace baton {
namespace {

// Text has at most 2^31 - 1 bytes and is UTF-8; for an empty one both give a code point that is neither word nor space.
UChar32 first_of(std::string_view text, std::int32_t& at) {
  UChar32 c = 0;
  if (!text.empty()) U8_NEXT(text.data(), at, static_cast<std::int32_t>(text.size()), c);
  return c;
}
UChar32 last_of(std::string_view text, std::int32_t& at) {
  UChar32 c = 0;
  if (!text.empty()) U8_PREV(text.data(), 0, at, c);
  return c;
}

// What \w means to Unicode's regular expressions (UTS 18, annex C), which Hugging Face tokenizers asks here.
bool is_word(UChar32 c) {
  return u_hasBinaryProperty(c, UCHAR_ALPHABETIC) || u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL) ||
         (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

bool starts_with_word(std::string_view text) {
  std::int32_t at = 0;
  return is_word(first_of(text, at));
}

bool ends_with_word(std::string_view text) {
  auto at = static_cast<std::int32_t>(text.size());
  return is_word(last_of(text, at));
}

// Bytes of the white space at either end.
std::size_t space_at_start(std::string_view text) {
  std::int32_t end = 0;
  for (std::int32_t at = 0; u_isUWhiteSpace(first_of(text.substr(static_cast<std::size_t>(end)), at)); at = 0)
    end += at;
  return static_cast<std::size_t>(end);
}

std::size_t space_at_end(std::string_view text) {
  auto begin = static_cast<std::int32_t>(text.size());
  for (std::int32_t at = begin; u_isUWhiteSpace(last_of(text.substr(0, static_cast<std::size_t>(begin)), at));)
    begin = at;
  return text.size() - static_cast<std::size_t>(begin);
}

}  // namespace

added_token_set::added_token_set(std::vector<added_token> tokens) : tokens_(std::move(tokens)) {
  std::ranges::sort(tokens_, {}, &added_token::content);
  for (const added_token& t : tokens_) {
    first_bytes_.set(static_cast<unsigned char>(t.content.front()));
    if (t.special) special_ids_.push_back(t.id);
  }
  std::ranges::sort(special_ids_);
}

void added_token_set::find(std::string_view text, std::size_t begin, std::size_t end, bool with_special,
                           std::vector<occurrence>& found) const {
  if (tokens_.empty()) return;
  for (std::size_t at = begin; at < end;) {
    const added_token* token = longest_at_start(text.substr(at, end - at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    const std::size_t start = at;
    at += token->content.size();
    if (token->special && !with_special) continue;
    const std::string_view before = text.substr(0, start);
    const std::string_view after = text.substr(at);
    if (token->whole_word && (ends_with_word(before) || starts_with_word(after))) continue;
    const std::size_t taken_before = token->takes_left_space ? space_at_end(before) : 0;
    const std::size_t taken_after = token->takes_right_space ? space_at_start(after) : 0;
    // The token before may have taken the space that this one starts with.
    const std::size_t free_from = found.empty() ? 0 : found.back().end;
    found.push_back({std::max(start - taken_before, free_from), std::max(at + taken_after, free_from), token});
  }
}

// Narrows the sorted tokens to those that agree with the text, byte by byte: the cost does not grow with their number.
const added_token* added_token_set::longest_at_start(std::string_view text) const {
  const added_token* longest = nullptr;
  if (text.empty() || !first_bytes_[static_cast<unsigned char>(text[0])]) return longest;
  auto low = tokens_.begin();
  auto high = tokens_.end();
  for (std::size_t depth = 0; depth < text.size(); ++depth) {
    const auto byte_at_depth = [depth](const added_token& t) {
      return depth < t.content.size() ? static_cast<unsigned char>(t.content[depth]) : -1;
    };
    const auto agreeing = std::ranges::equal_range(low, high, static_cast<int>(static_cast<unsigned char>(text[depth])),
                                                   {}, byte_at_depth);
    if (agreeing.empty()) break;
    low = agreeing.begin();
    high = agreeing.end();
    if (low->content.size() == depth + 1) longest = &*low;
  }
  return longest;
}

const added_token* added_token_set::with_content(std::string_view content) const {
  const auto found = std::ranges::lower_bound(tokens_, content, {}, &added_token::content);
  return found != tokens_.end() && found->content == content ? &*found : nullptr;
}

bool added_token_set::is_special(std::int32_t id) const { return std::ranges::binary_search(special_ids_, id); }

}  // namespace baton
