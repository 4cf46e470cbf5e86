#include "runtime/model/sentence_normalizer.hpp"

#include <cstddef>
#include <utility>

#include "runtime/model/sentence_pieces.hpp"
#include "runtime/model/utf8.hpp"

namespace baton {
namespace {

// A double array as Darts-clone lays it out: a unit is a node, or the value of the node that points to it.
class double_array {
 public:
  explicit double_array(const std::vector<std::uint32_t>& units) : units_(units) {}

  struct found {
    std::size_t bytes;  // 0: none
    std::uint32_t value;
  };
  [[nodiscard]] found longest_prefix(std::string_view text) const {
    found longest{0, 0};
    std::size_t node = offset(unit(0));
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      node ^= byte;
      const std::uint32_t here = unit(node);
      if (label(here) != byte) break;
      node ^= offset(here);
      if (has_value(here)) longest = {i + 1, unit(node) & 0x7FFFFFFFu};
    }
    return longest;
  }

 private:
  // Outside the array is a value, which is no node: a damaged trie finds nothing.
  [[nodiscard]] std::uint32_t unit(std::size_t at) const { return at < units_.size() ? units_[at] : 0x80000000u; }
  static std::size_t offset(std::uint32_t unit) {
    return static_cast<std::size_t>(unit >> 10) << ((unit & 0x200u) >> 6);
  }
  static std::uint32_t label(std::uint32_t unit) { return unit & 0x800000FFu; }
  static bool has_value(std::uint32_t unit) { return (unit >> 8 & 1) != 0; }

  const std::vector<std::uint32_t>& units_;
};

}  // namespace

sentence_normalizer::sentence_normalizer(sentence_rules rules)
    : rules_(std::move(rules)), kept_(std::exchange(rules_.kept, {})) {}

sentence_normalizer::step sentence_normalizer::next(std::string_view text) const {
  if (const added_token* kept = kept_.longest_at_start(text))
    return {text.substr(0, kept->content.size()), kept->content.size()};
  if (!rules_.character_trie.empty()) {
    const auto [bytes, value] = double_array(rules_.character_trie).longest_prefix(text);
    if (bytes > 0 && value < rules_.replacements.size()) return {rules_.replacements.c_str() + value, bytes};
  }
  const std::size_t bytes = first_character(text).bytes;
  return {text.substr(0, bytes), bytes};
}

bool sentence_normalizer::wants_space_before(std::string_view text, text_place place) const {
  if (rules_.space_before == sentence_rules::prefix::none || place == text_place::after_text) return false;
  if (rules_.space_before == sentence_rules::prefix::at_start && place != text_place::start) return false;
  return !rules_.unless_there || !(text.starts_with(' ') || text.starts_with(written_space));
}

std::string sentence_normalizer::normalize(std::string_view text, text_place place) const {
  const bool prefixed = wants_space_before(text, place);
  if (rules_.remove_extra_spaces) {
    while (!text.empty()) {
      const step s = next(text);
      if (s.result != " ") break;
      text.remove_prefix(s.bytes);
    }
  }
  if (text.empty()) return {};

  std::string normalized;
  normalized.reserve(text.size() + 1);
  if (prefixed) normalized += ' ';
  bool after_space = rules_.remove_extra_spaces;
  while (!text.empty()) {
    step s = next(text);
    text.remove_prefix(s.bytes);
    while (after_space && s.result.starts_with(' ')) s.result.remove_prefix(1);
    if (!s.result.empty()) after_space = rules_.remove_extra_spaces && s.result.ends_with(' ');
    while (!s.result.empty()) {
      const std::size_t space = s.result.find(written_space);
      normalized += s.result.substr(0, space);
      if (space == std::string_view::npos) break;
      normalized += ' ';
      s.result.remove_prefix(space + written_space.size());
    }
  }
  if (rules_.remove_extra_spaces) normalized.erase(normalized.find_last_not_of(' ') + 1);
  return normalized;
}

}  // namespace baton
