#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.hpp"
#include "runtime/device/device_context.hpp"
#include "runtime/device/pass.hpp"
#include "runtime/model/checkpoint.hpp"
#include "runtime/plan/job_plan.hpp"
#include "runtime/relay/relay_log.hpp"
#include "runtime/transport/local.hpp"

namespace baton {

struct engine_settings {
  element_type precision = element_type::f32;
  int threads = 1;
  bool on_gpu = false;  ///< in bf16, whatever `precision` says
};

struct engine_answer {
  job_plan plan;
  std::vector<float> first_logits;
  std::vector<std::int32_t> ids;
  /// [layer][rank]: (n_kv, units) document indices.
  std::vector<std::vector<std::vector<std::int32_t>>> chosen;
  /// [layer]: K then V of the whole document in rank order, raw activations.
  std::vector<std::vector<std::byte>> document_kv;
  std::size_t arena_peak_bytes = 0;
};

/// The real engine without threads and actors: passes of all ranks on one device, stepped in an order that the test chooses.
class test_engine {
 public:
  test_engine(const std::filesystem::path& model, const engine_settings& settings);

  [[nodiscard]] const model_config& config() const { return model_.config(); }
  [[nodiscard]] backend& kernels() { return *kernels_; }
  [[nodiscard]] const model_weights& weights() const { return *weights_; }

  /// Runs a job to its end. `order_seed` 0 steps lower ranks first; any other draws which pass goes next at random.
  engine_answer run(const job_options& options, std::span<const std::int32_t> document,
                    std::span<const std::int32_t> query, std::int64_t system_tokens, std::uint64_t order_seed = 0);

  /// Called around every step of every pass, where set: what happens between the two is the pass's own doing.
  struct step_watch {
    std::function<void()> before;
    std::function<void(const pass& stepped, bool finished)> after;
  };
  step_watch watch;

  struct job {
    job_options options;
    std::vector<std::int32_t> document;
    std::vector<std::int32_t> query;
    std::int64_t system_tokens = 0;
  };
  /// Runs several jobs at once on the same device, a step of each in turn (or at random).
  std::vector<engine_answer> run_together(std::span<const job> jobs, std::uint64_t order_seed = 0);

 private:
  checkpoint model_;
  std::unique_ptr<backend> kernels_;
  std::unique_ptr<model_weights> weights_;
};

}  // namespace baton
