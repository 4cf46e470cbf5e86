#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "runtime/bench/bench_engine.hpp"
#include "runtime/bench/device_speed.hpp"
#include "runtime/bench/projection.hpp"
#include "runtime/plan/job_plan.hpp"

namespace baton {

/// One way to prefill a document of one length, and what it took in each repetition.
struct prefill_row {
  job_plan plan;
  bool balanced = false;          ///< blocks of lengths that should finish together; else even
  bool projected = false;         ///< of a cluster that was not there: `seconds` are projections
  double work = 0;                ///< counted floating-point operations, of all ranks
  double device_work = 0;         ///< of the device that has most; projected: of the rank that has most
  double predicted_s = 0;         ///< by the cost model; 0: there is none
  std::vector<double> seconds{};  ///< of each repetition, in their order
  std::vector<std::array<double, phase_count>> phase_s{};  ///< per repetition, added up over the ranks
  std::vector<double> exposed_wait_s{};                    ///< per repetition, of the rank that waited longest
  std::vector<double> busy_max_over_mean{};  ///< per repetition: computing of the busiest rank beside the mean
  std::int64_t bytes_received = 0;           ///< by all ranks, the same every time

  void add(const prefill_run& run);
  void add(const lockstep_run& run, const projected_prefill& cluster);
  [[nodiscard]] double median_s() const;
  [[nodiscard]] double tokens_per_s() const { return static_cast<double>(plan.document_tokens) / median_s(); }
};

/// Of some numbers, of which there is at least one; the lower of the two in the middle.
double median_of(std::vector<double> numbers);

/// What `baton bench prefill` has measured. Rows of one length stand together, the first of them is what the others are compared
/// with.
struct prefill_report {
  std::string model;
  std::string kernel_class;
  std::size_t devices = 0;
  int threads = 0;       ///< of each device; 0: not a CPU
  device_speed speed{};  ///< of the first device
  projected_link link{};
  std::vector<prefill_row> rows{};

  /// How many times as long as this row its length's first row takes, repetition by repetition: the median.
  [[nodiscard]] double ratio(const prefill_row& row) const;
  /// What the ratio would be if every counted operation took the same time.
  [[nodiscard]] double counted_ratio(const prefill_row& row) const;
  /// The row's counted work beside what the busiest device could have multiplied in the same time.
  [[nodiscard]] double share_of_ceiling(const prefill_row& row) const;

 private:
  [[nodiscard]] const prefill_row& first_of(const prefill_row& row) const;
};

/// Tables of at most 80 columns, lines that end with a newline.
std::string table(const prefill_report& report);
nlohmann::json to_json(const prefill_report& report);
/// Seconds over document tokens, one line for each way, as an SVG drawing of its own.
std::string svg_plot(const prefill_report& report);

}  // namespace baton
