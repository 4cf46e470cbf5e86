#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "kernels/buffer_sizes.hpp"
#include "kernels/tensor.hpp"

namespace baton {

/// An in-order queue of device work. Launches below return when the work is queued; on a CPU they return when it is done.
class stream {
 public:
  virtual ~stream() = default;
};

/// A point in a stream. `reached` never blocks.
class event {
 public:
  virtual ~event() = default;
  [[nodiscard]] virtual bool reached() const = 0;
  /// Blocks until it is reached.
  virtual void wait() const = 0;
  /// What the device took from an earlier point of the same stream to this one, in seconds. Both are reached.
  [[nodiscard]] virtual double seconds_since(const event& earlier) const = 0;
};

/// Launches that were captured once and are launched again as one. What they point to outlives it.
class launch_graph {
 public:
  virtual ~launch_graph() = default;
};

/// Memory of a device, returned when destroyed. One of these backs an arena; kernels never allocate.
class device_memory {
 public:
  virtual ~device_memory() = default;
  [[nodiscard]] virtual std::byte* data() const = 0;
  [[nodiscard]] virtual std::size_t bytes() const = 0;
};

/// The weights of one linear layer, (outputs, inputs), in the form that the backend's matmul likes. Immutable after
/// `pack`, shared by all ranks on the device.
class packed_weights {
 public:
  virtual ~packed_weights() = default;
  [[nodiscard]] virtual std::int64_t outputs() const = 0;
  [[nodiscard]] virtual std::int64_t inputs() const = 0;
  [[nodiscard]] virtual std::size_t bytes() const = 0;
};

/// What one number of a checkpoint is.
enum class host_type : std::uint8_t { f32, bf16, f16 };

constexpr std::int64_t bytes_of(host_type type) { return type == host_type::f32 ? 4 : 2; }

/// Rows of host numbers, (rows, columns) row-major without gaps, as a checkpoint holds them.
struct host_matrix {
  const void* data = nullptr;
  host_type type = host_type::f32;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

/// Hears of host memory that has been read and will not be read again, piece after piece, on the caller's thread: so a
/// loader can let go of a mapped file's pages, and say how far it is.
using host_memory_read = std::function<void(std::span<const std::byte>)>;

/// Keys and values of one layer in the form that block attention likes ("panel"). On a CPU, packed tiles in the caller's memory,
/// `panel_bytes` of it, which keeps its meaning until overwritten. On a GPU, which attends to keys and values where they stand,
/// nothing but the place where that is: `panel_bytes` is 0, and what was packed must stay as it is until the last attention to it.
struct kv_panel {
  std::byte* data = nullptr;
  std::int64_t tokens_max = 0;
  int kv_heads = 0;
  int dim = 0;
  head_matrix keys;    ///< GPU: (tokens packed so far, n_kv, D), from the panel's first token on
  head_matrix values;  ///< GPU: as `keys`
};

/// cos and sin of position * inverse frequency, times an amplitude; (positions, dim / 2) each, fp32.
struct rope_table {
  matrix cosines;
  matrix sines;
};

/// Which keys a block of queries attends to: all `keys` of the panel, or, causally, query i those up to first_query + i.
struct attention_mask {
  bool causal = false;
  std::int64_t keys = 0;         ///< keys in use in the panel
  std::int64_t first_query = 0;  ///< causal: the index among the keys of the first query's own key
  /// attend_few, causal: where not null, device memory that says first_query when the launch runs; `keys` is then the most that there
  /// may be, and those behind the last query's own are not read.
  const std::int32_t* first_query_at = nullptr;
  /// attend_few: nothing that is still to run writes the keys and values, so that they may be read before it is done. Not together with
  /// first_query_at.
  bool settled = false;
};

/// Where the keys and values of a layer are kept: token t of what is stored goes to row `first` + t.
struct kv_rows {
  head_matrix keys;    ///< (tokens_max, n_kv, D)
  head_matrix values;  ///< as `keys`
  std::int64_t first = 0;
  const std::int32_t* first_at = nullptr;  ///< where not null: device memory that says `first` when the launch runs
};

/// What block attention does with the outputs and log-sum-exps that stand in its result already.
enum class attention_result : std::uint8_t {
  replace,  ///< overwrite them
  merge,    ///< they are an attention over other keys: merge by log-sum-exp
};

/// All arithmetic of a device. One implementation per kind of device (kernels/cpu, kernels/cuda).
///
/// Threads: every function is called by the device's one compute thread, except those of memory and weights, which may also be
/// called by the thread that loads, before the compute thread has begun. Memory: pointers and views are device memory; host memory is named so. Nothing here
/// allocates device memory per call. Determinism: results depend on arguments only, never on the number of threads.
/// Errors: launches throw fault(device); a view that breaks a stated condition is a broken invariant, fault(internal).
///
/// `T` counts tokens, `n_q` query heads, `n_kv` KV heads (n_q a multiple), `D` the head dimension.
class backend : public buffer_sizes {
 public:
  /// What must be equal for two devices to give bit-identical results: instruction set or architecture, library versions.
  [[nodiscard]] virtual std::string kernel_class() const = 0;

  /// The device's compute thread calls this once, before its first launch: a place to keep it on the device's cores.
  virtual void adopt_compute_thread() {}

  // ---- memory ----
  /// Whether the device's memory is the host's and launches return when they are done. Where not, device memory is reached by
  /// `upload` and `download` alone, and what was launched is done when an event says so.
  [[nodiscard]] virtual bool computes_on_host() const = 0;
  [[nodiscard]] virtual std::unique_ptr<stream> make_stream() = 0;
  /// Throws fault(out_of_memory) with the size.
  [[nodiscard]] virtual std::unique_ptr<device_memory> allocate(std::size_t bytes) = 0;
  /// Host memory that the device copies from and to while the host goes on. Throws fault(out_of_memory).
  [[nodiscard]] virtual std::unique_ptr<device_memory> allocate_host(std::size_t bytes) = 0;
  /// The host memory may be used again once the stream has come so far. Either end may be host or device memory.
  virtual void upload(stream& s, void* device_to, const void* host_from, std::size_t bytes) = 0;
  virtual void download(stream& s, void* host_to, const void* device_from, std::size_t bytes) = 0;
  virtual void copy(stream& s, const matrix& from, const matrix& to) = 0;
  [[nodiscard]] virtual std::unique_ptr<event> record(stream& s) = 0;
  /// What is launched from now on begins when `after`, of another stream of this device, is reached. Nobody waits here.
  virtual void wait_for(stream& s, const event& after) = 0;
  virtual void synchronize(stream& s) = 0;
  /// Calls `call` once all that was launched so far is done: at once on a CPU, else on a thread of the driver's, where it must be
  /// short and may not use the device.
  virtual void when_done(stream& s, std::function<void()> call) = 0;

  /// What `launches` puts into the stream, kept and not run: it may neither wait for the device nor record events. Null where the
  /// device gains nothing by it, and then nothing has been called.
  [[nodiscard]] virtual std::unique_ptr<launch_graph> capture(stream& s, const std::function<void()>& launches) = 0;
  virtual void launch(stream& s, const launch_graph& graph) = 0;

  // ---- weights, at load ----
  /// The rows of all parts under one another become one matrix (fused q/k/v, fused gate/up). Every part has the same columns.
  /// `read`, unless empty, hears of the parts' memory in pieces of a few MiB.
  [[nodiscard]] virtual std::unique_ptr<packed_weights> pack(std::span<const host_matrix> parts,
                                                             const host_memory_read& read) = 0;
  /// Weights that nobody trained, to measure with: what `pack` makes of the numbers random_weights(seed, scale)(row * inputs + column)
  /// of kernels/random_weight.hpp.
  [[nodiscard]] virtual std::unique_ptr<packed_weights> pack_random(std::int64_t outputs, std::int64_t inputs,
                                                                    std::uint64_t seed, float scale) = 0;
  /// The same for a table: to[row, column] = random_weights(seed, scale)(row * columns + column), rounded. to: activation type.
  virtual void fill_random(stream& s, const matrix& to, std::uint64_t seed, float scale) = 0;

  // ---- token-wise kernels ----
  /// out[t] = table[ids[t]]. table (vocabulary, hidden) in activation type, ids (T) in device memory, out (T, hidden).
  virtual void embed(stream& s, const matrix& table, const std::int32_t* ids, const matrix& out) = 0;
  /// out = x / sqrt(mean(x^2) + eps) * weight. x, out (T, hidden) activations; weight (hidden) fp32.
  virtual void rms_norm(stream& s, const matrix& x, const float* weight, float eps, const matrix& out) = 0;
  /// out = x W^T + bias, or out += x W^T + bias where `accumulate`; rounded once (a GPU's library may round the product before it is
  /// added to bf16). x (T, inputs) activations, bias (outputs)
  /// fp32 or null for none, out (T, outputs) activations or fp32.
  virtual void linear(stream& s, const matrix& x, const packed_weights& w, const float* bias, const matrix& out,
                      bool accumulate) = 0;
  /// The same `linear` will be asked for: what takes long to set up is set up now, outside of a job's way. Nothing is computed.
  virtual void prepare_linear(const matrix& x, const packed_weights& w, const float* bias, const matrix& out,
                              bool accumulate) = 0;
  /// out = silu(gate) * up. gate_up (T, 2 F) with gate first, out (T, F).
  virtual void swiglu(stream& s, const matrix& gate_up, const matrix& out) = 0;
  /// x = silu(x), in place. x (T, columns).
  virtual void silu(stream& s, const matrix& x) = 0;
  /// Fills the table for positions 0..rows-1. inverse_frequencies (D / 2) in host memory; angles in fp32, as transformers does.
  /// Cosines and sines are multiplied by `amplitude` (YaRN's attention factor).
  virtual void fill_rope_table(stream& s, std::span<const float> inverse_frequencies, float amplitude,
                               const rope_table& table) = 0;
  /// Rotary embedding in place, halves split as in transformers: x (T, heads, D), positions (T) in device memory.
  virtual void rotate(stream& s, const head_matrix& x, const std::int32_t* positions, const rope_table& table) = 0;
  /// `rotate` of a fused projection's queries and keys, and the keys so turned and the values from row `skip` on into the KV cache.
  /// queries_keys (T, n_q + n_kv, D), queries first; values (T, n_kv, D).
  virtual void rotate_and_store(stream& s, const head_matrix& queries_keys, const head_matrix& values,
                                const std::int32_t* positions, const rope_table& table, std::int64_t skip,
                                const kv_rows& to) = 0;

  // ---- block attention (prefill) ----
  /// Packing starts at multiples of this many tokens.
  [[nodiscard]] virtual std::int64_t panel_tile_tokens() const = 0;
  /// Puts keys and values (T, n_kv, D) at tokens [first, first + T) of the panel; `first` is a multiple of panel_tile_tokens.
  virtual void pack_panel(stream& s, const head_matrix& keys, const head_matrix& values, kv_panel& panel,
                          std::int64_t first) = 0;
  /// The same `attend` will be asked for, with keys and values that stand as `panel.keys` and `panel.values` say: what takes long
  /// to set up is set up now, outside of a job's way.
  virtual void prepare_attend(const head_matrix& q, const kv_panel& panel, const attention_mask& mask,
                              const head_matrix& out) = 0;
  /// softmax(scale q K^T) V. q, out (T, n_q, D) activations; log_sum_exp (T, n_q) fp32, natural logarithm.
  /// A query without keys gets 0 and -inf.
  virtual void attend(stream& s, const head_matrix& q, const kv_panel& panel, const attention_mask& mask, float scale,
                      const head_matrix& out, const matrix& log_sum_exp, attention_result result) = 0;

  // ---- attention of few queries over a KV shard (query stage, decode) ----
  /// As `attend`, straight from keys and values (keys, n_kv, D), in fixed splits of the keys. out (T, n_q, D) fp32.
  /// workspace: decode_attention_workspace_bytes(keys).
  virtual void attend_few(stream& s, const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                          const attention_mask& mask, float scale, const head_matrix& out, const matrix& log_sum_exp,
                          std::byte* workspace) = 0;
  /// Merges partial attentions over disjoint keys in the order given: parts[i] (T, n_q, D) fp32, lse[i] (T, n_q) fp32;
  /// out (T, n_q, D) activations. The spans are host memory; what they point to is device memory.
  virtual void merge_attention(stream& s, std::span<const head_matrix> parts, std::span<const matrix> lse,
                               const head_matrix& out) = 0;

  // ---- compressor (scores are (T, n_kv) fp32) ----
  /// out (n_kv, D) fp32: the mean over T tokens and over the query heads of each KV head's group. q (T, n_q, D).
  virtual void mean_query(stream& s, const head_matrix& q, const matrix& out) = 0;
  /// scores[t, g] = keys[t, g] . mean_query[g]. keys (T, n_kv, D).
  virtual void score_keys(stream& s, const head_matrix& keys, const matrix& mean_query, const matrix& scores) = 0;
  /// scores[t, g] = t: the later, the better.
  virtual void score_recent(stream& s, const matrix& scores) = 0;
  /// Uniform scores from (seed, layer, KV head, first_token + t) alone; see kernels/random_score.hpp.
  virtual void score_random(stream& s, std::uint64_t seed, int layer, std::int64_t first_token,
                            const matrix& scores) = 0;
  /// out[t] = max of scores[t - 2 .. t + 2], inside [0, T). in and out do not overlap.
  virtual void max_pool(stream& s, const matrix& scores, const matrix& out) = 0;
  /// Per KV head the `count` best tokens of [eligible_from, T), of equal scores the lower index; ascending.
  /// count <= T - eligible_from; indices (n_kv, count) int32 in device memory. workspace: select_workspace_bytes(T).
  virtual void select_top(stream& s, const matrix& scores, std::int64_t eligible_from, std::int64_t count,
                          std::int32_t* indices, std::byte* workspace) = 0;
  /// out[u, g] = x[indices[g, u], g]. x (T, n_kv, D), indices (n_kv, count), out (count, n_kv, D).
  virtual void gather(stream& s, const head_matrix& x, const std::int32_t* indices, const head_matrix& out) = 0;

  // ---- sampling: logits (1, vocabulary) fp32, token one int32 in device memory ----
  virtual void sample_greedy(stream& s, const matrix& logits, std::int32_t* token) = 0;
  /// Nucleus sampling: logits / temperature, the smallest set of best tokens with probability >= top_p, inverted at
  /// `uniform` in [0, 1). Of equal logits the lower id comes first. workspace: sample_workspace_bytes(vocabulary).
  virtual void sample_top_p(stream& s, const matrix& logits, float temperature, float top_p, float uniform,
                            std::int32_t* token, std::byte* workspace) = 0;
};

}  // namespace baton
