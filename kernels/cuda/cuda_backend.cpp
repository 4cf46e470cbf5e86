#include "kernels/cuda/cuda_backend.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <utility>

#include <cuda_runtime_api.h>

#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/cuda/block_attention.hpp"
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/compressor.hpp"
#include "kernels/cuda/cuda_sizes.hpp"
#include "kernels/cuda/decode_attention.hpp"
#include "kernels/cuda/linear.hpp"
#include "kernels/cuda/random_fill.hpp"
#include "kernels/cuda/sampling.hpp"
#include "kernels/cuda/sdpa.hpp"
#include "kernels/cuda/token_wise.hpp"

namespace baton::cuda {
namespace {

class cuda_stream final : public stream {
 public:
  cuda_stream() { check_cuda(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  ~cuda_stream() override { cudaStreamDestroy(handle_); }
  cuda_stream(const cuda_stream&) = delete;
  cuda_stream& operator=(const cuda_stream&) = delete;

  [[nodiscard]] stream_handle handle() const { return handle_; }

 private:
  cudaStream_t handle_ = nullptr;
};

stream_handle handle_of(const stream& s) { return dynamic_cast<const cuda_stream&>(s).handle(); }

class cuda_event final : public event {
 public:
  explicit cuda_event(stream_handle s) {
    check_cuda(cudaEventCreate(&handle_), "cudaEventCreate");
    if (const auto error = cudaEventRecord(handle_, s); error != cudaSuccess) {
      cudaEventDestroy(handle_);
      check_cuda(error, "cudaEventRecord");
    }
  }
  ~cuda_event() override { cudaEventDestroy(handle_); }
  cuda_event(const cuda_event&) = delete;
  cuda_event& operator=(const cuda_event&) = delete;

  [[nodiscard]] bool reached() const override {
    const auto state = cudaEventQuery(handle_);
    if (state == cudaErrorNotReady) return false;
    check_cuda(state, "cudaEventQuery");
    return true;
  }
  [[nodiscard]] cudaEvent_t handle() const { return handle_; }
  void wait() const override { check_cuda(cudaEventSynchronize(handle_), "cudaEventSynchronize"); }
  [[nodiscard]] double seconds_since(const event& earlier) const override {
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, dynamic_cast<const cuda_event&>(earlier).handle_, handle_),
               "cudaEventElapsedTime");
    return static_cast<double>(milliseconds) / 1000;
  }

 private:
  cudaEvent_t handle_ = nullptr;
};

class cuda_graph final : public launch_graph {
 public:
  explicit cuda_graph(cudaGraph_t made) {
    const auto error = cudaGraphInstantiate(&handle_, made, 0);
    cudaGraphDestroy(made);
    check_cuda(error, "cudaGraphInstantiate");
  }
  ~cuda_graph() override { cudaGraphExecDestroy(handle_); }
  cuda_graph(const cuda_graph&) = delete;
  cuda_graph& operator=(const cuda_graph&) = delete;

  [[nodiscard]] cudaGraphExec_t handle() const { return handle_; }

 private:
  cudaGraphExec_t handle_ = nullptr;
};

class gpu_memory final : public device_memory {
 public:
  explicit gpu_memory(std::size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    const auto error = cudaMalloc(reinterpret_cast<void**>(&data_), bytes);
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();  // it is told here, and to nobody else
      std::size_t free = 0;
      std::size_t total = 0;
      (void)cudaMemGetInfo(&free, &total);
      throw fault(fault_code::out_of_memory, "cannot take " + std::to_string(bytes) + " bytes of the GPU's memory; " +
                                                 std::to_string(free) + " of " + std::to_string(total) + " are free");
    }
    check_cuda(error, "cudaMalloc");
  }
  ~gpu_memory() override {
    if (data_ != nullptr) cudaFree(data_);
  }
  gpu_memory(const gpu_memory&) = delete;
  gpu_memory& operator=(const gpu_memory&) = delete;

  [[nodiscard]] std::byte* data() const override { return data_; }
  [[nodiscard]] std::size_t bytes() const override { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_;
};

class pinned_memory final : public device_memory {
 public:
  explicit pinned_memory(std::size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    const auto error = cudaMallocHost(reinterpret_cast<void**>(&data_), bytes);
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      throw fault(fault_code::out_of_memory, "cannot take " + std::to_string(bytes) + " bytes of pinned host memory");
    }
    check_cuda(error, "cudaMallocHost");
  }
  ~pinned_memory() override {
    if (data_ != nullptr) cudaFreeHost(data_);
  }
  pinned_memory(const pinned_memory&) = delete;
  pinned_memory& operator=(const pinned_memory&) = delete;

  [[nodiscard]] std::byte* data() const override { return data_; }
  [[nodiscard]] std::size_t bytes() const override { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_;
};

cudaDeviceProp properties_of(int index) {
  const int count = device_count();
  if (index < 0 || index >= count) {
    throw fault(fault_code::bad_input,
                "there is no GPU " + std::to_string(index) + "; this process sees " + std::to_string(count), "index");
  }
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  if (properties.major < 8) {
    throw fault(fault_code::bad_input,
                std::string("the GPU ") + properties.name + " has no bf16 arithmetic; compute capability 8.0 is needed",
                "index");
  }
  return properties;
}

class cuda_backend final : public backend {
 public:
  explicit cuda_backend(const cuda_options& options)
      : index_(options.index), cores_(options.cores), properties_(here(options.index)), linear_(*this), sdpa_(*this) {
    kernel_class_ = "cuda-sm" + std::to_string(properties_.major) + std::to_string(properties_.minor) + "-cublas" +
                    linear_.version() + "-cudnn" + sdpa_.version();
  }

  [[nodiscard]] std::string kernel_class() const override { return kernel_class_; }
  void adopt_compute_thread() override {
    use();
    if (!cores_.empty()) cpu::keep_to(cores_);
  }

  // ---- sizes ----
  [[nodiscard]] element_type activation_type() const override { return sizes_.activation_type(); }
  [[nodiscard]] std::int64_t block_multiple() const override { return sizes_.block_multiple(); }
  [[nodiscard]] std::size_t packed_bytes(std::int64_t outputs, std::int64_t inputs) const override {
    return sizes_.packed_bytes(outputs, inputs);
  }
  [[nodiscard]] std::size_t panel_bytes(std::int64_t tokens_max, int kv_heads, int dim) const override {
    return sizes_.panel_bytes(tokens_max, kv_heads, dim);
  }
  [[nodiscard]] std::size_t decode_attention_workspace_bytes(std::int64_t keys, int heads, int dim) const override {
    return sizes_.decode_attention_workspace_bytes(keys, heads, dim);
  }
  [[nodiscard]] std::size_t select_workspace_bytes(std::int64_t tokens, int kv_heads) const override {
    return sizes_.select_workspace_bytes(tokens, kv_heads);
  }
  [[nodiscard]] std::size_t sample_workspace_bytes(std::int64_t vocabulary) const override {
    return sizes_.sample_workspace_bytes(vocabulary);
  }

  // ---- memory ----
  [[nodiscard]] bool computes_on_host() const override { return false; }
  [[nodiscard]] std::unique_ptr<stream> make_stream() override {
    use();
    return std::make_unique<cuda_stream>();
  }
  [[nodiscard]] std::unique_ptr<device_memory> allocate(std::size_t bytes) override {
    use();
    return std::make_unique<gpu_memory>(bytes);
  }
  [[nodiscard]] std::unique_ptr<device_memory> allocate_host(std::size_t bytes) override {
    use();
    return std::make_unique<pinned_memory>(bytes);
  }
  void upload(stream& s, void* device_to, const void* host_from, std::size_t bytes) override {
    if (bytes > 0) check_cuda(cudaMemcpyAsync(device_to, host_from, bytes, cudaMemcpyDefault, handle_of(s)), "upload");
  }
  void download(stream& s, void* host_to, const void* device_from, std::size_t bytes) override {
    if (bytes > 0)
      check_cuda(cudaMemcpyAsync(host_to, device_from, bytes, cudaMemcpyDefault, handle_of(s)), "download");
  }
  void copy(stream& s, const matrix& from, const matrix& to) override { launch_copy(handle_of(s), from, to); }
  [[nodiscard]] std::unique_ptr<event> record(stream& s) override { return std::make_unique<cuda_event>(handle_of(s)); }
  void wait_for(stream& s, const event& after) override {
    check_cuda(cudaStreamWaitEvent(handle_of(s), dynamic_cast<const cuda_event&>(after).handle()),
               "cudaStreamWaitEvent");
  }
  void synchronize(stream& s) override { check_cuda(cudaStreamSynchronize(handle_of(s)), "cudaStreamSynchronize"); }
  void when_done(stream& s, std::function<void()> call) override {
    // On a stream of its own: the one that is looked at does not wait for the call.
    const cuda_event here_now(handle_of(s));
    check_cuda(cudaStreamWaitEvent(calls_.handle(), here_now.handle()), "cudaStreamWaitEvent");
    auto kept = std::make_unique<std::function<void()>>(std::move(call));
    check_cuda(cudaLaunchHostFunc(
                   calls_.handle(),
                   [](void* given) {
                     const std::unique_ptr<std::function<void()>> taken(static_cast<std::function<void()>*>(given));
                     (*taken)();
                   },
                   kept.get()),
               "cudaLaunchHostFunc");
    (void)kept.release();  // the call owns itself now
  }

  [[nodiscard]] std::unique_ptr<launch_graph> capture(stream& s, const std::function<void()>& launches) override {
    if (const char* wanted = std::getenv("BATON_CUDA_GRAPHS"); wanted != nullptr && std::string(wanted) == "0")
      return nullptr;
    const auto queue = handle_of(s);
    check_cuda(cudaStreamBeginCapture(queue, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    cudaGraph_t made = nullptr;
    try {
      launches();
    } catch (...) {
      cudaStreamEndCapture(queue, &made);
      if (made != nullptr) cudaGraphDestroy(made);
      (void)cudaGetLastError();
      throw;
    }
    check_cuda(cudaStreamEndCapture(queue, &made), "cudaStreamEndCapture");
    return std::make_unique<cuda_graph>(made);
  }
  void launch(stream& s, const launch_graph& graph) override {
    check_cuda(cudaGraphLaunch(dynamic_cast<const cuda_graph&>(graph).handle(), handle_of(s)), "cudaGraphLaunch");
  }

  // ---- weights ----
  [[nodiscard]] std::unique_ptr<packed_weights> pack(std::span<const host_matrix> parts,
                                                     const host_memory_read& read) override {
    use();
    const cuda_stream own;
    return linear_.pack(own.handle(), parts, read);
  }

  [[nodiscard]] std::unique_ptr<packed_weights> pack_random(std::int64_t outputs, std::int64_t inputs,
                                                            std::uint64_t seed, float scale) override {
    use();
    auto weights = linear_.reserve(outputs, inputs);
    const cuda_stream own;
    launch_fill_random(own.handle(), linear_layers::rows_of(*weights), seed, scale);
    check_cuda(cudaStreamSynchronize(own.handle()), "pack_random");
    return weights;
  }
  void fill_random(stream& s, const matrix& to, std::uint64_t seed, float scale) override {
    launch_fill_random(handle_of(s), to, seed, scale);
  }

  // ---- token-wise kernels ----
  void embed(stream& s, const matrix& table, const std::int32_t* ids, const matrix& out) override {
    launch_embed(handle_of(s), table, ids, out);
  }
  void rms_norm(stream& s, const matrix& x, const float* weight, float eps, const matrix& out) override {
    launch_rms_norm(handle_of(s), x, weight, eps, out);
  }
  void linear(stream& s, const matrix& x, const packed_weights& w, const float* bias, const matrix& out,
              bool accumulate) override {
    linear_.run(handle_of(s), x, w, bias, out, accumulate);
  }
  void prepare_linear(const matrix& x, const packed_weights& w, const float* bias, const matrix& out,
                      bool accumulate) override {
    linear_.prepare(x, w, bias, out, accumulate);
  }
  void swiglu(stream& s, const matrix& gate_up, const matrix& out) override {
    launch_swiglu(handle_of(s), gate_up, out);
  }
  void silu(stream& s, const matrix& x) override { launch_silu(handle_of(s), x); }
  void fill_rope_table(stream& s, std::span<const float> inverse_frequencies, float amplitude,
                       const rope_table& table) override {
    launch_fill_rope_table(handle_of(s), inverse_frequencies, amplitude, table);
  }
  void rotate(stream& s, const head_matrix& x, const std::int32_t* positions, const rope_table& table) override {
    launch_rotate(handle_of(s), x, positions, table);
  }
  void rotate_and_store(stream& s, const head_matrix& queries_keys, const head_matrix& values,
                        const std::int32_t* positions, const rope_table& table, std::int64_t skip,
                        const kv_rows& to) override {
    launch_rotate_and_store(handle_of(s), queries_keys, values, positions, table, skip, to);
  }

  // ---- attention ----
  [[nodiscard]] std::int64_t panel_tile_tokens() const override { return 1; }
  void pack_panel(stream&, const head_matrix& keys, const head_matrix& values, kv_panel& panel,
                  std::int64_t first) override {
    require(keys.tokens == values.tokens && keys.heads == panel.kv_heads && values.heads == panel.kv_heads &&
                keys.dim == panel.dim && values.dim == panel.dim && first >= 0 &&
                first + keys.tokens <= panel.tokens_max,
            "pack_panel", "keys and values that fit the panel");
    const auto from_the_first = [&](const head_matrix& x) {
      const std::int64_t tokens = first + x.tokens;
      head_matrix whole = x.slice(-first, tokens);
      return whole;
    };
    const head_matrix all_keys = from_the_first(keys);
    const head_matrix all_values = from_the_first(values);
    require(first == 0 || (all_keys.data == panel.keys.data && all_values.data == panel.values.data), "pack_panel",
            "keys and values that stand behind those packed before");
    panel.keys = all_keys;
    panel.values = all_values;
  }
  void prepare_attend(const head_matrix& q, const kv_panel& panel, const attention_mask& mask,
                      const head_matrix& out) override {
    sdpa_.prepare(q, panel.keys, panel.values, mask, out);
  }
  void attend(stream& s, const head_matrix& q, const kv_panel& panel, const attention_mask& mask, float scale,
              const head_matrix& out, const matrix& log_sum_exp, attention_result result) override {
    head_matrix keys = panel.keys;
    head_matrix values = panel.values;
    if (mask.keys == 0) {
      // Nothing may have been packed.
      keys = values = {q.data, element_type::bf16, 0, panel.kv_heads, panel.dim, 0};
    }
    require_attention(q, keys, values, mask, out, log_sum_exp);
    require(!mask.causal || mask.first_query + q.tokens <= mask.keys, "attend", "a key for each causal query");
    if (sdpa_.attend(handle_of(s), q, keys, values, mask, scale, out, log_sum_exp, result)) return;
    launch_block_attention(handle_of(s), q, keys, values, mask, scale, out, log_sum_exp, result);
  }
  void attend_few(stream& s, const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                  const attention_mask& mask, float scale, const head_matrix& out, const matrix& log_sum_exp,
                  std::byte* workspace) override {
    launch_attend_few(handle_of(s), q, keys, values, mask, scale, out, log_sum_exp, workspace);
  }
  void merge_attention(stream& s, std::span<const head_matrix> parts, std::span<const matrix> lse,
                       const head_matrix& out) override {
    launch_merge_attention(handle_of(s), parts, lse, out);
  }

  // ---- compressor ----
  void mean_query(stream& s, const head_matrix& q, const matrix& out) override {
    launch_mean_query(handle_of(s), q, out);
  }
  void score_keys(stream& s, const head_matrix& keys, const matrix& mean_query, const matrix& scores) override {
    launch_score_keys(handle_of(s), keys, mean_query, scores);
  }
  void score_recent(stream& s, const matrix& scores) override { launch_score_recent(handle_of(s), scores); }
  void score_random(stream& s, std::uint64_t seed, int layer, std::int64_t first_token, const matrix& scores) override {
    launch_score_random(handle_of(s), seed, layer, first_token, scores);
  }
  void max_pool(stream& s, const matrix& scores, const matrix& out) override {
    launch_max_pool(handle_of(s), scores, out);
  }
  void select_top(stream& s, const matrix& scores, std::int64_t eligible_from, std::int64_t count,
                  std::int32_t* indices, std::byte* workspace) override {
    launch_select_top(handle_of(s), scores, eligible_from, count, indices, workspace);
  }
  void gather(stream& s, const head_matrix& x, const std::int32_t* indices, const head_matrix& out) override {
    launch_gather(handle_of(s), x, indices, out);
  }

  // ---- sampling ----
  void sample_greedy(stream& s, const matrix& logits, std::int32_t* token) override {
    launch_sample_greedy(handle_of(s), logits, token);
  }
  void sample_top_p(stream& s, const matrix& logits, float temperature, float top_p, float uniform, std::int32_t* token,
                    std::byte* workspace) override {
    launch_sample_top_p(handle_of(s), logits, temperature, top_p, uniform, token, workspace);
  }

 private:
  /// CUDA's current device is each thread's own.
  void use() const { check_cuda(cudaSetDevice(index_), "cudaSetDevice"); }
  static cudaDeviceProp here(int index) {
    const auto properties = properties_of(index);
    check_cuda(cudaSetDevice(index), "cudaSetDevice");
    return properties;
  }

  int index_;
  std::vector<int> cores_;
  cudaDeviceProp properties_;
  cuda_sizes sizes_;
  cuda_stream calls_;
  linear_layers linear_;
  sdpa sdpa_;
  std::string kernel_class_;
};

}  // namespace

bool built_in() { return true; }

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    (void)cudaGetLastError();  // no driver, or none that this toolkit knows
    return 0;
  }
  return count;
}

std::string describe_device(int index) {
  const auto properties = properties_of(index);
  return std::string(properties.name) + ", sm_" + std::to_string(properties.major) + std::to_string(properties.minor) +
         ", " + std::to_string(properties.multiProcessorCount) + " multiprocessors, " +
         std::to_string(properties.totalGlobalMem >> 20) + " MiB";
}

std::string pci_bus_id(int index) {
  static_cast<void>(properties_of(index));
  std::array<char, 32> id{};
  check_cuda(cudaDeviceGetPCIBusId(id.data(), static_cast<int>(id.size()), index), "cudaDeviceGetPCIBusId");
  return id.data();
}

std::unique_ptr<backend> make_cuda_backend(const cuda_options& options) {
  return std::make_unique<cuda_backend>(options);
}

}  // namespace baton::cuda
