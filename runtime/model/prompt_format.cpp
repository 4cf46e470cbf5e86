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

// The markers in a format: <|…|>, and SentencePiece's <s> and </s>.
std::vector<std::string_view> markers_in(std::string_view text) {
  std::vector<std::string_view> markers;
  for (std::size_t at = 0; (at = text.find('<', at)) != std::string_view::npos; ++at) {
    std::size_t end = at + 2;
    while (end < text.size() && (std::isalnum(static_cast<unsigned char>(text[end])) || text[end] == '_')) ++end;
    if (text.substr(at).starts_with("<|") && end > at + 2 && text.substr(end).starts_with("|>")) {
      markers.push_back(text.substr(at, end + 2 - at));
    }
    for (const std::string_view end_of_text : {"<s>", "</s>"}) {
      if (text.substr(at).starts_with(end_of_text)) markers.push_back(end_of_text);
    }
  }
  return markers;
}

// A marker that the tokenizer does not know would be spelt out letter by letter, and the model would not understand it.
void require_markers(const tokenizer& tokenizer, const prompt_format& format, std::string_view text) {
  for (const std::string_view marker : markers_in(text)) {
    if (!tokenizer.id_of(marker)) {
      throw fault(fault_code::bad_input, "the prompt format '" + format.name + "' needs the special token " +
                                             std::string(marker) + ", which the tokenizer does not have; presets are " +
                                             prompt_format_names());
    }
  }
}

// A space that ends an opening begins the document's first word.
std::string_view without_last_spaces(std::string_view opening) {
  return opening.substr(0, opening.find_last_not_of(' ') + 1);
}

std::vector<std::int32_t> make_opening(const tokenizer& tokenizer, const prompt_format& format,
                                       std::string_view system_prompt) {
  if (system_prompt.empty()) {
    require_markers(tokenizer, format, format.opening);
    return tokenizer.encode(without_last_spaces(format.opening), special_tokens::parsed);
  }
  require_text(system_prompt, "system prompt");
  const std::string_view with_system = format.opening_with_system;
  const std::size_t place = with_system.find(system_place);
  if (place == std::string_view::npos) {
    throw fault(fault_code::bad_input, "the prompt format '" + format.name + "' has no place for a system prompt");
  }
  require_markers(tokenizer, format, with_system);
  const std::string_view after = without_last_spaces(with_system.substr(place + system_place.size()));
  const std::array<text_part, 3> parts = {{{with_system.substr(0, place), special_tokens::parsed},
                                           {system_prompt, special_tokens::as_text},
                                           {after, special_tokens::parsed}}};
  return tokenizer.encode(parts);
}

}  // namespace

std::span<const prompt_format> prompt_formats() {
  static const std::array<prompt_format, 5> presets = {{
      {.name = "chatml",
       .opening = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
       .opening_with_system = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n",
       .query_prefix = "\n\n",
       .query_suffix = "<|im_end|>\n<|im_start|>assistant\n"},
      {.name = "llama2",
       .opening = "<s>[INST] ",
       .opening_with_system = "<s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n",
       .query_prefix = "\n\n",
       .query_suffix = " [/INST]"},
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
      {.name = "yi",
       .opening = "<|im_start|>user\n",
       .opening_with_system = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n",
       .query_prefix = "\n\n",
       .query_suffix = "<|im_end|>\n<|im_start|>assistant\n"},
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

const prompt_format* format_of_chat_template(std::string_view text) {
  const auto has = [&](std::string_view marker) { return text.find(marker) != std::string_view::npos; };
  if (has("<|start_header_id|>")) return find_prompt_format("llama3");
  // Qwen2 and 2.5 open with a system prompt of their own, Yi with none.
  if (has("<|im_start|>")) return find_prompt_format(has("You are") ? "chatml" : "yi");
  if (has("[INST]")) return has("<<SYS>>") ? find_prompt_format("llama2") : nullptr;
  if (has("<|user|>") && has("<|assistant|>") && has("<|begin_of_text|>")) return find_prompt_format("needle");
  return nullptr;
}

document_prompt make_document_prompt(const tokenizer& tokenizer, const prompt_format& format, std::string_view document,
                                     std::string_view system_prompt) {
  require_text(document, "document");
  std::vector<std::int32_t> ids = make_opening(tokenizer, format, system_prompt);
  const auto system_tokens = static_cast<std::int32_t>(ids.size());
  const text_place place = ids.empty()                        ? text_place::start
                           : tokenizer.is_special(ids.back()) ? text_place::after_special_token
                                                              : text_place::after_text;
  const std::string_view opening = system_prompt.empty() ? format.opening : format.opening_with_system;
  const std::array<text_part, 2> parts = {
      {{opening.substr(without_last_spaces(opening).size()), special_tokens::as_text},
       {document, special_tokens::as_text}}};
  const std::vector<std::int32_t> text = tokenizer.encode(parts, place);
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
  return tokenizer.encode(parts, text_place::after_text);
}

prompt make_prompt(const tokenizer& tokenizer, const prompt_format& format, std::string_view document,
                   std::string_view question, std::string_view system_prompt) {
  document_prompt opened = make_document_prompt(tokenizer, format, document, system_prompt);
  return {std::move(opened.ids), make_query(tokenizer, format, question), opened.system_tokens};
}

}  // namespace baton
