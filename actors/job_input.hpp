#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "actors/command_line.hpp"
#include "runtime/model/model_config.hpp"
#include "runtime/model/prompt_format.hpp"
#include "runtime/model/tokenizer.hpp"

namespace baton {

/// What `baton run` was given, as token ids: from text through the prompt format, or straight from --tokens.
/// `words` may be null where --tokens is given. Throws fault(bad_input) that names the file, line and column, or the option.
prompt read_prompt(const run_options& options, const cluster_config& config, const model_config& model,
                   const tokenizer* words);

}  // namespace baton
