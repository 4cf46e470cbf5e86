#include "tests/support/reference_arithmetic.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace baton::reference {
namespace {

/// Four chains of additions run side by side in a processor; one chain would wait for itself.
template <class A, class B>
double sum_of_products(const A* a, const B* b, std::size_t n) {
  double sums[4] = {};
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (std::size_t j = 0; j < 4; ++j) sums[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
  }
  for (; i < n; ++i) sums[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/// A frequency whose wave is much longer than the training context is divided by the factor, a short one is kept, and
/// those between are interpolated.
float llama3_frequency(float frequency, const rope_scaling& r) {
  const auto factor = static_cast<float>(r.factor);
  const auto context = static_cast<float>(r.original_max_position_embeddings);
  const auto low = static_cast<float>(r.low_freq_factor);
  const auto high = static_cast<float>(r.high_freq_factor);
  const float wavelength = static_cast<float>(2 * std::numbers::pi) / frequency;
  if (wavelength < context / high) return frequency;
  if (wavelength > context / low) return frequency / factor;
  const float smooth = (context / wavelength - low) / (high - low);
  return (1 - smooth) * frequency / factor + smooth * frequency;
}

/// The (fractional) dimension whose wave turns `rotations` times in the training context.
double yarn_dimension(double rotations, const shape& s, const rope_scaling& r) {
  return s.head_dim * std::log(r.original_max_position_embeddings / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(s.rope_theta));
}

/// Dimensions below a ramp keep their frequency, those above have it divided by the factor.
float yarn_frequency(float wavelength, int index, const shape& s, const rope_scaling& r) {
  double low = yarn_dimension(r.beta_fast, s, r);
  double high = yarn_dimension(r.beta_slow, s, r);
  if (r.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, s.head_dim - 1.0);
  if (low == high) high += 0.001;
  const float ramp = (static_cast<float>(index) - static_cast<float>(low)) / static_cast<float>(high - low);
  const float kept = 1 - std::clamp(ramp, 0.0f, 1.0f);
  return 1 / (static_cast<float>(r.factor) * wavelength) * (1 - kept) + 1 / wavelength * kept;
}

double yarn_amplitude(const rope_scaling& r) {
  const auto grown = [&r](double scale) { return r.factor <= 1 ? 1.0 : 0.1 * scale * std::log(r.factor) + 1; };
  if (r.attention_factor) return *r.attention_factor;
  if (r.mscale.value_or(0) != 0 && r.mscale_all_dim.value_or(0) != 0)
    return grown(*r.mscale) / grown(*r.mscale_all_dim);
  return grown(1);
}

}  // namespace

double dot(std::span<const double> a, std::span<const double> b) {
  return sum_of_products(a.data(), b.data(), a.size());
}

row multiply(const linear& l, const row& x) {
  row y(static_cast<std::size_t>(l.outputs));
  for (std::size_t i = 0; i < y.size(); ++i) {
    y[i] = sum_of_products(&l.weight[i * x.size()], x.data(), x.size());
    if (!l.bias.empty()) y[i] += static_cast<double>(l.bias[i]);
  }
  return y;
}

row rms_normed(const row& x, std::span<const float> weight, double eps) {
  const double scale = 1 / std::sqrt(dot(x, x) / static_cast<double>(x.size()) + eps);
  row y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * static_cast<double>(weight[i]);
  return y;
}

double silu(double x) { return x / (1 + std::exp(-x)); }

rotary_embedding::rotary_embedding(const shape& s) {
  for (int i = 0; i < s.head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(s.head_dim);
    const float wavelength = std::pow(static_cast<float>(s.rope_theta), exponent);
    float frequency = 1 / wavelength;
    if (s.scaling && s.scaling->type == "linear") frequency /= static_cast<float>(s.scaling->factor);
    if (s.scaling && s.scaling->type == "llama3") frequency = llama3_frequency(frequency, *s.scaling);
    if (s.scaling && s.scaling->type == "yarn") frequency = yarn_frequency(wavelength, i, s, *s.scaling);
    frequencies_.push_back(frequency);
  }
  if (s.scaling && s.scaling->type == "yarn") amplitude_ = static_cast<float>(yarn_amplitude(*s.scaling));
}

row rotary_embedding::turned(row heads, int position) const {
  const std::size_t half = frequencies_.size();
  for (std::size_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * frequencies_[i];
    const double cosine = static_cast<double>(std::cos(angle) * amplitude_);
    const double sine = static_cast<double>(std::sin(angle) * amplitude_);
    for (std::size_t head = 0; head < heads.size(); head += 2 * half) {
      const double a = heads[head + i];
      const double b = heads[head + i + half];
      heads[head + i] = a * cosine - b * sine;
      heads[head + i + half] = b * cosine + a * sine;
    }
  }
  return heads;
}

}  // namespace baton::reference
