#include "runtime/model/added_tokens.hpp"

#include <algorithm>
#include <utility>

namespace baton {

added_token_set::added_token_set(std::vector<added_token> tokens) : tokens_(std::move(tokens)) {
  std::ranges::sort(tokens_, {}, &added_token::content);
  for (const added_token& t : tokens_) {
    first_bytes_.set(static_cast<unsigned char>(t.content.front()));
    if (t.special) special_ids_.push_back(t.id);
  }
  std::ranges::sort(special_ids_);
}

std::optional<added_token_set::occurrence> added_token_set::find(std::string_view text, std::size_t from) const {
  for (std::size_t at = from; at < text.size(); ++at) {
    if (!first_bytes_[static_cast<unsigned char>(text[at])]) continue;
    if (const added_token* found = longest_at_start(text.substr(at))) return occurrence{at, found};
  }
  return std::nullopt;
}

// Narrows the sorted tokens to those that agree with the text, byte by byte: the cost does not grow with their number.
const added_token* added_token_set::longest_at_start(std::string_view text) const {
  const added_token* longest = nullptr;
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
