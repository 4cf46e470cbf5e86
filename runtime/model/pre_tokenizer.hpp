#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;

namespace baton {

/// A regular expression of a tokenizer.json, written for Oniguruma, and where in the file it stands.
struct split_pattern {
  std::string regex;
  std::string where;
};

/// Cuts a text into the words that are encoded one by one. Each pattern cuts the pieces of the one before it; matches and
/// the text between them are pieces alike, so nothing is lost. Immutable; any thread may use it.
///
/// PCRE2 runs the patterns. What it would read differently from Oniguruma is rewritten (\s) or refused, so that no pattern
/// silently cuts in other places. Its Unicode tables are those of version 14: a letter or digit that was added to Unicode
/// later counts as neither.
class pre_tokenizer {
 public:
  /// Throws fault(bad_input), naming the pattern's place, where a pattern is malformed or unsupported.
  explicit pre_tokenizer(std::span<const split_pattern> patterns);

  /// Gives `take` every word of `text` in order; they are views into it. `text` must be UTF-8.
  /// Throws fault(bad_input) where a pattern does not come to an end within its limits.
  void split(std::string_view text, const std::function<void(std::string_view word)>& take) const;

 private:
  struct free_code {
    void operator()(pcre2_real_code_8* code) const;
  };
  struct step {
    std::unique_ptr<pcre2_real_code_8, free_code> code;
    std::string where;
  };
  std::vector<step> steps_;
};

}  // namespace baton
