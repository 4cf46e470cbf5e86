#include "kernels/cuda/sdpa.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/cuda/block_attention.hpp"
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/libraries.hpp"

namespace baton::cuda {
namespace {

constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

/// cuDNN declined: this configuration, or the whole pattern.
struct declined {
  std::string why;
};

class api {
 public:
  static const cudnn_functions& get() {
    std::string why;
    return *find_cudnn(why);
  }
  static void check(cudnnStatus_t status, const char* what) {
    if (status == CUDNN_STATUS_SUCCESS) return;
    std::array<char, 512> more{};
    get().last_error_string(more.data(), more.size());
    throw declined{std::string(what) + ": " + get().error_string(status) + ", " + more.data()};
  }
};

/// A backend descriptor. Set its attributes, then finalize it.
class descriptor {
 public:
  explicit descriptor(cudnnBackendDescriptorType_t type) {
    api::check(api::get().descriptor_create(type, &raw_), "cudnnBackendCreateDescriptor");
  }
  descriptor(descriptor&& other) noexcept : raw_(std::exchange(other.raw_, nullptr)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    std::swap(raw_, other.raw_);
    return *this;
  }
  ~descriptor() {
    if (raw_ != nullptr) api::get().descriptor_destroy(raw_);
  }

  template <class Value>
  descriptor& set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const Value& value) {
    api::check(api::get().descriptor_set(raw_, name, type, 1, &value), "cudnnBackendSetAttribute");
    return *this;
  }
  template <class Value>
  descriptor& set_all(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                      const std::vector<Value>& values) {
    api::check(api::get().descriptor_set(raw_, name, type, static_cast<std::int64_t>(values.size()), values.data()),
               "cudnnBackendSetAttribute");
    return *this;
  }
  descriptor& set(cudnnBackendAttributeName_t name, const descriptor& other) {
    return set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, other.raw_);
  }
  descriptor& finalize() {
    api::check(api::get().descriptor_finalize(raw_), "cudnnBackendFinalize");
    return *this;
  }
  [[nodiscard]] cudnnBackendDescriptor_t raw() const { return raw_; }

 private:
  cudnnBackendDescriptor_t raw_ = nullptr;
};

using dimensions = std::vector<std::int64_t>;

dimensions packed_strides(const dimensions& sizes) {
  dimensions strides(sizes.size(), 1);
  for (std::size_t i = sizes.size() - 1; i > 0; --i) strides[i - 1] = strides[i] * sizes[i];
  return strides;
}

/// Names of the tensors that have memory, or are numbers that go in by value.
enum tensor_name : std::int64_t {
  q_name = 1,
  k_name,
  v_name,
  o_name,
  stats_name,
  scale_name,
  infinity_name,
  shift_name,
  shift_back_name
};

/// The graph as its operations are added; what lies between two of them is a virtual tensor.
class graph {
 public:
  const descriptor& memory(std::int64_t name, cudnnDataType_t type, const dimensions& sizes,
                           const dimensions& strides) {
    return add_tensor(name, type, sizes, strides, false, false);
  }
  const descriptor& number(std::int64_t name, cudnnDataType_t type) {
    return add_tensor(name, type, {1, 1, 1, 1}, {1, 1, 1, 1}, false, true);
  }
  const descriptor& between(cudnnDataType_t type, const dimensions& sizes) {
    return add_tensor(next_virtual_++, type, sizes, packed_strides(sizes), true, false);
  }

  void matmul(const descriptor& a, const descriptor& b, const descriptor& c) {
    const descriptor& how = keep(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    last().set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT).finalize();
    operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR)
        .set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, a)
        .set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, b)
        .set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, c)
        .set(CUDNN_ATTR_OPERATION_MATMUL_DESC, how)
        .finalize();
  }
  /// y = mode(x, b), with t as the condition of a selection; b and t may be null.
  void pointwise(cudnnPointwiseMode_t mode, cudnnDataType_t precision, const descriptor& x, const descriptor* b,
                 const descriptor* t, const descriptor& y, std::int64_t axis = -1) {
    const descriptor& how = keep(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    last()
        .set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, mode)
        .set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, precision);
    if (axis >= 0) last().set(CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, axis);
    last().finalize();
    auto& made = operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)
                     .set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how)
                     .set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x)
                     .set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    if (b != nullptr) made.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *b);
    if (t != nullptr) made.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, *t);
    made.finalize();
  }
  void reduce(cudnnReduceTensorOp_t mode, const descriptor& x, const descriptor& y) {
    const descriptor& how = keep(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    last()
        .set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, mode)
        .set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT)
        .finalize();
    operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR)
        .set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x)
        .set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y)
        .set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, how)
        .finalize();
  }

  descriptor finalized(cudnnHandle_t handle) {
    descriptor all(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    all.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, handle)
        .set_all(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, operations_)
        .finalize();
    return all;
  }

 private:
  descriptor& keep(cudnnBackendDescriptorType_t type) {
    parts_.push_back(std::make_unique<descriptor>(type));
    return *parts_.back();
  }
  descriptor& last() { return *parts_.back(); }
  descriptor& operation(cudnnBackendDescriptorType_t type) {
    descriptor& made = keep(type);
    operations_.push_back(made.raw());
    return made;
  }
  const descriptor& add_tensor(std::int64_t name, cudnnDataType_t type, const dimensions& sizes,
                               const dimensions& strides, bool is_virtual, bool by_value) {
    descriptor& made = keep(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    made.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, name)
        .set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type)
        .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, std::int64_t{16})
        .set_all(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, sizes)
        .set_all(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, strides);
    if (is_virtual) made.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, true);
    if (by_value) made.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, true);
    made.finalize();
    return made;
  }

  std::vector<std::unique_ptr<descriptor>> parts_;
  std::vector<cudnnBackendDescriptor_t> operations_;
  std::int64_t next_virtual_ = 100;
};

}  // namespace

class sdpa::plan {
 public:
  /// Throws declined.
  plan(cudnnHandle_t handle, const shape& key, bool two_shifts) {
    const auto [queries, keys, heads, kv_heads, dim, q_stride, k_stride, v_stride, o_stride, causal] = key;
    shift_ = static_cast<std::int32_t>(two_shifts ? keys : keys - queries);
    shift_back_ = static_cast<std::int32_t>(queries);
    two_shifts_ = two_shifts;
    causal_ = causal;
    graph g;
    const dimensions scores_size{1, heads, queries, keys};
    const dimensions rows_size{1, heads, queries, 1};
    const auto fp32 = CUDNN_DATA_FLOAT;
    const auto& q =
        g.memory(q_name, CUDNN_DATA_BFLOAT16, {1, heads, queries, dim}, {queries * q_stride, dim, q_stride, 1});
    const auto& k =
        g.memory(k_name, CUDNN_DATA_BFLOAT16, {1, kv_heads, dim, keys}, {keys * k_stride, dim, 1, k_stride});
    const auto& v =
        g.memory(v_name, CUDNN_DATA_BFLOAT16, {1, kv_heads, keys, dim}, {keys * v_stride, dim, v_stride, 1});
    const auto& o =
        g.memory(o_name, CUDNN_DATA_BFLOAT16, {1, heads, queries, dim}, {queries * o_stride, dim, o_stride, 1});
    const auto& stats = g.memory(stats_name, fp32, rows_size, packed_strides(rows_size));
    const auto& scale = g.number(scale_name, fp32);

    const auto& products = g.between(fp32, scores_size);
    g.matmul(q, k, products);
    const descriptor* scores = &g.between(fp32, scores_size);
    g.pointwise(CUDNN_POINTWISE_MUL, fp32, products, &scale, nullptr, *scores);
    if (causal) {
      const auto& infinity = g.number(infinity_name, fp32);
      const auto& row = g.between(CUDNN_DATA_INT32, scores_size);
      g.pointwise(CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, *scores, nullptr, nullptr, row, 2);
      const descriptor* shifted = &row;
      if (shift_ != 0 || two_shifts) {
        const auto& shift = g.number(shift_name, CUDNN_DATA_INT32);
        const auto& moved = g.between(CUDNN_DATA_INT32, scores_size);
        g.pointwise(CUDNN_POINTWISE_ADD, CUDNN_DATA_INT32, row, &shift, nullptr, moved);
        shifted = &moved;
      }
      if (two_shifts) {
        const auto& shift_back = g.number(shift_back_name, CUDNN_DATA_INT32);
        const auto& moved = g.between(CUDNN_DATA_INT32, scores_size);
        g.pointwise(CUDNN_POINTWISE_SUB, CUDNN_DATA_INT32, *shifted, &shift_back, nullptr, moved);
        shifted = &moved;
      }
      const auto& column = g.between(CUDNN_DATA_INT32, scores_size);
      g.pointwise(CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, *scores, nullptr, nullptr, column, 3);
      const auto& seen = g.between(CUDNN_DATA_BOOLEAN, scores_size);
      g.pointwise(CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN, *shifted, &column, nullptr, seen);
      const auto& masked = g.between(fp32, scores_size);
      g.pointwise(CUDNN_POINTWISE_BINARY_SELECT, fp32, *scores, &infinity, &seen, masked);
      scores = &masked;
    }
    const auto& largest = g.between(fp32, rows_size);
    g.reduce(CUDNN_REDUCE_TENSOR_MAX, *scores, largest);
    const auto& below = g.between(fp32, scores_size);
    g.pointwise(CUDNN_POINTWISE_SUB, fp32, *scores, &largest, nullptr, below);
    const auto& weights = g.between(fp32, scores_size);
    g.pointwise(CUDNN_POINTWISE_EXP, fp32, below, nullptr, nullptr, weights);
    const auto& sum = g.between(fp32, rows_size);
    g.reduce(CUDNN_REDUCE_TENSOR_ADD, weights, sum);
    const auto& log_sum = g.between(fp32, rows_size);
    g.pointwise(CUDNN_POINTWISE_LOG, fp32, sum, nullptr, nullptr, log_sum);
    g.pointwise(CUDNN_POINTWISE_ADD, fp32, log_sum, &largest, nullptr, stats);
    const auto& probabilities = g.between(CUDNN_DATA_BFLOAT16, scores_size);
    g.pointwise(CUDNN_POINTWISE_DIV, fp32, weights, &sum, nullptr, probabilities);
    g.matmul(probabilities, v, o);

    const descriptor all = g.finalized(handle);
    descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, all)
        .set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, CUDNN_HEUR_MODE_A)
        .finalize();
    std::int64_t found = 0;
    api::check(api::get().descriptor_get(heuristics.raw(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                         0, &found, nullptr),
               "ENGINEHEUR_RESULTS");
    std::vector<descriptor> configurations;
    std::vector<cudnnBackendDescriptor_t> raw;
    for (std::int64_t i = 0; i < found; ++i) {
      configurations.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
      raw.push_back(configurations.back().raw());
    }
    api::check(api::get().descriptor_get(heuristics.raw(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                         found, &found, raw.data()),
               "ENGINEHEUR_RESULTS");
    std::string why = "no engine takes it";
    for (std::int64_t i = 0; i < found; ++i) {
      try {
        descriptor made(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
        made.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, handle)
            .set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configurations[static_cast<std::size_t>(i)])
            .finalize();
        std::int64_t bytes = 0;
        std::int64_t one = 0;
        api::check(api::get().descriptor_get(made.raw(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                                             &one, &bytes),
                   "WORKSPACE_SIZE");
        if (bytes > static_cast<std::int64_t>(workspace_bytes)) throw declined{"its workspace is too large"};
        plan_.emplace_back(std::move(made));
        engine_ = name_of_engine(configurations[static_cast<std::size_t>(i)]);
        return;
      } catch (const declined& reason) {
        why = reason.why;
      }
    }
    throw declined{why};
  }

  [[nodiscard]] const std::string& engine() const { return engine_; }

  void run(cudnnHandle_t handle, const void* q, const void* k, const void* v, void* o, float* stats, float scale,
           void* workspace) const {
    const float infinity = -std::numeric_limits<float>::infinity();
    std::vector<std::int64_t> names{q_name, k_name, v_name, o_name, stats_name, scale_name};
    std::vector<const void*> places{q, k, v, o, stats, &scale};
    if (causal_) {
      names.push_back(infinity_name);
      places.push_back(&infinity);
      if (shift_ != 0 || two_shifts_) {
        names.push_back(shift_name);
        places.push_back(&shift_);
      }
      if (two_shifts_) {
        names.push_back(shift_back_name);
        places.push_back(&shift_back_);
      }
    }
    try {
      descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
      pack.set_all(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, names)
          .set_all(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, places)
          .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, workspace)
          .finalize();
      api::check(api::get().execute(handle, plan_.front().raw(), pack.raw()), "cudnnBackendExecute");
    } catch (const declined& reason) {
      throw fault(fault_code::device, reason.why, "attend");
    }
  }

 private:
  static std::string name_of_engine(const descriptor& configuration) {
    descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    cudnnBackendDescriptor_t raw = engine.raw();
    std::int64_t count = 0;
    std::int64_t index = -1;
    const auto& cudnn = api::get();
    if (cudnn.descriptor_get(configuration.raw(), CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count,
                             &raw) != CUDNN_STATUS_SUCCESS ||
        cudnn.descriptor_get(raw, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &count, &index) !=
            CUDNN_STATUS_SUCCESS) {
      return "unknown engine";
    }
    return "engine " + std::to_string(index);
  }

  std::vector<descriptor> plan_;  // one
  std::string engine_;
  std::int32_t shift_ = 0;
  std::int32_t shift_back_ = 0;
  bool two_shifts_ = false;
  bool causal_ = false;
};

sdpa::sdpa(backend& device) : device_(device) {
  const auto* const cudnn = find_cudnn(missing_);
  if (cudnn == nullptr) return;
  cudnnHandle_t handle = nullptr;
  const auto status = cudnn->create(&handle);
  if (status != CUDNN_STATUS_SUCCESS) {
    missing_ = std::string("cudnnCreate: ") + cudnn->error_string(status);
    return;
  }
  handle_ = handle;
  workspace_ = device_.allocate(workspace_bytes);
}

sdpa::~sdpa() {
  plans_.clear();
  if (handle_ != nullptr) api::get().destroy(static_cast<cudnnHandle_t>(handle_));
}

std::string sdpa::version() const {
  if (handle_ == nullptr) return "none";
  const std::size_t number = api::get().version();
  return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." + std::to_string(number % 100);
}

/// Few queries or keys are not worth a plan; cuDNN wants heads of a multiple of 8 numbers, up to 128, and rows that begin at
/// multiples of 16 bytes.
bool sdpa::takes(const head_matrix& q, const head_matrix& keys, const head_matrix& values, const attention_mask& mask,
                 const head_matrix& out) const {
  const auto aligned = [](const head_matrix& x) {
    return x.stride % 8 == 0 && reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0;
  };
  return handle_ != nullptr && q.tokens >= 128 && mask.keys >= 256 && (q.dim == 64 || q.dim == 128) &&
         (!mask.causal || mask.first_query + q.tokens <= mask.keys) && mask.first_query >= 0 && aligned(q) &&
         aligned(keys) && aligned(values) && aligned(out);
}

const sdpa::plan* sdpa::plan_for(const shape& key) {
  const auto found = plans_.find(key);
  if (found != plans_.end()) return found->second.get();
  auto& made = plans_[key];
  for (const bool two_shifts : {false, true}) {
    if (two_shifts && !std::get<9>(key)) break;
    try {
      made = std::make_unique<plan>(static_cast<cudnnHandle_t>(handle_), key, two_shifts);
      return made.get();
    } catch (const declined&) {
      // Another way to say it, or none: our own kernel.
    }
  }
  return nullptr;
}

void sdpa::reserve(std::size_t bytes) {
  if (parts_ == nullptr || parts_->bytes() < bytes) {
    parts_.reset();
    parts_ = device_.allocate(bytes);
  }
}

namespace {

std::size_t output_bytes(const head_matrix& q) {
  return static_cast<std::size_t>(q.tokens * q.heads * q.dim * 2 + 255) / 256 * 256;
}
std::size_t stats_bytes(const head_matrix& q) { return static_cast<std::size_t>(q.tokens * q.heads * 4); }

}  // namespace

void sdpa::prepare(const head_matrix& q, const head_matrix& keys, const head_matrix& values, const attention_mask& mask,
                   const head_matrix& out) {
  if (!takes(q, keys, values, mask, out)) return;
  const std::int64_t seen = mask.causal ? mask.first_query + q.tokens : mask.keys;
  // Merged results come from a place of their own: both kinds of plans may be needed for dense attention.
  const std::int64_t gapless = std::int64_t{q.heads} * q.dim;
  const auto make = [&](std::int64_t out_stride) {
    plan_for(
        {q.tokens, seen, q.heads, keys.heads, q.dim, q.stride, keys.stride, values.stride, out_stride, mask.causal});
  };
  make(mask.causal ? out.stride : gapless);
  reserve(output_bytes(q) + stats_bytes(q));
}

bool sdpa::attend(stream_handle s, const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                  const attention_mask& mask, float scale, const head_matrix& out, const matrix& log_sum_exp,
                  attention_result result) {
  if (!takes(q, keys, values, mask, out)) return false;
  const bool merge = result == attention_result::merge;
  const std::int64_t seen = mask.causal ? mask.first_query + q.tokens : mask.keys;
  const std::int64_t gapless = std::int64_t{q.heads} * q.dim;
  const plan* found = plan_for({q.tokens, seen, q.heads, keys.heads, q.dim, q.stride, keys.stride, values.stride,
                                merge ? gapless : out.stride, mask.causal});
  if (found == nullptr) return false;
  reserve(output_bytes(q) + stats_bytes(q));
  head_matrix part = out;
  if (merge) part = {parts_->data(), element_type::bf16, q.tokens, q.heads, q.dim, gapless};
  auto* const stats = reinterpret_cast<float*>(parts_->data() + output_bytes(q));
  auto* const handle = static_cast<cudnnHandle_t>(handle_);
  if (const auto status = api::get().set_stream(handle, s); status != CUDNN_STATUS_SUCCESS) {
    throw fault(fault_code::device, std::string("cudnnSetStream: ") + api::get().error_string(status), "attend");
  }
  found->run(handle, q.data, keys.data, values.data, part.data, stats, scale, workspace_->data());
  launch_settle_attention(s, part, stats, out, log_sum_exp, result);
  return true;
}

std::string sdpa::engine_of(const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                            const attention_mask& mask) {
  head_matrix out = q;
  out.stride = std::int64_t{q.heads} * q.dim;
  if (!takes(q, keys, values, mask, out)) return {};
  const std::int64_t seen = mask.causal ? mask.first_query + q.tokens : mask.keys;
  const plan* found = plan_for(
      {q.tokens, seen, q.heads, keys.heads, q.dim, q.stride, keys.stride, values.stride, out.stride, mask.causal});
  return found == nullptr ? std::string() : found->engine();
}

}  // namespace baton::cuda
