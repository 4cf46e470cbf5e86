#include "runtime/model/prompt_format.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "kernels/fault.hpp"
#include "runtime/model/utf8.hpp"

namespace baton {
namespace {

constexpr std::string_view system_place = "{system}";

void require_text(std::string_view text, std::string_view name) {
  if (text.empty()) throw fault(fault_code::bad_input, "the " + std::string(name) + " is empty", std::string(name));
  require_utf8(text, name);
}

// A marker that the tokenizer does not know would be spelt out letter by letter, and the model would not understand it.
void require_markers(const tokenizer& tokenizer, const prompt_format& format, std::string_view text) {
  for (std::size_t at = 0; (at = text.find("<|", at)) != std::string_view::npos; at += 2) {
    std::size_t end = at + 2;
    while (end < text.size() && (std::isalnum(static_cast<unsigned char>(text[end])) || text[end] == '_')) ++end;
    if (end == at + 2 || !text.substr(end).starts_with("|>")) continue;
    const std::string_view marker = text.substr(at, end + 2 - at);
    if (!tokenizer.id_of(marker)) {
      throw fault(fault_code::bad_input, "the prompt format '" + format.name + "' needs the special token " +
                                             std::string(marker) + ", which the tokenizer does not have; presets are " +
                                             prompt_format_names());
    }
  }
}

std::vector<std::int32_t> make_opening(const tokenizer& tokenizer, const prompt_format& format,
                                       std::string_view system_prompt) {
  if (system_prompt.empty()) {
    require_markers(tokenizer, format, format.opening);
    return tokenizer.encode(format.opening, special_tokens::parsed);
  }
  require_text(system_prompt, "system prompt");
  const std::string_view with_system = format.opening_with_system;
  const std::size_t place = with_system.find(system_place);
  if (place == std::string_view::npos) {
    throw fault(fault_code::bad_input, "the prompt format '" + format.name + "' has no place for a system prompt");
  }
  require_markers(tokenizer, format, with_system);
  const std::array<text_part, 3> parts = {{{with_system.substr(0, place), special_tokens::parsed},
                                           {system_prompt, special_tokens::as_text},
                                           {with_system.substr(place + system_place.size()), special_tokens::parsed}}};
  return tokenizer.encode(parts);
}

}  // namespace

std::span<const prompt_format> prompt_formats() {
  static const std::array<prompt_format, 3> presets = {{
      {.name = "chatml",
       .opening = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
       .opening_with_system = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n",
       .query_prefix = "\n\n",
       .query_suffix = "<|im_end|>\n<|im_start|>assistant\n"},
      {.name = "llama3",
       .opening = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
       .opening_with_system = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>"
                              "<|start_header_id|>user<|end_header_id|>\n\n",
       .query_prefix = "\n\n",
       .query_suffix = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
      {.name = "needle",
       .opening = "<|begin_of_text|><|user|>",
       .opening_with_system = "",
       .query_prefix = "\n",
       .query_suffix = "<|assistant|>"},
  }};
  return presets;
}

const prompt_format* find_prompt_format(std::string_view name) {
  const auto presets = prompt_formats();
  const auto found = std::ranges::find(presets, name, &prompt_format::name);
  return found == presets.end() ? nullptr : &*found;
}

std::string prompt_format_names() {
  std::string names;
  for (const prompt_format& format : prompt_formats()) names += (names.empty() ? "" : ", ") + format.name;
  return names;
}

document_prompt make_document_prompt(const tokenizer& tokenizer, const prompt_format& format, std::string_view document,
                                     std::string_view system_prompt) {
  require_text(document, "document");
  std::vector<std::int32_t> ids = make_opening(tokenizer, format, system_prompt);
  const auto system_tokens = static_cast<std::int32_t>(ids.size());
  const std::vector<std::int32_t> text = tokenizer.encode(document, special_tokens::as_text);
  ids.insert(ids.end(), text.begin(), text.end());
  return {std::move(ids), system_tokens};
}

std::vector<std::int32_t> make_query(const tokenizer& tokenizer, const prompt_format& format,
                                     std::string_view question) {
  require_text(question, "question");
  require_markers(tokenizer, format, format.query_prefix);
  require_markers(tokenizer, format, format.query_suffix);
  const std::array<text_part, 3> parts = {{{format.query_prefix, special_tokens::parsed},
                                           {question, special_tokens::as_text},
                                           {format.query_suffix, special_tokens::parsed}}};
  return tokenizer.encode(parts);
}

prompt make_prompt(const tokenizer& tokenizer, const prompt_format& format, std::string_view document,
                   std::string_view question, std::string_view system_prompt) {
  document_prompt opened = make_document_prompt(tokenizer, format, document, system_prompt);
  return {std::move(opened.ids), make_query(tokenizer, format, question), opened.system_tokens};
}

}  // namespace baton
