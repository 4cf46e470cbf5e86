#include "actors/job_input.hpp"

#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "kernels/fault.hpp"

namespace baton {
namespace {

std::string read_all(std::istream& in) { return {std::istreambuf_iterator<char>(in), {}}; }

std::string read_file(const std::filesystem::path& path, const std::string& option) {
  if (std::filesystem::is_directory(path))
    throw fault(fault_code::bad_input, "is a folder; a file is wanted", option + " " + path.string());
  std::ifstream file(path, std::ios::binary);
  if (!file) throw fault(fault_code::bad_input, "cannot be read; does it exist?", option + " " + path.string());
  return read_all(file);
}

std::vector<std::int32_t> ids_of(const nlohmann::json& root, const char* key, const std::string& file,
                                 std::int64_t vocabulary) {
  const auto where = [&](std::size_t i) { return fmt::format("{}: {}[{}]", file, key, i); };
  const auto found = root.find(key);
  if (found == root.end() || !found->is_array())
    throw fault(fault_code::bad_input, fmt::format("'{}' must be a list of token ids", key), file);
  if (found->empty()) throw fault(fault_code::bad_input, fmt::format("'{}' is empty", key), file);
  std::vector<std::int32_t> ids;
  ids.reserve(found->size());
  for (std::size_t i = 0; i < found->size(); ++i) {
    const auto& value = (*found)[i];
    if (!value.is_number_integer()) throw fault(fault_code::bad_input, "is not a whole number", where(i));
    const auto id = value.get<std::int64_t>();
    if (id < 0 || id >= vocabulary) {
      throw fault(fault_code::bad_input,
                  fmt::format("token id {} is out of range; the vocabulary has {}", id, vocabulary), where(i));
    }
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

prompt read_tokens(const std::filesystem::path& path, std::int64_t vocabulary) {
  const std::string file = path.string();
  nlohmann::json root;
  try {
    root = nlohmann::json::parse(read_file(path, "--tokens"));
  } catch (const nlohmann::json::parse_error& error) {
    throw fault(fault_code::bad_input, error.what(), file);
  }
  if (!root.is_object())
    throw fault(fault_code::bad_input, R"(wants {"document_ids": [], "query_ids": [], "system_tokens": s})", file);
  for (const auto& [key, value] : root.items()) {
    if (key != "document_ids" && key != "query_ids" && key != "system_tokens") {
      throw fault(fault_code::bad_input,
                  fmt::format("unknown key '{}'; document_ids, query_ids and system_tokens are known", key), file);
    }
  }
  prompt input{ids_of(root, "document_ids", file, vocabulary), ids_of(root, "query_ids", file, vocabulary), 0};
  if (const auto s = root.find("system_tokens"); s != root.end()) {
    const auto limit = static_cast<std::int64_t>(input.document_ids.size());
    if (!s->is_number_integer() || s->get<std::int64_t>() < 0 || s->get<std::int64_t>() > limit) {
      throw fault(fault_code::bad_input,
                  fmt::format("'system_tokens' must be a whole number from 0 to the document's {}", limit), file);
    }
    input.system_tokens = s->get<std::int32_t>();
  }
  return input;
}

}  // namespace

prompt read_prompt(const run_options& options, const cluster_config& config, const model_config& model,
                   const tokenizer* words) {
  if (options.tokens) return read_tokens(*options.tokens, model.vocabulary);
  if (!options.document)
    throw fault(fault_code::bad_input, "is missing; give --document FILE or --tokens FILE.json", "--document");
  if (!options.question) throw fault(fault_code::bad_input, "is missing; give --question TEXT", "--question");
  const bool piped = *options.document == "-";
  const std::string text = piped ? read_all(std::cin) : read_file(*options.document, "--document");
  if (text.empty())
    throw fault(fault_code::bad_input, "it is empty",
                piped ? "--document (standard input)" : "--document " + *options.document);
  try {
    auto input = make_prompt(*words, config.model.prompt, text, *options.question, config.model.system_prompt);
    for (const auto* ids : {&input.document_ids, &input.query_ids}) {
      const auto outside = std::ranges::find_if(*ids, [&](std::int32_t id) { return id >= model.vocabulary; });
      if (outside != ids->end()) {
        throw fault(
            fault_code::bad_input,
            fmt::format(
                "gives token id {}, the model has a vocabulary of {}: tokenizer and weights do not belong together",
                *outside, model.vocabulary),
            words->source().string());
      }
    }
    return input;
  } catch (const fault& why) {
    // The prompt speaks of "document:line:column"; a person knows the file.
    if (!piped && why.where().starts_with("document")) {
      throw fault(why.code(), why.reason(),
                  *options.document + why.where().substr(std::string_view("document").size()));
    }
    if (why.where().starts_with("question")) throw fault(why.code(), why.reason(), "--" + why.where());
    throw;
  }
}

}  // namespace baton
