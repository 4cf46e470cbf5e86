#include "runtime/model/token_borders.hpp"

#include "runtime/model/utf8.hpp"

namespace baton {
namespace {

std::uint64_t pair_of(std::uint32_t left, std::uint32_t right) {
  return static_cast<std::uint64_t>(left) << 32 | right;
}

}  // namespace

void token_borders::add(std::string_view token) {
  std::uint32_t left = 0;
  for (std::size_t at = 0; at < token.size();) {
    const utf8_character right = first_character(token.substr(at));
    if (at > 0 && left < 128 && right.value < 128) ascii_.set(left * 128 + right.value);
    if (at > 0 && (left >= 128 || right.value >= 128)) others_.insert(pair_of(left, right.value));
    left = right.value;
    at += right.bytes;
  }
}

std::size_t token_borders::first_word(std::string_view text) const {
  utf8_character left = first_character(text);
  std::size_t at = left.bytes;
  while (at < text.size()) {
    const utf8_character right = first_character(text.substr(at));
    const bool joined = left.value < 128 && right.value < 128 ? ascii_[left.value * 128 + right.value]
                                                              : others_.contains(pair_of(left.value, right.value));
    if (!joined) break;
    at += right.bytes;
    left = right;
  }
  return at;
}

}  // namespace baton
