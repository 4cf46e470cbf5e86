#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model/tokenizer.hpp"

namespace baton {

/// The text around a document and a question. Special tokens are recognised in these strings and nowhere else: what a
/// document, a question or a system prompt says is text. Free formats are made by filling in the struct.
struct prompt_format {
  std::string name;
  std::string opening;  ///< stands before the document
  std::string
      opening_with_system;   ///< the same with a system prompt in the place of "{system}"; empty: has no such place
  std::string query_prefix;  ///< between document and question
  std::string query_suffix;  ///< after the question: end of turn, and the header of the answer
};

/// The presets, by name: chatml (Qwen2), llama2, llama3 (Llama 3; for 3.1 its date lines go into the system prompt), needle,
/// yi. They write what the models' chat templates write of one user's turn, but strip nothing from it.
std::span<const prompt_format> prompt_formats();
/// Null where there is no such preset.
const prompt_format* find_prompt_format(std::string_view name);
/// "chatml, llama2, llama3, needle, yi", for messages.
std::string prompt_format_names();

/// The preset that writes what a chat template does: recognised by the markers in the template's text, which is not run. Null where it is
/// none of theirs.
const prompt_format* format_of_chat_template(std::string_view text);

/// A document that is ready for prefill: opening and text. They are tokenized apart, so that the opening has a length; a space
/// that ends the opening goes with the text, whose first word it belongs to.
struct document_prompt {
  std::vector<std::int32_t> ids;
  std::int32_t system_tokens;  ///< how many of the ids are the opening
};

/// A document and a question about it, ready for a model: (n) document tokens and (m) query tokens, tokenized apart.
struct prompt {
  std::vector<std::int32_t> document_ids;
  std::vector<std::int32_t> query_ids;
  std::int32_t system_tokens;
};

/// All three throw fault(bad_input) where document or question is empty or not UTF-8 (`where` is "document:line:column" or
/// "question:…"), where the format uses a token <|…|>, <s> or </s> that the tokenizer does not have, and where a system prompt is given
/// to a format that has no place for it. Nothing is stripped. Any thread may call them.
document_prompt make_document_prompt(const tokenizer& tokenizer, const prompt_format& format, std::string_view document,
                                     std::string_view system_prompt = {});
std::vector<std::int32_t> make_query(const tokenizer& tokenizer, const prompt_format& format,
                                     std::string_view question);
prompt make_prompt(const tokenizer& tokenizer, const prompt_format& format, std::string_view document,
                   std::string_view question, std::string_view system_prompt = {});

}  // namespace baton
