#include "runtime/bench/prefill_report.hpp"

#include <algorithm>
#include <map>
#include <numeric>

#include <fmt/format.h>

#include "kernels/fault.hpp"
#include "runtime/bench/svg_plot.hpp"
#include "runtime/observe/format.hpp"
#include "runtime/observe/plan_text.hpp"

namespace baton {
namespace {

using nlohmann::json;

std::string name_of(const prefill_row& row) {
  std::string name = row.plan.strategy;
  if (row.plan.ranks() > 1) name += fmt::format(" {}", row.plan.ranks());
  return row.balanced ? name + " balanced" : name;
}

std::size_t median_repetition(const prefill_row& row) {
  const double median = row.median_s();
  return static_cast<std::size_t>(std::ranges::find(row.seconds, median) - row.seconds.begin());
}

std::int64_t bytes_received(std::span<const rank_run> ranks) {
  return std::accumulate(ranks.begin(), ranks.end(), std::int64_t{0},
                         [](std::int64_t sum, const rank_run& r) { return sum + r.counts.bytes_received; });
}

std::array<double, phase_count> phases_of(std::span<const rank_run> ranks) {
  std::array<double, phase_count> sums{};
  for (const auto& r : ranks) {
    for (std::size_t p = 0; p < phase_count; ++p) sums[p] += r.timings.phase_s[p];
  }
  return sums;
}

/// A separating empty line where the length changes.
template <class Row>
std::string by_length(const prefill_report& report, Row&& line_of) {
  std::string text;
  std::int64_t before = 0;
  for (const auto& row : report.rows) {
    if (before != 0 && before != row.plan.document_tokens) text += '\n';
    before = row.plan.document_tokens;
    text += line_of(row) + '\n';
  }
  return text;
}

std::string times_table(const prefill_report& report) {
  constexpr auto format = "{:>9}  {:<14} {:>10} {:>7} {:>8} {:>6} {:>6} {:>7}";
  return fmt::format(format, "tokens", "strategy ranks", "median", "spread", "tokens/s", "share", "ratio", "counted") +
         '\n' + by_length(report, [&](const prefill_row& row) {
           const auto [low, high] = std::ranges::minmax(row.seconds);
           return fmt::format(
               format, format_count(row.plan.document_tokens), name_of(row), format_seconds(row.median_s()),
               fmt::format("{:.0f} %", 100 * (high - low) / row.median_s()), format_rate(row.tokens_per_s()),
               fmt::format("{:.0f} %", 100 * report.share_of_ceiling(row)), fmt::format("{:.2f}", report.ratio(row)),
               fmt::format("{:.2f}", report.counted_ratio(row)));
         });
}

std::string phases_table(const prefill_report& report) {
  constexpr auto format = "{:>9}  {:<14} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9}";
  return fmt::format(format, "tokens", "strategy ranks", "project", "compress", "attend", "feed fwd", "exposed",
                     "received") +
         '\n' + by_length(report, [&](const prefill_row& row) {
           const auto middle = median_repetition(row);
           const auto of = [&](phase p) { return format_seconds(row.phase_s[middle][static_cast<std::size_t>(p)]); };
           return fmt::format(format, format_count(row.plan.document_tokens), name_of(row), of(phase::project),
                              of(phase::compress), of(phase::attend), of(phase::feed_forward),
                              format_seconds(row.exposed_wait_s[middle]), format_bytes(row.bytes_received));
         });
}

std::string balance_table(const prefill_report& report) {
  constexpr auto format = "{:>9}  {:<14} {:>15} {:>11} {:>17}";
  return fmt::format(format, "tokens", "strategy ranks", "busy max / mean", "predicted", "predicted / took") + '\n' +
         by_length(report, [&](const prefill_row& row) {
           const double busy = row.busy_max_over_mean[median_repetition(row)];
           const bool known = row.predicted_s > 0;
           return fmt::format(format, format_count(row.plan.document_tokens), name_of(row), fmt::format("{:.2f}", busy),
                              known ? format_seconds(row.predicted_s) : "-",
                              known ? fmt::format("{:.2f}", row.predicted_s / row.median_s()) : "-");
         });
}

}  // namespace

double median_of(std::vector<double> numbers) {
  if (numbers.empty()) throw fault(fault_code::internal, "a median of nothing");
  std::ranges::sort(numbers);
  return numbers[(numbers.size() - 1) / 2];
}

void prefill_row::add(const prefill_run& run) {
  seconds.push_back(run.prefill_s);
  phase_s.push_back(phases_of(run.ranks));
  double waited = 0;
  double busiest = 0;
  double sum = 0;
  for (const auto& r : run.ranks) {
    waited = std::max(waited, r.timings.exposed_wait_s);
    busiest = std::max(busiest, r.timings.compute_s);
    sum += r.timings.compute_s;
  }
  exposed_wait_s.push_back(waited);
  busy_max_over_mean.push_back(busiest * static_cast<double>(run.ranks.size()) / sum);
  bytes_received = baton::bytes_received(run.ranks);
}

void prefill_row::add(const lockstep_run& run, const projected_prefill& cluster) {
  seconds.push_back(cluster.prefill_s);
  phase_s.push_back(phases_of(run.ranks));
  exposed_wait_s.push_back(*std::ranges::max_element(cluster.rank_exposed_s));
  busy_max_over_mean.push_back(cluster.busy_max_over_mean());
  bytes_received = baton::bytes_received(run.ranks);
}

double prefill_row::median_s() const { return median_of(seconds); }

const prefill_row& prefill_report::first_of(const prefill_row& row) const {
  return *std::ranges::find(rows, row.plan.document_tokens,
                            [](const prefill_row& r) { return r.plan.document_tokens; });
}

double prefill_report::ratio(const prefill_row& row) const {
  const auto& first = first_of(row);
  std::vector<double> ratios;
  for (std::size_t i = 0; i < std::min(first.seconds.size(), row.seconds.size()); ++i)
    ratios.push_back(first.seconds[i] / row.seconds[i]);
  return median_of(std::move(ratios));
}

double prefill_report::counted_ratio(const prefill_row& row) const {
  return first_of(row).device_work / row.device_work;
}

double prefill_report::share_of_ceiling(const prefill_row& row) const {
  return row.device_work / (row.median_s() * speed.matmul_per_s);
}

std::string table(const prefill_report& report) {
  const bool projected = std::ranges::any_of(report.rows, &prefill_row::projected);
  std::string text = fmt::format("model          {}\n", printable(report.model));
  text += fmt::format(
      "device         {}{}, {}\n", report.devices,
      report.threads > 0 ? fmt::format(" of {} thread{}", report.threads, report.threads == 1 ? "" : "s") : "",
      report.kernel_class);
  text += fmt::format("ceiling        {} GFLOP/s matmul, {} GB/s copy (read and written)\n",
                      format_rate(report.speed.matmul_per_s * 1e-9), format_rate(report.speed.copy_bytes_per_s * 1e-9));
  if (projected) {
    text += fmt::format(
        "PROJECTED      not measured: each rank was timed alone on one device; the times\n"
        "               below are the critical path of a cluster with a device for each\n"
        "               rank, ports of {:.0f} Gbit/s and a latency of {}\n",
        report.link.bytes_per_s * 8e-9, format_seconds(report.link.latency_s));
  }
  text += '\n' + times_table(report);
  text +=
      "\nspread: highest less lowest, of the median. share: of the matmul ceiling, on\nthe busiest device. ratio: "
      "first row "
      "of this length / this row; counted: what\nit would be if only multiplications took time.\n";
  text += '\n' + phases_table(report);
  text +=
      "\nphases: added up over the ranks. exposed: the longest wait of a rank whose\ndevice had nothing else to do.\n";
  return text + '\n' + balance_table(report);
}

json to_json(const prefill_report& report) {
  json rows = json::array();
  for (const auto& row : report.rows) {
    json repetitions = json::array();
    for (std::size_t i = 0; i < row.seconds.size(); ++i) {
      json phases;
      for (std::size_t p = 0; p < phase_count; ++p)
        phases[std::string(baton::name_of(static_cast<phase>(p)))] = row.phase_s[i][p];
      repetitions.push_back({{"seconds", row.seconds[i]},
                             {"phase_s", std::move(phases)},
                             {"exposed_wait_s", row.exposed_wait_s[i]},
                             {"busy_max_over_mean", row.busy_max_over_mean[i]}});
    }
    std::vector<std::int64_t> blocks;
    for (const auto& shard : row.plan.shards) blocks.push_back(shard.block_tokens);
    rows.push_back({{"document_tokens", row.plan.document_tokens},
                    {"strategy", row.plan.strategy},
                    {"ranks", row.plan.ranks()},
                    {"blocks", row.balanced ? "balanced" : "even"},
                    {"block_tokens", blocks},
                    {"projected", row.projected},
                    {"median_s", row.median_s()},
                    {"tokens_per_s", row.tokens_per_s()},
                    {"share_of_ceiling", report.share_of_ceiling(row)},
                    {"ratio", report.ratio(row)},
                    {"counted_ratio", report.counted_ratio(row)},
                    {"counted_operations", row.work},
                    {"counted_operations_of_busiest_device", row.device_work},
                    {"predicted_s", row.predicted_s},
                    {"bytes_received", row.bytes_received},
                    {"repetitions", std::move(repetitions)},
                    {"plan", to_json(row.plan)}});
  }
  return {
      {"model", report.model},
      {"kernel_class", report.kernel_class},
      {"devices", report.devices},
      {"threads_per_device", report.threads},
      {"ceiling",
       {{"matmul_operations_per_s", report.speed.matmul_per_s}, {"copy_bytes_per_s", report.speed.copy_bytes_per_s}}},
      {"projected_link", {{"bytes_per_s", report.link.bytes_per_s}, {"latency_s", report.link.latency_s}}},
      {"rows", std::move(rows)}};
}

std::string svg_plot(const prefill_report& report) {
  plot drawing;
  const bool projected = std::ranges::any_of(report.rows, &prefill_row::projected);
  drawing.x_title = "document tokens";
  drawing.y_title = projected ? "prefill, projected (s)" : "prefill (s)";
  for (const auto& row : report.rows) {
    const auto name = name_of(row);
    auto line = std::ranges::find(drawing.lines, name, &plot_line::name);
    if (line == drawing.lines.end()) line = drawing.lines.insert(line, {name, {}});
    const auto [low, high] = std::ranges::minmax(row.seconds);
    line->points.push_back({static_cast<double>(row.plan.document_tokens), row.median_s(), low, high});
  }
  return to_svg(drawing);
}

}  // namespace baton
