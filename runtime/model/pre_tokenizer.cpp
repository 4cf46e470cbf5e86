#include "runtime/model/pre_tokenizer.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <new>

#include <pcre2.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

constexpr std::size_t jit_stack_start_bytes = 32 << 10;
constexpr std::size_t jit_stack_bytes_max = 16 << 20;
constexpr std::uint32_t match_limit_base = 10'000'000;

// Unicode's White_Space, which is Oniguruma's \s. PCRE2's \s has U+180E as well.
constexpr std::string_view white_space =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

// Rewrites an Oniguruma pattern for PCRE2 and refuses what the two read differently.
class pattern_translation {
 public:
  explicit pattern_translation(const split_pattern& pattern) : rest_(pattern.regex), pattern_(pattern) {}

  std::string run() {
    while (!rest_.empty()) {
      if (rest_.front() == '\\') {
        translate_escape();
      } else if (in_class_) {
        translate_in_class();
      } else {
        translate_outside_class();
      }
    }
    return std::move(translated_);
  }

 private:
  [[noreturn]] void refuse(const std::string& construct) const {
    throw fault(fault_code::bad_input,
                "the pattern uses " + construct + " at byte " + std::to_string(pattern_.regex.size() - rest_.size()) +
                    ", which is not supported: " + pattern_.regex,
                pattern_.where);
  }

  void copy(std::size_t bytes) {
    translated_ += rest_.substr(0, bytes);
    rest_.remove_prefix(std::min(bytes, rest_.size()));
  }

  void translate_escape() {
    if (rest_.size() < 2) refuse("a backslash without a character after it");
    const char c = rest_[1];
    if (c == 's' || c == 'S') {
      if (in_class_ && c == 'S') refuse("\\S inside a character class");
      translated_ += in_class_ ? "" : c == 's' ? "[" : "[^";
      translated_ += white_space;
      translated_ += in_class_ ? "" : "]";
      rest_.remove_prefix(2);
    } else if (c == 'p' || c == 'P') {
      translate_property();
    } else if (c == 'x') {
      const std::size_t end = rest_.find('}');
      if (rest_.size() < 3 || rest_[2] != '{' || end == std::string_view::npos) refuse("\\x without braces");
      copy(end + 1);
    } else if (std::string_view("rntfdD").find(c) != std::string_view::npos) {
      copy(2);
    } else if (static_cast<unsigned char>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c))) {
      copy(2);
    } else {
      refuse(std::string("the escape \\") + c);
    }
  }

  // General categories such as \p{L} or \p{Lu} mean the same in both; scripts do not.
  void translate_property() {
    const std::size_t end = rest_.find('}');
    const std::size_t name_size = end == std::string_view::npos ? 0 : end - 3;
    if (rest_.size() < 5 || rest_[2] != '{' || name_size < 1 || name_size > 2 ||
        std::string_view("LMNPSZC").find(rest_[3]) == std::string_view::npos) {
      refuse("a property that is no general category");
    }
    copy(end + 1);
  }

  void translate_in_class() {
    if (rest_.starts_with("[")) refuse("a class inside a class");
    if (rest_.starts_with("&&")) refuse("an intersection of classes");
    in_class_ = rest_.front() != ']';
    copy(1);
  }

  void translate_outside_class() {
    if (rest_.front() == '[') {
      in_class_ = true;
      copy(rest_.starts_with("[^") ? 2 : 1);
      if (rest_.starts_with("]")) refuse("a class that starts with a bracket");
      return;
    }
    if (rest_.starts_with("(*")) refuse("a verb");
    if (rest_.starts_with("(?")) {
      static constexpr std::array<std::string_view, 7> known = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
      const auto group = std::ranges::find_if(known, [&](std::string_view open) { return rest_.starts_with(open); });
      if (group == known.end()) refuse("a group of an unknown kind");
      copy(group->size());
      return;
    }
    if (rest_.starts_with("}+") || rest_.starts_with("}?")) refuse("a quantifier behind a counted repetition");
    if (rest_.starts_with("{,")) refuse("a repetition without a lower count");
    copy(1);
  }

  std::string_view rest_;
  const split_pattern& pattern_;
  std::string translated_;
  bool in_class_ = false;
};

std::string pcre2_message(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// What PCRE2 writes to while it matches; belongs to one call.
class match_scratch {
 public:
  match_scratch()
      : data_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)),
        jit_stack_(pcre2_jit_stack_create(jit_stack_start_bytes, jit_stack_bytes_max, nullptr)) {
    if (!data_ || !context_ || !jit_stack_) throw std::bad_alloc();
    pcre2_jit_stack_assign(context_.get(), nullptr, jit_stack_.get());
  }

  struct range {
    std::size_t begin, end;
  };
  // The next match at or after `from`; an empty range at the text's end where there is none.
  range find(const pcre2_code* code, std::string_view text, std::size_t from, const std::string& where) {
    // Enough for one pass back over the whole text, far too little for a pattern that tries everything again and again.
    pcre2_set_match_limit(context_.get(), match_limit_base + static_cast<std::uint32_t>(text.size()));
    const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                  PCRE2_NO_UTF_CHECK, data_.get(), context_.get());
    if (found == PCRE2_ERROR_NOMATCH) return {text.size(), text.size()};
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data_.get());
    if (found < 0 || offsets[0] < from || offsets[1] <= offsets[0]) {
      throw fault(fault_code::bad_input,
                  "the pattern fails at byte " + std::to_string(from) + " of a text of " + std::to_string(text.size()) +
                      " bytes: " + (found < 0 ? pcre2_message(found) : "it matches nothing at all"),
                  where);
    }
    return {offsets[0], offsets[1]};
  }

 private:
  template <auto Free>
  struct deleter {
    template <typename T>
    void operator()(T* object) const {
      Free(object);
    }
  };
  std::unique_ptr<pcre2_match_data, deleter<pcre2_match_data_free>> data_;
  std::unique_ptr<pcre2_match_context, deleter<pcre2_match_context_free>> context_;
  std::unique_ptr<pcre2_jit_stack, deleter<pcre2_jit_stack_free>> jit_stack_;
};

}  // namespace

void pre_tokenizer::free_code::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

pre_tokenizer::pre_tokenizer(std::span<const split_pattern> patterns) {
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);

  for (const split_pattern& pattern : patterns) {
    const std::string translated = pattern_translation(pattern).run();
    int error = 0;
    PCRE2_SIZE error_offset = 0;
    // Oniguruma's ^ and $ always mean lines.
    steps_.push_back({std::unique_ptr<pcre2_real_code_8, free_code>(
                          pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                        PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &error_offset, context.get())),
                      pattern.where});
    pcre2_code* code = steps_.back().code.get();
    if (code == nullptr) {
      throw fault(fault_code::bad_input, "no regular expression: " + pcre2_message(error) + ": " + pattern.regex,
                  pattern.where);
    }
    std::uint32_t may_match_nothing = 0;
    pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &may_match_nothing);
    if (may_match_nothing != 0) {
      throw fault(fault_code::bad_input,
                  "the pattern can match the empty text, which is not supported: " + pattern.regex, pattern.where);
    }
    // Where there is no JIT for a machine, pcre2_match interprets: slower, with the same result.
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  }
}

void pre_tokenizer::split(std::string_view text, const std::function<void(std::string_view word)>& take) const {
  match_scratch scratch;
  const auto split_from = [&](const auto& self, std::size_t depth, std::string_view piece) -> void {
    if (depth == steps_.size()) return take(piece);
    std::size_t at = 0;
    while (at < piece.size()) {
      const auto [begin, end] = scratch.find(steps_[depth].code.get(), piece, at, steps_[depth].where);
      if (begin > at) self(self, depth + 1, piece.substr(at, begin - at));
      if (end > begin) self(self, depth + 1, piece.substr(begin, end - begin));
      at = end;
    }
  };
  if (!text.empty()) split_from(split_from, 0, text);
}

}  // namespace baton
