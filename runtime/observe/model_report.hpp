#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "kernels/fault.hpp"
#include "runtime/model/model_config.hpp"
#include "runtime/plan/plan_costs.hpp"

namespace baton {

/// The job that memory is told for.
struct report_request {
  std::filesystem::path directory;
  std::optional<std::int64_t> document_tokens;  ///< empty: 32,768, or what fits the context
  int ranks = 8;
};

/// What the rank that takes most needs on a device of its own.
struct rank_memory {
  std::string device;  ///< "cpu" or "gpu"
  element_type precision = element_type::bf16;
  bool is_estimate = false;  ///< no such device was asked
  device_memory_cost cost;
};

/// What a checkpoint directory holds and whether Baton can run it, without its weights being read.
struct model_report {
  std::filesystem::path directory;
  std::vector<fault> refusals;  ///< why it cannot be run; empty: it can
  model_config config;          ///< what could be read; 0 for sizes that could not
  std::string models;           ///< whose checkpoints belong to the family; empty for an unknown one
  std::int64_t parameters = 0;  ///< 0 where sizes are missing

  bool is_shape = false;                      ///< a shape's file in place of a directory: there are no weights
  std::size_t files = 0;                      ///< with weights; 0 where they cannot be opened
  std::int64_t file_bytes = 0;                ///< of their tensors
  std::map<std::string, std::int64_t> types;  ///< how many numbers there are of each type
  std::int64_t retaining_width = 0;           ///< 0: there are no retaining heads

  std::int64_t tokenizer_tokens = 0;  ///< 0: there is no tokenizer that can be used
  std::string tokenizer_file;         ///< which of the directory's files it was read from
  std::string tokenizer_problem;      ///< why not
  std::vector<std::string> prompts;   ///< presets whose special tokens the tokenizer has
  std::string prompt;                 ///< the one that the model's chat template asks for; empty: not known

  std::int64_t document_tokens = 0;  ///< of the job below, as are the next three
  std::int64_t query_tokens = 0;
  int max_new_tokens = 0;
  std::string strategy;
  int ranks = 0;
  std::vector<rank_memory> memory;  ///< empty where the configuration was refused

  [[nodiscard]] bool can_run() const { return refusals.empty(); }
};

/// Throws fault(bad_input) where there is no config.json to speak of, or where the job cannot be (the option and what would be
/// right). What is wrong with the model goes into the report.
model_report inspect_model(const report_request& request);

/// As a person reads it: lines that end with a newline.
std::string describe(const model_report& report);

/// Every field under its own name; lengths in tokens, sizes in bytes.
nlohmann::json to_json(const model_report& report);

}  // namespace baton
