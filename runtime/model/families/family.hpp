#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "runtime/model/config_section.hpp"
#include "runtime/model/model_config.hpp"
#include "runtime/model/refusal_list.hpp"

namespace baton {

/// Models that share an architecture and the meaning of their config.json. A family is one file beside this one and a line in
/// the table of family.cpp; docs/models.md says how to add one.
struct model_family {
  std::string_view model_type;  ///< what config.json calls it
  std::string_view models;      ///< whose published checkpoints belong to it, for people

  // What transformers assumes where config.json lacks the key.
  int max_positions = 0;
  std::optional<int> kv_heads{};  ///< empty: as many as query heads
  std::optional<std::int32_t> bos{};
  std::optional<std::int32_t> stop{};

  /// Reads what means something to this family alone (biases, windows) into `model`, whose sizes are known, and refuses what
  /// would load but compute something else.
  void (*read)(const config_section& config, model_config& model, refusal_list& refusals) = nullptr;
};

const model_family& llama_family();
const model_family& qwen2_family();

/// All of them, by model_type.
std::span<const model_family* const> model_families();
/// Null where there is no such family.
const model_family* find_model_family(std::string_view model_type);
/// `"llama" and "qwen2"`, for messages.
std::string model_family_names();

}  // namespace baton
