#include "runtime/device/model_weights.hpp"

#include <array>
#include <cstring>

#include "runtime/device/arena.hpp"

namespace baton {
namespace {

/// A checkpoint's matrix as the host numbers that a backend packs. F16 has no exact bf16 form and goes through fp32.
class host_view {
 public:
  explicit host_view(const tensor_view& tensor) {
    const bool aligned = reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) % alignof(float) == 0;
    view_.rows = tensor.shape.at(0);
    view_.columns = tensor.shape.size() > 1 ? tensor.shape[1] : 1;
    if (aligned && tensor.type == tensor_type::bf16) {
      view_.type = element_type::bf16;
      view_.data = tensor.bytes.data();
    } else if (aligned && tensor.type == tensor_type::f32) {
      view_.type = element_type::f32;
      view_.data = tensor.bytes.data();
    } else {
      converted_ = to_f32(tensor);
      view_.type = element_type::f32;
      view_.data = converted_.data();
    }
  }
  [[nodiscard]] const host_matrix& view() const { return view_; }

 private:
  host_matrix view_;
  std::vector<float> converted_;
};

std::unique_ptr<packed_weights> pack_one(backend& kernels, const tensor_view& tensor) {
  const host_view view(tensor);
  return kernels.pack(std::span(&view.view(), 1));
}

std::uint16_t bf16_of(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

std::int64_t row_width(const model_config& c) {
  return static_cast<std::int64_t>(c.heads + 2 * c.kv_heads) * c.head_dim;
}

struct fixed_weights {
  matrix embedding;
  float* final_norm = nullptr;
  std::vector<float*> norms;  ///< input and post-attention norm of each layer
};

fixed_weights cut_fixed(layout& cut, const model_config& c, element_type type) {
  const auto norm = [&] {
    return reinterpret_cast<float*>(cut.cut(sizeof(float) * static_cast<std::size_t>(c.hidden)));
  };
  fixed_weights fixed;
  fixed.embedding = cut.cut_matrix(c.vocabulary, c.hidden, type);
  fixed.final_norm = norm();
  for (int i = 0; i < 2 * c.layers; ++i) fixed.norms.push_back(norm());
  return fixed;
}

void upload_embedding(backend& kernels, stream& s, const tensor_view& tensor, const matrix& to) {
  const host_view host(tensor);
  const auto numbers = static_cast<std::size_t>(to.rows * to.columns);
  if (host.view().type == to.type) {
    kernels.upload(s, to.data, host.view().data, numbers * static_cast<std::size_t>(bytes_of(to.type)));
  } else if (to.type == element_type::f32) {
    const auto values = to_f32(tensor);
    kernels.upload(s, to.data, values.data(), numbers * sizeof(float));
  } else {
    std::vector<std::uint16_t> rounded(numbers);
    const auto* values = static_cast<const float*>(host.view().data);
    for (std::size_t i = 0; i < numbers; ++i) rounded[i] = bf16_of(values[i]);
    kernels.upload(s, to.data, rounded.data(), numbers * sizeof(std::uint16_t));
  }
  kernels.synchronize(s);
}

void upload_norm(backend& kernels, stream& s, const tensor_view& tensor, float* to) {
  const auto values = to_f32(tensor);
  kernels.upload(s, to, values.data(), values.size() * sizeof(float));
  kernels.synchronize(s);
}

}  // namespace

model_weights::model_weights(backend& kernels, const checkpoint& from) : config_(from.config()) {
  layout measure;
  cut_fixed(measure, config_, kernels.activation_type());
  memory_ = kernels.allocate(measure.bytes());
  layout cut(memory_->data());
  const auto fixed = cut_fixed(cut, config_, kernels.activation_type());
  const auto queue = kernels.make_stream();
  embedding_ = fixed.embedding;
  final_norm_ = fixed.final_norm;
  upload_embedding(kernels, *queue, from.embedding(), embedding_);
  upload_norm(kernels, *queue, from.final_norm(), fixed.final_norm);
  output_head_ = pack_one(kernels, from.output_head());
  for (int i = 0; i < config_.layers; ++i) {
    const auto& source = from.layer(i);
    layer_weights target;
    upload_norm(kernels, *queue, *source.input_norm, fixed.norms[static_cast<std::size_t>(2 * i)]);
    upload_norm(kernels, *queue, *source.post_attention_norm, fixed.norms[static_cast<std::size_t>(2 * i + 1)]);
    target.input_norm = fixed.norms[static_cast<std::size_t>(2 * i)];
    target.post_attention_norm = fixed.norms[static_cast<std::size_t>(2 * i + 1)];
    const host_view q(*source.q), k(*source.k), v(*source.v), gate(*source.gate), up(*source.up);
    target.qkv = kernels.pack(std::array{q.view(), k.view(), v.view()});
    target.o = pack_one(kernels, *source.o);
    target.gate_up = kernels.pack(std::array{gate.view(), up.view()});
    target.down = pack_one(kernels, *source.down);
    if (from.has_retaining_heads()) {
      target.retain_in = pack_one(kernels, *from.retaining_head(i).fc1);
      target.retain_out = pack_one(kernels, *from.retaining_head(i).fc2);
    }
    layers_.push_back(std::move(target));
  }
  bytes_ = bytes_needed(kernels, from);
}

std::int64_t model_weights::retaining_width() const {
  return has_retaining_heads() ? layers_.front().retain_in->outputs() : 0;
}

std::size_t model_weights::bytes_needed(backend& kernels, const checkpoint& from) {
  const auto& c = from.config();
  layout measure;
  cut_fixed(measure, c, kernels.activation_type());
  const std::int64_t attention = static_cast<std::int64_t>(c.heads) * c.head_dim;
  std::size_t layer = kernels.packed_bytes(row_width(c), c.hidden) + kernels.packed_bytes(c.hidden, attention) +
                      kernels.packed_bytes(std::int64_t{2} * c.ffn, c.hidden) + kernels.packed_bytes(c.hidden, c.ffn);
  if (from.has_retaining_heads()) {
    const std::int64_t width = from.retaining_head(0).fc1->shape.at(0);
    layer += kernels.packed_bytes(width, row_width(c)) + kernels.packed_bytes(c.kv_heads, width);
  }
  return measure.bytes() + kernels.packed_bytes(c.vocabulary, c.hidden) + static_cast<std::size_t>(c.layers) * layer;
}

}  // namespace baton
