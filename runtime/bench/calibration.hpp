#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "kernels/backend.hpp"
#include "runtime/model/model_config.hpp"
#include "runtime/plan/cost_model.hpp"

namespace baton {

/// Measures a device's rates for a model of these sizes in a few seconds: passes of one layer of such a model (of eight on a GPU, which
/// is slower under steady load), whose weights are drawn, over documents of some lengths, in short chunks and in full ones; the best of
/// several runs. Throws fault(out_of_memory). No other pass may run on the device.
/// `longest_s`: what a single pass may take; the longer, the better are pairs told apart from tokens.
device_rates calibrate(backend& kernels, const model_config& model, std::int64_t retaining_width,
                       std::int64_t chunk_tokens, double longest_s = 0.7);

/// What rates are kept under: kernel class, `device` (its threads and cores), processor, the model's sizes.
std::string rates_key(const std::string& kernel_class, const std::string& device, const model_config& model,
                      std::int64_t retaining_width, std::int64_t chunk_tokens);

/// $XDG_CACHE_HOME/baton/rates.json, or below ~/.cache; empty where there is neither.
std::filesystem::path rates_file();

/// Nothing where the file does not have the key, or is not what keep_rates writes.
std::optional<device_rates> find_rates(const std::filesystem::path& file, const std::string& key);
/// Adds to what the file has. A file that cannot be written is no fault: the rates are measured again the next time.
void keep_rates(const std::filesystem::path& file, const std::string& key, const device_rates& rates);

}  // namespace baton
