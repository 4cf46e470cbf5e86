#include "runtime/model/rope.hpp"

#include <cmath>
#include <numbers>

namespace baton {
namespace {

// Llama 3.1: long wavelengths are stretched, short ones kept, those between interpolated. Here as in PyTorch a number
// divided by a tensor is the tensor's reciprocal times the number, which rounds twice.
float scale_llama3(float frequency, const rope_scaling& scaling) {
  const double original = scaling.original_max_positions;
  const auto long_wavelength = static_cast<float>(original / scaling.low_frequency_factor);
  const auto short_wavelength = static_cast<float>(original / scaling.high_frequency_factor);
  const auto factor = static_cast<float>(scaling.factor);

  const float wavelength = 1.0F / frequency * static_cast<float>(2 * std::numbers::pi);
  if (wavelength > long_wavelength) return frequency / factor;
  if (wavelength < short_wavelength) return frequency;
  const float kept =
      (1.0F / wavelength * static_cast<float>(original) - static_cast<float>(scaling.low_frequency_factor)) /
      static_cast<float>(scaling.high_frequency_factor - scaling.low_frequency_factor);
  return (1.0F - kept) * frequency / factor + kept * frequency;
}

}  // namespace

std::vector<float> rope_inverse_frequencies(const model_config& config) {
  const auto theta = static_cast<float>(config.rope_theta);
  const auto dims = static_cast<float>(config.head_dim);
  std::vector<float> frequencies(static_cast<std::size_t>(config.head_dim) / 2);
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const float frequency = 1.0F / std::pow(theta, static_cast<float>(2 * i) / dims);
    switch (config.scaling.type) {
      case rope_scaling::kind::none: frequencies[i] = frequency; break;
      case rope_scaling::kind::linear: frequencies[i] = frequency / static_cast<float>(config.scaling.factor); break;
      case rope_scaling::kind::llama3: frequencies[i] = scale_llama3(frequency, config.scaling); break;
    }
  }
  return frequencies;
}

}  // namespace baton
