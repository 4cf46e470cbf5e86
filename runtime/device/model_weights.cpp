#include "runtime/device/model_weights.hpp"

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "kernels/random_weight.hpp"
#include "runtime/device/arena.hpp"

namespace baton {
namespace {

std::int64_t row_width(const model_config& c) {
  return static_cast<std::int64_t>(c.heads + 2 * c.kv_heads) * c.head_dim;
}

struct fixed_layer {
  float* input_norm = nullptr;
  float* post_attention_norm = nullptr;
  float* qkv_bias = nullptr;
  float* o_bias = nullptr;
};

struct fixed_weights {
  matrix embedding;
  float* final_norm = nullptr;
  std::vector<fixed_layer> layers;
};

fixed_weights cut_fixed(layout& cut, const model_config& c, element_type type) {
  const auto numbers = [&](std::int64_t count) {
    return reinterpret_cast<float*>(cut.cut(sizeof(float) * static_cast<std::size_t>(count)));
  };
  fixed_weights fixed;
  fixed.embedding = cut.cut_matrix(c.vocabulary, c.hidden, type);
  fixed.final_norm = numbers(c.hidden);
  for (int i = 0; i < c.layers; ++i) {
    fixed_layer& layer = fixed.layers.emplace_back();
    layer.input_norm = numbers(c.hidden);
    layer.post_attention_norm = numbers(c.hidden);
    if (c.qkv_bias) layer.qkv_bias = numbers(row_width(c));
    if (c.o_bias) layer.o_bias = numbers(c.hidden);
  }
  return fixed;
}

std::uint16_t bf16_of(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// Reads tensor after tensor, says how far it is, and lets go of what has been read, so that a checkpoint is never in memory
/// a second time.
class weight_loader {
 public:
  weight_loader(backend& kernels, const checkpoint& from, const load_progress& progress)
      : kernels_(kernels),
        queue_(kernels.make_stream()),
        from_(from),
        progress_(progress),
        total_(from.bytes_to_read()) {}

  /// The rows of these tensors under one another.
  [[nodiscard]] std::unique_ptr<packed_weights> pack(std::initializer_list<const tensor_view*> tensors) {
    if (const auto* numbers = from_.drawn(**tensors.begin())) return draw(tensors, *numbers);
    std::vector<host_matrix> parts;
    std::vector<std::vector<float>> copies;
    std::int64_t after = done_;
    for (const tensor_view* tensor : tensors) {
      host_matrix& part = parts.emplace_back();
      part.rows = tensor->shape.at(0);
      part.columns = tensor->shape.at(1);
      part.type = tensor->type == tensor_type::f32    ? host_type::f32
                  : tensor->type == tensor_type::bf16 ? host_type::bf16
                                                      : host_type::f16;
      part.data = tensor->bytes.data();
      after += static_cast<std::int64_t>(tensor->bytes.size());
      if (reinterpret_cast<std::uintptr_t>(part.data) % static_cast<std::uintptr_t>(bytes_of(part.type)) != 0) {
        // The format allows it, though no library writes it.
        part.data = copies.emplace_back(to_f32(*tensor)).data();
        part.type = host_type::f32;
      }
    }
    auto weights = kernels_.pack(parts, [&](std::span<const std::byte> bytes) { done(bytes, after); });
    for (const tensor_view* tensor : tensors) done(tensor->bytes, after);
    return weights;
  }

  /// Rows of a table, in the type of activations.
  void upload(const tensor_view& tensor, const matrix& to) {
    if (const auto* numbers = from_.drawn(tensor)) {
      kernels_.fill_random(*queue_, to, numbers->seed, numbers->scale);
      kernels_.synchronize(*queue_);
      return drew(to.rows * to.columns);
    }
    constexpr std::int64_t piece_bytes = 8 << 20;
    const std::int64_t row_bytes = std::max<std::int64_t>(static_cast<std::int64_t>(tensor.bytes.size()) / to.rows, 1);
    const std::int64_t rows_max = std::max<std::int64_t>(piece_bytes / row_bytes, 1);
    const auto same = to.type == element_type::bf16 ? tensor_type::bf16 : tensor_type::f32;
    for (std::int64_t first = 0; first < to.rows; first += rows_max) {
      const std::int64_t rows = std::min(rows_max, to.rows - first);
      const tensor_view piece{tensor.name,
                              tensor.type,
                              {rows, to.columns},
                              tensor.bytes.subspan(static_cast<std::size_t>(first * row_bytes),
                                                   static_cast<std::size_t>(rows * row_bytes))};
      const matrix target = to.slice_rows(first, rows);
      const auto target_bytes = static_cast<std::size_t>(rows * to.columns * bytes_of(to.type));
      if (piece.type == same) {
        kernels_.upload(*queue_, target.data, piece.bytes.data(), target_bytes);
        kernels_.synchronize(*queue_);
      } else {
        const auto values = to_f32(piece);
        std::vector<std::uint16_t> rounded;
        if (to.type == element_type::bf16) {
          rounded.resize(values.size());
          std::ranges::transform(values, rounded.begin(), bf16_of);
        }
        const void* const source = rounded.empty() ? static_cast<const void*>(values.data()) : rounded.data();
        kernels_.upload(*queue_, target.data, source, target_bytes);
        kernels_.synchronize(*queue_);
      }
      done(piece.bytes, done_ + static_cast<std::int64_t>(piece.bytes.size()));
    }
  }

  /// Vectors one behind the other, in fp32.
  void upload(std::initializer_list<const tensor_view*> tensors, float* to) {
    for (const tensor_view* tensor : tensors) {
      const auto* numbers = from_.drawn(*tensor);
      const auto values = numbers != nullptr ? drawn_vector(*tensor, *numbers) : to_f32(*tensor);
      kernels_.upload(*queue_, to, values.data(), values.size() * sizeof(float));
      kernels_.synchronize(*queue_);
      to += values.size();
      if (numbers != nullptr) {
        drew(static_cast<std::int64_t>(values.size()));
        continue;
      }
      done(tensor->bytes, done_ + static_cast<std::int64_t>(tensor->bytes.size()));
    }
  }

 private:
  /// Fused weights are drawn as one matrix.
  std::unique_ptr<packed_weights> draw(std::initializer_list<const tensor_view*> tensors,
                                       const drawn_numbers& numbers) {
    std::int64_t rows = 0;
    for (const tensor_view* tensor : tensors) rows += tensor->shape.at(0);
    const std::int64_t columns = (*tensors.begin())->shape.at(1);
    auto weights = kernels_.pack_random(rows, columns, numbers.seed, numbers.scale);
    drew(rows * columns);
    return weights;
  }

  static std::vector<float> drawn_vector(const tensor_view& tensor, const drawn_numbers& numbers) {
    const random_weights draw(numbers.seed, numbers.scale);
    std::vector<float> values(static_cast<std::size_t>(tensor.shape.at(0)));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = numbers.offset + draw(i);
    return values;
  }

  /// So many numbers were drawn: two bytes each, as checkpoint::bytes_to_read counts them.
  void drew(std::int64_t numbers) {
    done_ += 2 * numbers;
    if (progress_) progress_(done_, total_);
  }

  /// `most`: what will have been read of the checkpoint when the tensors under way are through.
  void done(std::span<const std::byte> bytes, std::int64_t most) {
    from_.let_go(bytes);
    done_ = std::min(done_ + static_cast<std::int64_t>(bytes.size()), most);
    if (progress_) progress_(done_, total_);
  }

  backend& kernels_;
  std::unique_ptr<stream> queue_;
  const checkpoint& from_;
  const load_progress& progress_;
  std::int64_t total_;
  std::int64_t done_ = 0;
};

}  // namespace

model_weights::model_weights(backend& kernels, const checkpoint& from, const load_progress& progress)
    : config_(from.config()) {
  layout measure;
  cut_fixed(measure, config_, kernels.activation_type());
  memory_ = kernels.allocate(measure.bytes());
  layout cut(memory_->data());
  const auto fixed = cut_fixed(cut, config_, kernels.activation_type());
  weight_loader load(kernels, from, progress);
  embedding_ = fixed.embedding;
  load.upload(from.embedding(), embedding_);
  for (int i = 0; i < config_.layers; ++i) {
    const auto& source = from.layer(i);
    const auto& place = fixed.layers[static_cast<std::size_t>(i)];
    layer_weights target;
    load.upload({source.input_norm}, place.input_norm);
    target.input_norm = place.input_norm;
    target.qkv = load.pack({source.q, source.k, source.v});
    if (config_.qkv_bias) load.upload({source.q_bias, source.k_bias, source.v_bias}, place.qkv_bias);
    target.qkv_bias = place.qkv_bias;
    target.o = load.pack({source.o});
    if (config_.o_bias) load.upload({source.o_bias}, place.o_bias);
    target.o_bias = place.o_bias;
    load.upload({source.post_attention_norm}, place.post_attention_norm);
    target.post_attention_norm = place.post_attention_norm;
    target.gate_up = load.pack({source.gate, source.up});
    target.down = load.pack({source.down});
    if (from.has_retaining_heads()) {
      target.retain_in = load.pack({from.retaining_head(i).fc1});
      target.retain_out = load.pack({from.retaining_head(i).fc2});
    }
    layers_.push_back(std::move(target));
  }
  load.upload({&from.final_norm()}, fixed.final_norm);
  final_norm_ = fixed.final_norm;
  output_head_ = load.pack({&from.output_head()});
  bytes_ = bytes_needed(kernels, config_, from.retaining_width());
}

std::int64_t model_weights::retaining_width() const {
  return has_retaining_heads() ? layers_.front().retain_in->outputs() : 0;
}

std::size_t model_weights::bytes_needed(const buffer_sizes& kernels, const model_config& c,
                                        std::int64_t retaining_width) {
  layout measure;
  cut_fixed(measure, c, kernels.activation_type());
  const std::int64_t attention = static_cast<std::int64_t>(c.heads) * c.head_dim;
  std::size_t layer = kernels.packed_bytes(row_width(c), c.hidden) + kernels.packed_bytes(c.hidden, attention) +
                      kernels.packed_bytes(std::int64_t{2} * c.ffn, c.hidden) + kernels.packed_bytes(c.hidden, c.ffn);
  if (retaining_width > 0) {
    layer += kernels.packed_bytes(retaining_width, row_width(c)) + kernels.packed_bytes(c.kv_heads, retaining_width);
  }
  return measure.bytes() + kernels.packed_bytes(c.vocabulary, c.hidden) + static_cast<std::size_t>(c.layers) * layer;
}

}  // namespace baton
