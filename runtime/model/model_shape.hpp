#pragma once

#include <cstdint>
#include <filesystem>

#include "runtime/model/model_config.hpp"

namespace baton {

/// A model of which only the sizes are given: its weights are drawn when it is loaded. Such a model computes what one with
/// trained weights computes, in the same time, and answers nothing: it is there to measure with. A plain value.
struct model_shape {
  model_config config;
  std::int64_t retaining_width = 0;  ///< W of the retaining heads; 0: none
  std::uint64_t seed = 0;            ///< of the weights
};

/// Reads a shape's YAML file (configs/shapes/; configs/shapes/small.yaml explains every key). Throws fault(bad_input) with file, line
/// and column.
model_shape load_model_shape(const std::filesystem::path& file);

}  // namespace baton
