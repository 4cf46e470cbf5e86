#include "actors/bench_command.hpp"

#include <algorithm>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <thread>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include "actors/cluster_devices.hpp"
#include "actors/known_rates.hpp"
#include "kernels/cpu/ceiling.hpp"
#include "kernels/fault.hpp"
#include "runtime/bench/bench_engine.hpp"
#include "runtime/bench/device_speed.hpp"
#include "runtime/bench/kernel_bench.hpp"
#include "runtime/bench/prefill_report.hpp"
#include "runtime/observe/format.hpp"
#include "runtime/observe/log.hpp"
#include "runtime/observe/terminal.hpp"
#include "runtime/plan/counted_work.hpp"
#include "runtime/strategy/strategy.hpp"

namespace baton {
namespace {

using actors::cluster_devices;

constexpr int kernel_runs = 7;

[[noreturn]] void refuse(const std::string& option, const std::string& why) {
  throw fault(fault_code::bad_input, why, option);
}

void write_file(const std::string& option, const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  if (!file.flush()) refuse(option + " " + path.string(), "cannot be written; is its folder there?");
}

void check_writable(const std::string& option, const std::optional<std::filesystem::path>& path) {
  if (!path) return;
  const auto folder = path->has_parent_path() ? path->parent_path() : std::filesystem::path(".");
  if (!std::filesystem::is_directory(folder) || access(folder.c_str(), W_OK) != 0)
    refuse(option + " " + path->string(), "cannot be written; is its folder there?");
}

cluster_config configuration_of(const bench_options& o) {
  cluster_config config;
  if (o.config) config = load_cluster_config(*o.config);
  if (o.model) config.model.directory = *o.model;
  if (o.shape) config.model.directory = *o.shape;
  config.processes = process_layout::one;
  if (o.precision) {
    if (*o.precision != "bf16" && *o.precision != "fp32")
      refuse("--precision", "'" + *o.precision + "' is unknown; bf16 or fp32");
    config.model.precision = *o.precision == "bf16" ? element_type::bf16 : element_type::f32;
  }
  if (o.threads) {
    if (*o.threads < 1 || *o.threads > 1024) refuse("--threads", fmt::format("{}; between 1 and 1024", *o.threads));
    for (auto& node : config.nodes) {
      for (auto& device : node.devices) {
        device.threads = *o.threads;
        device.cores.clear();
      }
    }
  }
  return config;
}

/// On a thread of the device's own, as its compute thread is.
template <class Body>
auto on_device(backend& kernels, Body&& body) {
  return std::async(std::launch::async,
                    [&] {
                      kernels.adopt_compute_thread();
                      return body();
                    })
      .get();
}

/// What says how far the measuring is, on one line that is written again; nothing where nobody looks at it.
class progress_line {
 public:
  explicit progress_line(bool quiet) : shown_(!quiet && isatty(STDERR_FILENO) != 0) {}
  ~progress_line() { clear(); }
  progress_line(const progress_line&) = delete;
  progress_line& operator=(const progress_line&) = delete;

  void say(const std::string& text) const {
    if (!shown_) return;
    fmt::print(stderr, "\r\x1b[K{}",
               shortened(text, std::max(size_of_terminal(STDERR_FILENO).value_or(terminal_size{}).columns - 1, 1)));
    std::fflush(stderr);
  }
  void clear() const {
    if (shown_) fmt::print(stderr, "\r\x1b[K");
  }

 private:
  bool shown_;
};

device_speed speed_of(cluster_devices& devices, const cluster_config& config) {
  auto& kernels = devices.kernels(0);
  auto speed = on_device(kernels, [&] { return measure_device_speed(kernels); });
  if (kernels.kernel_class().starts_with("cpu-")) {
    const auto options = actors::cpu_options_of(config.model, config.nodes.front().devices.front());
    speed.matmul_per_s = std::max(
        speed.matmul_per_s, std::async(std::launch::async, [&] { return cpu::measure_matmul_ceiling(options); }).get());
  }
  return speed;
}

device_speed faster(const device_speed& a, const device_speed& b) {
  return {std::max(a.matmul_per_s, b.matmul_per_s), std::max(a.copy_bytes_per_s, b.copy_bytes_per_s)};
}

/// `rates`: of the devices; without them nothing is predicted, and all blocks are even.
/// What is measured, in the order of the table: by length, by strategy, by ranks, even blocks before balanced ones.
std::vector<prefill_row> rows_of(const bench_options& o, const cluster_config& config, const checkpoint& model,
                                 std::span<const device_view> views, const std::optional<cluster_rates>& rates) {
  if (o.virtual_ranks && *o.virtual_ranks < 2) refuse("--virtual-ranks", "at least 2");
  const std::vector<int> ranks = o.virtual_ranks ? std::vector{*o.virtual_ranks} : o.ranks;
  const bool has_full = std::ranges::find(o.strategies, "full") != o.strategies.end();
  const auto one_device = views.first(1);
  std::vector<prefill_row> rows;
  for (const auto& length : o.lengths) {
    for (const auto& name : o.strategies) {
      const auto& how = find_strategy(name);
      for (const int h : how.splits() ? ranks : std::vector{1}) {
        if (how.splits() && h == 1 && has_full) continue;
        plan_request request;
        request.document_tokens = parse_tokens(length);
        request.query_tokens = o.query_tokens;
        request.positions_max = model.config().max_positions;
        request.has_retaining_heads = model.has_retaining_heads();
        request.options = config.job;
        request.options.strategy = name;
        request.options.ranks = h;
        request.options.block_tokens.clear();
        request.options.max_new_tokens = 1;
        if (o.chunk_tokens) request.options.chunk_tokens = *o.chunk_tokens;
        if (o.compressor) {
          request.options.compressor.reset();
          if (*o.compressor != "auto") request.options.compressor = compressor_from(*o.compressor);
        }
        for (const auto& blocks : h > 1 ? o.blocks : std::vector<std::string>{"even"}) {
          const bool balanced = blocks == "balanced";
          if (!balanced && blocks != "even") refuse("--blocks", "'" + blocks + "' is unknown; even or balanced");
          if (balanced && !how.compresses()) continue;
          const auto used = o.virtual_ranks ? one_device : views;
          if (balanced && rates) {
            request.options.block_tokens =
                balanced_blocks(request, used, model.config(), *rates, o.virtual_ranks.has_value());
          }
          prefill_row row;
          row.plan = make_job_plan(request, used);
          row.balanced = balanced;
          row.projected = o.virtual_ranks.has_value();
          double largest_rank = 0;
          double slowest_rank_s = 0;
          for (const auto& shard : row.plan.shards) {
            const double work = work_of(shard, model.config(), row.plan.compressor, model.retaining_width()).total();
            row.work += work;
            largest_rank = std::max(largest_rank, work);
            if (rates) slowest_rank_s = std::max(slowest_rank_s, predicted_shard_s(shard, model.config(), *rates));
          }
          row.device_work =
              row.projected ? largest_rank : largest_device_work(row.plan, model.config(), model.retaining_width());
          if (rates)
            row.predicted_s = row.projected ? slowest_rank_s : predicted_prefill_s(row.plan, model.config(), *rates);
          rows.push_back(std::move(row));
        }
      }
    }
  }
  if (rows.empty()) refuse("--ranks", "nothing is left to measure");
  return rows;
}

/// Memory that is not there is better missed now than in the middle.
void check_memory(const std::vector<prefill_row>& rows, const cost_basis& basis) {
  const auto physical = std::int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  for (const auto& row : rows) {
    std::int64_t needed = basis.weights_bytes;
    for (const auto& device : costs_of(row.plan, basis).devices) needed += device.arena_bytes() + device.fixed_bytes;
    if (needed > physical) {
      refuse("--lengths", fmt::format("{} by {} with {} ranks takes {} of memory, this machine has {}",
                                      format_count(row.plan.document_tokens), row.plan.strategy, row.plan.ranks(),
                                      format_bytes(needed), format_bytes(physical)));
    }
  }
}

int bench_prefill(const bench_options& o) {
  check_writable("--json", o.json);
  check_writable("--svg", o.svg);
  if (o.repeats < 1) refuse("--repeats", "at least 1");
  const auto config = configuration_of(o);
  if (config.model.directory.empty()) refuse("--model", "is missing; give --model DIR, --shape FILE or --config FILE");
  const auto model = checkpoint::open(config.model.directory);
  cluster_devices devices(config);
  prefill_report report;
  report.model = config.model.directory.string();
  report.kernel_class = devices.kernels(0).kernel_class();
  report.devices = o.virtual_ranks ? 1 : devices.size();
  report.rows = rows_of(o, config, model, devices.views(), {});
  report.link = {o.link_gbit_per_s * 1e9 / 8, o.link_latency_us * 1e-6};
  const bool on_cpu = report.kernel_class.starts_with("cpu-");
  if (on_cpu) {
    report.threads = actors::cpu_options_of(config.model, config.nodes.front().devices.front()).threads;
    std::int64_t positions = 0;
    for (const auto& row : report.rows) positions = std::max(positions, row.plan.document_tokens + o.query_tokens);
    check_memory(report.rows,
                 actors::basis_of(devices.kernels(0), model, positions, report.rows.front().plan.chunk_tokens));
  }

  const progress_line progress(o.quiet);
  const auto rates = actors::known_rates(devices, config, model, report.rows.front().plan.chunk_tokens, o.calibrate,
                                         [&] { progress.say("measuring the device for the cost model"); });
  report.rows = rows_of(o, config, model, devices.views(), rates);
  progress.say("measuring the ceiling");
  report.speed = speed_of(devices, config);
  std::vector<bench_device> used;
  std::map<int, std::unique_ptr<model_weights>> weights;
  for (std::size_t i = 0; i < report.devices; ++i) {
    auto& own = weights[actors::weights_place(config.nodes.front().devices[i])];
    if (!own) {
      own = std::make_unique<model_weights>(devices.kernels(i), model, [&](std::int64_t done, std::int64_t total) {
        progress.say(fmt::format("loading {} of {}", format_bytes(done), format_bytes(total)));
      });
    }
    used.push_back({devices.views()[i].node, devices.views()[i].device, &devices.kernels(i), own.get()});
  }
  std::vector<job_plan> plans;
  for (const auto& row : report.rows) plans.push_back(row.plan);
  bench_engine engine(used, plans);

  const auto query = generated_tokens(o.query_tokens, model.config().vocabulary, 2);
  std::size_t runs = 0;
  for (int repeat = -1; repeat < o.repeats; ++repeat) {
    for (auto& row : report.rows) {
      progress.say(fmt::format("{} of {}: {} tokens, {}, {} rank{}{}", ++runs,
                               report.rows.size() * (static_cast<std::size_t>(o.repeats) + 1),
                               format_count(row.plan.document_tokens), row.plan.strategy, row.plan.ranks(),
                               row.plan.ranks() == 1 ? "" : "s", repeat < 0 ? ", to warm up" : ""));
      const auto document = generated_tokens(row.plan.document_tokens, model.config().vocabulary, 1);
      if (row.projected) {
        const auto run = engine.run_in_lockstep(row.plan, document, query);
        std::vector<std::int64_t> bytes;
        const auto shape = shape_of(model.config(), devices.kernels(0).activation_type());
        for (const auto& shard : row.plan.shards) {
          bytes.push_back(2 * shape.element_bytes * shape.kv_heads * shape.head_dim * shard.compressed_units);
        }
        if (repeat >= 0) row.add(run, project_cluster(run.layers, bytes, report.link));
      } else {
        const auto run = engine.run(row.plan, document, query);
        if (repeat >= 0) row.add(run);
      }
    }
  }
  // Once more: a machine that was slow for a moment at the beginning would make everything look good.
  report.speed = faster(report.speed, speed_of(devices, config));
  progress.clear();
  fmt::print("{}", table(report));
  if (o.json) write_file("--json", *o.json, to_json(report).dump(2) + '\n');
  if (o.svg) write_file("--svg", *o.svg, svg_plot(report));
  return 0;
}

int bench_kernels(const bench_options& o) {
  check_writable("--json", o.json);
  const auto config = configuration_of(o);
  cluster_devices devices(config);
  auto& kernels = devices.kernels(0);
  kernel_report report;
  report.kernel_class = kernels.kernel_class();
  if (report.kernel_class.starts_with("cpu-"))
    report.threads = actors::cpu_options_of(config.model, config.nodes.front().devices.front()).threads;
  const progress_line progress(o.quiet);
  progress.say("measuring the ceiling");
  report.speed = speed_of(devices, config);
  report.kernels = on_device(kernels, [&] {
    kernel_sizes sizes;
    if (!kernels.computes_on_host())
      sizes = {
          .rows = 8192, .tokens = 65536, .chunk_tokens = 0, .keys = 131072, .scored_tokens = 16384};  // what fills it
    return time_kernels(kernels, kernel_runs, sizes, o.only, [&](const std::string& kernel) { progress.say(kernel); });
  });
  if (report.kernels.empty()) refuse("--only", fmt::format("no kernel is called {}", fmt::join(o.only, " or ")));
  report.speed = faster(report.speed, speed_of(devices, config));
  progress.clear();
  fmt::print("{}", table(report));
  if (o.json) write_file("--json", *o.json, to_json(report).dump(2) + '\n');
  return 0;
}

}  // namespace

int bench_command(const bench_options& options) {
  try {
    return options.what == bench_options::kind::kernels ? bench_kernels(options) : bench_prefill(options);
  } catch (const fault& why) {
    log_line(log_level::error, why.what());
    return why.code() == fault_code::bad_input ? 2 : 1;
  }
}

}  // namespace baton
