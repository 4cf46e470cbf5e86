#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "kernels/backend.hpp"
#include "kernels/cuda/stream_handle.hpp"

namespace baton::cuda {

/// Block attention by cuDNN's fused kernels, through its backend API: causal with the last query at the last key, or dense. A plan
/// for a shape takes some tenths of a second to make, once: `prepare` does it before a job begins. What cuDNN does not take is left
/// to block_attention.hpp. Belongs to the device's compute thread.
class sdpa {
 public:
  /// Takes workspace from `device`, which outlives it. Without cuDNN it takes nothing, and says so in `version`.
  explicit sdpa(backend& device);
  ~sdpa();
  sdpa(const sdpa&) = delete;
  sdpa& operator=(const sdpa&) = delete;

  /// "9.19.0", or "none".
  [[nodiscard]] std::string version() const;
  /// Why there is no cuDNN, or empty.
  [[nodiscard]] const std::string& missing() const { return missing_; }

  /// Makes the plan and the room that `attend` with these arguments will need.
  void prepare(const head_matrix& q, const head_matrix& keys, const head_matrix& values, const attention_mask& mask,
               const head_matrix& out);
  /// backend::attend. False, and nothing done, where cuDNN has no kernel for this.
  bool attend(stream_handle s, const head_matrix& q, const head_matrix& keys, const head_matrix& values,
              const attention_mask& mask, float scale, const head_matrix& out, const matrix& log_sum_exp,
              attention_result result);
  /// The engine that a shape's plan runs on, for reports; empty where our own kernel runs.
  [[nodiscard]] std::string engine_of(const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                                      const attention_mask& mask);

 private:
  class plan;
  /// (queries, keys, query heads, KV heads, D, strides of q, k, v and out, causal)
  using shape = std::tuple<std::int64_t, std::int64_t, int, int, int, std::int64_t, std::int64_t, std::int64_t,
                           std::int64_t, bool>;

  [[nodiscard]] bool takes(const head_matrix& q, const head_matrix& keys, const head_matrix& values,
                           const attention_mask& mask, const head_matrix& out) const;
  const plan* plan_for(const shape& key);
  void reserve(std::size_t bytes);

  backend& device_;
  std::string missing_;
  void* handle_ = nullptr;  // cudnnHandle_t
  std::unique_ptr<device_memory> workspace_;
  std::unique_ptr<device_memory> parts_;  // outputs that wait to be merged, and log-sum-exps as cuDNN writes them
  std::map<shape, std::unique_ptr<plan>> plans_;  // null: cuDNN has none
};

}  // namespace baton::cuda
