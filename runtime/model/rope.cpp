#include "runtime/model/rope.hpp"

#include <algorithm>
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

// YaRN (arXiv 2309.00071): dimensions below a ramp keep their frequency, those above it have it divided by the factor.
struct yarn_ramp {
  float low;
  float width;

  explicit yarn_ramp(const model_config& config) {
    const rope_scaling& scaling = config.scaling;
    // The (fractional) dimension that turns so often within the first training's positions.
    const auto dimension_of = [&](double turns) {
      return config.head_dim * std::log(scaling.original_max_positions / (turns * 2 * std::numbers::pi)) /
             (2 * std::log(config.rope_theta));
    };
    double first = dimension_of(scaling.beta_fast), last = dimension_of(scaling.beta_slow);
    if (scaling.truncate) {
      first = std::floor(first);
      last = std::ceil(last);
    }
    first = std::max(first, 0.0);
    last = std::min(last, config.head_dim - 1.0);
    if (first == last) last += 0.001;
    low = static_cast<float>(first);
    width = static_cast<float>(last - first);
  }

  [[nodiscard]] float scaled(float wavelength, std::size_t index, double factor) const {
    const float kept = 1.0F - std::clamp((static_cast<float>(index) - low) / width, 0.0F, 1.0F);
    return 1.0F / (static_cast<float>(factor) * wavelength) * (1.0F - kept) + 1.0F / wavelength * kept;
  }
};

}  // namespace

std::vector<float> rope_inverse_frequencies(const model_config& config) {
  const auto theta = static_cast<float>(config.rope_theta);
  const auto dims = static_cast<float>(config.head_dim);
  std::vector<float> frequencies(static_cast<std::size_t>(config.head_dim) / 2);
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const float wavelength = std::pow(theta, static_cast<float>(2 * i) / dims);
    const float frequency = 1.0F / wavelength;
    switch (config.scaling.type) {
      case rope_scaling::kind::none: frequencies[i] = frequency; break;
      case rope_scaling::kind::linear: frequencies[i] = frequency / static_cast<float>(config.scaling.factor); break;
      case rope_scaling::kind::llama3: frequencies[i] = scale_llama3(frequency, config.scaling); break;
      case rope_scaling::kind::yarn:
        frequencies[i] = yarn_ramp(config).scaled(wavelength, i, config.scaling.factor);
        break;
    }
  }
  return frequencies;
}

float rope_amplitude(const model_config& config) { return static_cast<float>(config.scaling.amplitude); }

}  // namespace baton
