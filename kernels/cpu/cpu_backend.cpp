#include "kernels/cpu/cpu_backend.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>

#include <sched.h>

#include "kernels/cpu/block_attention.hpp"
#include "kernels/cpu/compressor.hpp"
#include "kernels/cpu/decode_attention.hpp"
#include "kernels/cpu/isa.hpp"
#include "kernels/cpu/linear.hpp"
#include "kernels/cpu/memory.hpp"
#include "kernels/cpu/random_fill.hpp"
#include "kernels/cpu/rope.hpp"
#include "kernels/cpu/sampling.hpp"
#include "kernels/cpu/thread_pool.hpp"
#include "kernels/cpu/token_wise.hpp"
#include "kernels/fault.hpp"

namespace baton::cpu {
namespace {

/// All is done when a launch returns: nothing to queue, nothing to wait for.
class immediate_stream final : public stream {};

class immediate_event final : public event {
 public:
  [[nodiscard]] bool reached() const override { return true; }
  void wait() const override {}
  [[nodiscard]] double seconds_since(const event& earlier) const override {
    return std::chrono::duration<double>(at_ - dynamic_cast<const immediate_event&>(earlier).at_).count();
  }

 private:
  std::chrono::steady_clock::time_point at_ = std::chrono::steady_clock::now();
};

/// Threads inherit the cores of the one that starts them; the caller gets its own back.
std::unique_ptr<thread_pool> start_threads(const cpu_options& options) {
  if (options.threads < 1) throw fault(fault_code::bad_input, "a CPU device needs at least one thread", "threads");
  if (options.cores.empty()) return std::make_unique<thread_pool>(options.threads);
  cpu_set_t callers;
  if (sched_getaffinity(0, sizeof callers, &callers) != 0) {
    throw fault(fault_code::device, std::string("sched_getaffinity: ") + std::strerror(errno), "cores");
  }
  keep_to(options.cores);
  auto pool = std::make_unique<thread_pool>(options.threads);
  sched_setaffinity(0, sizeof callers, &callers);
  return pool;
}

class cpu_backend final : public backend {
 public:
  explicit cpu_backend(const cpu_options& options)
      : activation_(options.activation),
        cores_(options.cores),
        kernel_class_("cpu-" + effective_isa().name + "-onednn" + onednn_version() +
                      (options.activation == element_type::f32 ? "-f32" : "")),
        threads_(start_threads(options)),
        pool_(*threads_),
        linear_(pool_, activation_),
        block_attention_(pool_, activation_) {}

  [[nodiscard]] std::string kernel_class() const override { return kernel_class_; }
  [[nodiscard]] element_type activation_type() const override { return activation_; }
  [[nodiscard]] std::int64_t block_multiple() const override { return 1; }

  void adopt_compute_thread() override {
    if (!cores_.empty()) keep_to(cores_);
  }

  [[nodiscard]] bool computes_on_host() const override { return true; }
  [[nodiscard]] std::unique_ptr<stream> make_stream() override { return std::make_unique<immediate_stream>(); }
  [[nodiscard]] std::unique_ptr<device_memory> allocate(std::size_t bytes) override {
    // Zeroing pages is most of the work of loading, so all threads do it.
    constexpr std::size_t piece_bytes = 32 << 20;
    auto memory = std::make_unique<host_memory>(bytes, pages_taken::when_written);
    pool_.parallel_for(static_cast<std::int64_t>((bytes + piece_bytes - 1) / piece_bytes),
                       [&](std::int64_t piece, int) {
                         memory->take_pages(static_cast<std::size_t>(piece) * piece_bytes, piece_bytes);
                       });
    return memory;
  }
  [[nodiscard]] std::unique_ptr<device_memory> allocate_host(std::size_t bytes) override { return allocate(bytes); }
  void upload(stream&, void* device_to, const void* host_from, std::size_t bytes) override {
    constexpr std::size_t piece_bytes = 1 << 20;
    if (bytes == 0) return;
    if (bytes <= 2 * piece_bytes) {
      std::memcpy(device_to, host_from, bytes);
      return;
    }
    pool_.parallel_for(
        static_cast<std::int64_t>((bytes + piece_bytes - 1) / piece_bytes), [&](std::int64_t piece, int) {
          const std::size_t first = static_cast<std::size_t>(piece) * piece_bytes;
          std::memcpy(static_cast<std::byte*>(device_to) + first, static_cast<const std::byte*>(host_from) + first,
                      std::min(piece_bytes, bytes - first));
        });
  }
  void download(stream&, void* host_to, const void* device_from, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(host_to, device_from, bytes);
  }
  void copy(stream&, const matrix& from, const matrix& to) override { cpu::copy(pool_, from, to); }
  [[nodiscard]] std::unique_ptr<event> record(stream&) override { return std::make_unique<immediate_event>(); }
  void wait_for(stream&, const event&) override {}
  void synchronize(stream&) override {}
  void when_done(stream&, std::function<void()> call) override { call(); }
  [[nodiscard]] std::unique_ptr<launch_graph> capture(stream&, const std::function<void()>&) override {
    return nullptr;
  }
  void launch(stream&, const launch_graph&) override {
    throw fault(fault_code::internal, "a CPU captures no launches", "launch");
  }

  [[nodiscard]] std::unique_ptr<packed_weights> pack(std::span<const host_matrix> parts,
                                                     const host_memory_read& read) override {
    return linear_.pack(parts, read);
  }
  [[nodiscard]] std::unique_ptr<packed_weights> pack_random(std::int64_t outputs, std::int64_t inputs,
                                                            std::uint64_t seed, float scale) override {
    return linear_.pack_random(outputs, inputs, seed, scale);
  }
  void fill_random(stream&, const matrix& to, std::uint64_t seed, float scale) override {
    cpu::fill_random(pool_, to, seed, scale);
  }
  [[nodiscard]] std::size_t packed_bytes(std::int64_t outputs, std::int64_t inputs) const override {
    return linear_.packed_bytes(outputs, inputs);
  }

  void embed(stream&, const matrix& table, const std::int32_t* ids, const matrix& out) override {
    cpu::embed(pool_, table, ids, out);
  }
  void rms_norm(stream&, const matrix& x, const float* weight, float eps, const matrix& out) override {
    cpu::rms_norm(pool_, x, weight, eps, out);
  }
  void linear(stream&, const matrix& x, const packed_weights& w, const float* bias, const matrix& out,
              bool accumulate) override {
    linear_.run(x, w, bias, out, accumulate);
  }
  void prepare_linear(const matrix&, const packed_weights&, const float*, const matrix&, bool) override {}
  void swiglu(stream&, const matrix& gate_up, const matrix& out) override { cpu::swiglu(pool_, gate_up, out); }
  void silu(stream&, const matrix& x) override { cpu::silu(pool_, x); }
  void fill_rope_table(stream&, std::span<const float> inverse_frequencies, float amplitude,
                       const rope_table& table) override {
    cpu::fill_rope_table(pool_, inverse_frequencies, amplitude, table);
  }
  void rotate(stream&, const head_matrix& x, const std::int32_t* positions, const rope_table& table) override {
    cpu::rotate(pool_, x, positions, table);
  }
  void rotate_and_store(stream&, const head_matrix& queries_keys, const head_matrix& values,
                        const std::int32_t* positions, const rope_table& table, std::int64_t skip,
                        const kv_rows& to) override {
    cpu::rotate(pool_, queries_keys, positions, table);
    const std::int64_t count = values.tokens - skip;
    if (count <= 0) return;
    const std::int64_t first = to.first_at == nullptr ? to.first : *to.first_at;
    const std::int64_t first_key = std::int64_t{queries_keys.heads - values.heads} * values.dim;
    const head_matrix keys = as_heads(queries_keys.as_matrix(), first_key, values.heads, values.dim);
    cpu::copy(pool_, keys.slice(skip, count).as_matrix(), to.keys.slice(first, count).as_matrix());
    cpu::copy(pool_, values.slice(skip, count).as_matrix(), to.values.slice(first, count).as_matrix());
  }

  [[nodiscard]] std::size_t panel_bytes(std::int64_t tokens_max, int kv_heads, int dim) const override {
    return block_attention_.panel_bytes(tokens_max, kv_heads, dim);
  }
  [[nodiscard]] std::int64_t panel_tile_tokens() const override { return block_attention::key_tile; }
  void pack_panel(stream&, const head_matrix& keys, const head_matrix& values, kv_panel& panel,
                  std::int64_t first) override {
    block_attention_.pack(keys, values, panel, first);
  }
  void prepare_attend(const head_matrix&, const kv_panel&, const attention_mask&, const head_matrix&) override {}
  void attend(stream&, const head_matrix& q, const kv_panel& panel, const attention_mask& mask, float scale,
              const head_matrix& out, const matrix& log_sum_exp, attention_result result) override {
    block_attention_.attend(q, panel, mask, scale, out, log_sum_exp, result);
  }

  [[nodiscard]] std::size_t decode_attention_workspace_bytes(std::int64_t tokens, int heads, int dim) const override {
    return cpu::decode_attention_workspace_bytes(tokens, heads, dim);
  }
  void attend_few(stream&, const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                  const attention_mask& mask, float scale, const head_matrix& out, const matrix& log_sum_exp,
                  std::byte* workspace) override {
    attention_mask seen = mask;
    if (mask.first_query_at != nullptr) {
      seen.first_query = *mask.first_query_at;
      seen.keys = std::min(mask.keys, seen.first_query + q.tokens);
    }
    cpu::attend_few(pool_, q, keys, values, seen, scale, out, log_sum_exp, workspace);
  }
  void merge_attention(stream&, std::span<const head_matrix> parts, std::span<const matrix> lse,
                       const head_matrix& out) override {
    cpu::merge_attention(pool_, parts, lse, out);
  }

  void mean_query(stream&, const head_matrix& q, const matrix& out) override { cpu::mean_query(pool_, q, out); }
  void score_keys(stream&, const head_matrix& keys, const matrix& mean_query, const matrix& scores) override {
    cpu::score_keys(pool_, keys, mean_query, scores);
  }
  void score_recent(stream&, const matrix& scores) override { cpu::score_recent(pool_, scores); }
  void score_random(stream&, std::uint64_t seed, int layer, std::int64_t first_token, const matrix& scores) override {
    cpu::score_random(pool_, seed, layer, first_token, scores);
  }
  void max_pool(stream&, const matrix& scores, const matrix& out) override { cpu::max_pool(pool_, scores, out); }
  [[nodiscard]] std::size_t select_workspace_bytes(std::int64_t tokens, int kv_heads) const override {
    return cpu::select_workspace_bytes(tokens, kv_heads);
  }
  void select_top(stream&, const matrix& scores, std::int64_t eligible_from, std::int64_t count, std::int32_t* indices,
                  std::byte* workspace) override {
    cpu::select_top(pool_, scores, eligible_from, count, indices, workspace);
  }
  void gather(stream&, const head_matrix& x, const std::int32_t* indices, const head_matrix& out) override {
    cpu::gather(pool_, x, indices, out);
  }

  void sample_greedy(stream&, const matrix& logits, std::int32_t* token) override {
    cpu::sample_greedy(pool_, logits, token);
  }
  void sample_top_p(stream&, const matrix& logits, float temperature, float top_p, float uniform, std::int32_t* token,
                    std::byte* workspace) override {
    cpu::sample_top_p(pool_, logits, temperature, top_p, uniform, token, workspace);
  }
  [[nodiscard]] std::size_t sample_workspace_bytes(std::int64_t vocabulary) const override {
    return cpu::sample_workspace_bytes(vocabulary);
  }

 private:
  element_type activation_;
  std::vector<int> cores_;
  std::string kernel_class_;
  std::unique_ptr<thread_pool> threads_;
  thread_pool& pool_;
  linear_layers linear_;
  block_attention block_attention_;
};

}  // namespace

void keep_to(const std::vector<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) {
    if (core < 0 || core >= CPU_SETSIZE) {
      throw fault(fault_code::bad_input, "there is no core " + std::to_string(core), "cores");
    }
    CPU_SET(core, &set);
  }
  if (sched_setaffinity(0, sizeof set, &set) != 0) {
    throw fault(fault_code::bad_input, std::string("cannot run on these cores: ") + std::strerror(errno), "cores");
  }
}

std::unique_ptr<backend> make_cpu_backend(const cpu_options& options) { return std::make_unique<cpu_backend>(options); }

}  // namespace baton::cpu
