#include "runtime/device/device_context.hpp"

#include "runtime/model/rope.hpp"

namespace baton {
namespace {

void cut_fixed(layout& cut, const buffer_sizes& kernels, const model_config& config, std::int64_t retaining_width,
               const device_options& options, rope_table& rope, chunk_scratch& scratch) {
  const auto type = kernels.activation_type();
  const std::int64_t chunk = options.chunk_tokens_max;
  rope.cosines = cut.cut_matrix(options.positions_max, config.head_dim / 2, element_type::f32);
  rope.sines = cut.cut_matrix(options.positions_max, config.head_dim / 2, element_type::f32);
  scratch.normed = cut.cut_matrix(chunk, config.hidden, type);
  scratch.gate_up = cut.cut_matrix(chunk, std::int64_t{2} * config.ffn, type);
  scratch.gated = cut.cut_matrix(chunk, config.ffn, type);
  scratch.retain_hidden = cut.cut_matrix(chunk, retaining_width, type);
  scratch.logits = cut.cut_matrix(1, config.vocabulary, element_type::f32);
  scratch.sampling = cut.cut(kernels.sample_workspace_bytes(config.vocabulary));
  scratch.token = reinterpret_cast<std::int32_t*>(cut.cut(sizeof(std::int32_t)));
}

}  // namespace

std::size_t device_context::fixed_bytes(const buffer_sizes& kernels, const model_config& config,
                                        std::int64_t retaining_width, const device_options& options) {
  layout measure;
  rope_table rope;
  chunk_scratch scratch;
  cut_fixed(measure, kernels, config, retaining_width, options, rope, scratch);
  return measure.bytes();
}

device_context::device_context(backend& kernels, const model_weights& weights, const device_options& options)
    : options_(options),
      kernels_(kernels),
      weights_(weights),
      stream_(kernels.make_stream()),
      fixed_(kernels.allocate(fixed_bytes(kernels, weights.config(), weights.retaining_width(), options))),
      arena_(kernels, options.memory_bytes) {
  layout cut(fixed_->data());
  cut_fixed(cut, kernels, weights.config(), weights.retaining_width(), options, rope_, scratch_);
  kernels.fill_rope_table(*stream_, rope_inverse_frequencies(weights.config()), rope_amplitude(weights.config()),
                          rope_);
}

}  // namespace baton
