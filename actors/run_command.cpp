#include "actors/run_command.hpp"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <optional>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "actors/cluster.hpp"
#include "actors/job_client.hpp"
#include "actors/job_input.hpp"
#include "actors/known_rates.hpp"
#include "kernels/fault.hpp"
#include "runtime/model/detokenizer.hpp"
#include "runtime/observe/dump.hpp"
#include "runtime/observe/plan_text.hpp"
#include "runtime/observe/run_result.hpp"
#include "runtime/observe/run_view.hpp"
#include "runtime/observe/trace_file.hpp"
#include "runtime/strategy/strategy.hpp"

namespace baton {
namespace {

using actors::cluster_devices;
using actors::job_client;

volatile std::sig_atomic_t interrupted = 0;

/// Ctrl-C asks the job to stop; a second one ends the program at once.
void stop_on_interrupt() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
}

void check_interrupted() {
  if (interrupted) throw fault(fault_code::cancelled, "it was interrupted");
}

/// All that is known before anything is loaded.
struct prepared_run {
  cluster_config config;
  checkpoint model;
  std::optional<tokenizer> words;
  prompt input;
  cluster_devices devices;
};

prepared_run prepare(const run_options& options) {
  auto config = configuration_of(options);
  auto model = checkpoint::open(config.model.directory);
  std::optional<tokenizer> words;
  try {
    words = tokenizer::load(config.model.directory);
  } catch (const fault&) {
    // Token ids need no words; without them the answer has no text.
    if (!options.tokens) throw;
  }
  auto input = read_prompt(options, config, model.config(), words ? &*words : nullptr);
  cluster_devices devices(config);
  return {std::move(config), std::move(model), std::move(words), std::move(input), std::move(devices)};
}

struct costed_plan {
  job_plan plan;
  plan_costs costs;
};

std::int64_t positions_needed(const prepared_run& run, const job_options& job) {
  return static_cast<std::int64_t>(run.input.document_ids.size() + run.input.query_ids.size()) + job.max_new_tokens;
}

plan_request request_of(const prepared_run& run, const job_options& job) {
  const std::int64_t model_positions = run.model.config().max_positions;
  const std::int64_t limit =
      run.config.positions_max > 0 ? std::min(run.config.positions_max, model_positions) : model_positions;
  return {.document_tokens = static_cast<std::int64_t>(run.input.document_ids.size()),
          .query_tokens = static_cast<std::int64_t>(run.input.query_ids.size()),
          .system_tokens = run.input.system_tokens,
          .positions_max = limit,
          .has_retaining_heads = run.model.has_retaining_heads(),
          .options = job};
}

device_rates rates_of(prepared_run& run) {
  return actors::known_rates(run.devices, run.config, run.model, run.config.job.chunk_tokens, false,
                             [] { fmt::print(stderr, "baton: measuring the device, once\n"); });
}

/// With `--blocks balanced`: block lengths go into the job, so that its plan records them.
job_options balanced(prepared_run& run, const run_options& options, job_options job) {
  if (options.blocks != "balanced" || job.ranks < 2 || !find_strategy(job.strategy).compresses()) return job;
  job.block_tokens =
      balanced_blocks(request_of(run, job), run.devices.views(), run.model.config(), rates_of(run), false);
  return job;
}

costed_plan plan_of(prepared_run& run, const job_options& job) {
  auto plan = make_job_plan(request_of(run, job), run.devices.views());
  const auto basis = actors::basis_of(run.devices, run.model, positions_needed(run, job), job.chunk_tokens);
  auto costs = costs_of(plan, basis);
  return {std::move(plan), std::move(costs)};
}

/// Room for the largest of the plans on each device, or what the configuration sets. Refused before anything is loaded.
std::vector<std::int64_t> arenas_for(const prepared_run& run, std::span<const costed_plan> plans) {
  std::vector<std::int64_t> arenas;
  for (const auto& node : run.config.nodes) {
    for (const auto& device : node.devices) {
      std::int64_t needed = 0;
      for (const auto& p : plans) {
        for (const auto& cost : p.costs.devices) {
          if (cost.node == node.name && cost.device == device.name) needed = std::max(needed, cost.arena_bytes());
        }
      }
      if (device.memory_bytes == 0 && run.config.processes == process_layout::per_device) {
        std::int64_t largest = 0;
        for (const auto& p : plans) largest = std::max(largest, p.costs.largest_shard_bytes);
        needed += run.config.recovery.reserve * largest;
      }
      // Extents are rounded up and answers come while other pieces are still lent.
      needed += needed / 64 + (std::int64_t{1} << 20);
      if (device.memory_bytes > 0 && needed > device.memory_bytes) {
        throw fault(fault_code::bad_input,
                    fmt::format("the job needs {} of KV and workspace there, memory is {}; raise it, add devices, or "
                                "shorten the document",
                                format_bytes(needed), format_bytes(device.memory_bytes)),
                    fmt::format("device {}/{}", node.name, device.name));
      }
      arenas.push_back(device.memory_bytes > 0 ? device.memory_bytes : needed);
    }
  }
  return arenas;
}

view_options terminal_view(bool quiet) {
  view_options options;
  options.quiet = quiet;
  options.terminal = isatty(STDERR_FILENO) != 0;
  winsize size{};
  if (options.terminal && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    options.columns = size.ws_col;
    options.rows = size.ws_row;
  }
  options.color = options.terminal && std::getenv("NO_COLOR") == nullptr;
  return options;
}

struct finished_job {
  run_result result;
  std::vector<float> logits;
  std::vector<selected_units> selected;
  std::vector<rank_trace> trace;  ///< of each rank
};

/// Submits one job and follows it to its end. Throws fault: bad_input where the coordinator refuses it.
finished_job follow(actors::cluster& cluster, const prepared_run& run, const job_options& job, bool dump, bool trace,
                    run_view& view, const plan_costs& costs) {
  job_client client(cluster.system(), cluster.coordinator());
  submit_job request;
  request.request_id = "run-" + job.strategy;
  request.options = job;
  request.document_tokens = static_cast<std::int64_t>(run.input.document_ids.size());
  request.query_tokens = static_cast<std::int64_t>(run.input.query_ids.size());
  request.system_tokens = run.input.system_tokens;
  request.stop_tokens = run.model.config().stop_tokens;
  request.report_dump = dump;
  request.report_trace = trace;
  client.submit(std::move(request), run.input.document_ids, run.input.query_ids);

  finished_job done;
  std::optional<detokenizer> text;
  if (run.words) text.emplace(*run.words);
  std::string answer;
  const auto say = [&](const std::string& piece) {
    answer += piece;
    view.answer_text(piece);
  };
  std::optional<job_accepted> accepted;
  bool cancelled = false;
  for (;;) {
    if (interrupted && !cancelled && accepted) {
      cancelled = true;
      client.cancel(accepted->job);
    }
    const auto update = client.next(std::chrono::milliseconds(50));
    if (!update) {
      if (!accepted) check_interrupted();
      continue;
    }
    if (const auto* a = std::get_if<job_accepted>(&*update)) {
      accepted = *a;
      done.trace.resize(a->plan.shards.size());
      view.plan(a->plan, costs, run.model.config().layers);
    } else if (const auto* refused = std::get_if<job_refused>(&*update)) {
      throw fault(refused->why.code, refused->why.what, refused->why.where);
    } else if (const auto* progress = std::get_if<job_progress>(&*update)) {
      view.progress(*progress);
    } else if (const auto* prefilled = std::get_if<prefill_finished>(&*update)) {
      view.prefill_done(prefilled->prefill_s);
    } else if (const auto* token = std::get_if<answer_token>(&*update)) {
      if (text) say(text->push(token->token));
    } else if (const auto* logits = std::get_if<first_logits>(&*update)) {
      done.logits.insert(done.logits.end(), logits->values.begin(), logits->values.end());
    } else if (const auto* moved = std::get_if<shard_moved>(&*update)) {
      view.message(
          fmt::format("rank {} is computed again on {}/{}: {}", moved->rank, moved->node, moved->device, moved->cause));
      auto& shard = accepted->plan.shards.at(static_cast<std::size_t>(moved->rank));
      shard.node = moved->node;
      shard.device = moved->device;
    } else if (const auto* units = std::get_if<chosen_units>(&*update)) {
      done.selected.push_back({units->layer, units->rank, units->kv_heads, units->indices});
    } else if (const auto* recorded = std::get_if<trace_spans>(&*update)) {
      done.trace.at(static_cast<std::size_t>(recorded->rank)).append(recorded->recorded);
    } else if (const auto* failed = std::get_if<job_failed>(&*update)) {
      view.answer_done();
      throw fault(failed->why.code == fault_code::bad_input ? fault_code::internal : failed->why.code, failed->why.what,
                  failed->why.where);
    } else if (const auto* finished = std::get_if<job_finished>(&*update)) {
      if (text) say(text->finish());
      view.answer_done();
      done.result = make_run_result(accepted->plan, *finished, answer);
      return done;
    }
  }
}

void write_json(const std::filesystem::path& path, const nlohmann::json& json) {
  std::ofstream file(path);
  file << json.dump(2) << '\n';
  if (!file.flush()) throw fault(fault_code::bad_input, "cannot be written", "--json " + path.string());
}

/// A result that cannot be kept is better refused before the work than after it.
void check_writable(const char* option, const std::optional<std::filesystem::path>& path) {
  if (!path) return;
  const auto folder = path->has_parent_path() ? path->parent_path() : std::filesystem::path(".");
  if (!std::filesystem::is_directory(folder) || access(folder.c_str(), W_OK) != 0 ||
      std::filesystem::is_directory(*path)) {
    throw fault(fault_code::bad_input, "cannot be written; is its folder there?",
                fmt::format("{} {}", option, path->string()));
  }
}

int report(const fault& why, int code) {
  fmt::print(stderr, "baton: {}\n", why.what());
  return code;
}

}  // namespace

int run_command(const run_options& options) {
  std::optional<prepared_run> run;
  std::vector<job_options> jobs;
  std::vector<costed_plan> plans;
  std::vector<std::int64_t> arenas;
  try {
    check_writable("--json", options.json);
    check_writable("--dump", options.dump);
    check_writable("--trace", options.trace);
    run.emplace(prepare(options));
    jobs.push_back(balanced(*run, options, job_of(run->config, options, run->config.job.strategy)));
    if (options.compare) jobs.push_back(balanced(*run, options, job_of(run->config, options, *options.compare)));
    for (const auto& job : jobs) plans.push_back(plan_of(*run, job));
    arenas = arenas_for(*run, plans);
  } catch (const fault& why) {
    return report(why, 2);
  }
  stop_on_interrupt();
  try {
    run_view view(stderr, stdout, terminal_view(options.quiet));
    if (!run->words) view.message("no tokenizer could be loaded: the answer has ids and no text");
    std::int64_t positions = 0;
    for (const auto& job : jobs) positions = std::max(positions, positions_needed(*run, job));
    const double began_s = steady_seconds();
    if (run->config.processes == process_layout::per_device)
      view.message(fmt::format("starting a process for each of {} devices, and an agent for each of {} nodes",
                               run->devices.size(), run->config.nodes.size()));
    const auto cluster = actors::start_cluster(
        run->config, run->model, run->devices, arenas, positions,
        {[&](std::int64_t done, std::int64_t total) { view.loading(done, total); }, check_interrupted});
    const double load_s = steady_seconds() - began_s;
    std::vector<finished_job> done;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      done.push_back(
          follow(*cluster, *run, jobs[i], options.dump && i == 0, options.trace && i == 0, view, plans[i].costs));
      if (!options.quiet)
        fmt::print("\n{}", table(done.back().result, isatty(STDOUT_FILENO) != 0 ? terminal_view(false).columns : 80));
      std::fflush(stdout);
    }
    auto json = to_json(done.front().result);
    json["load_s"] = load_s;
    if (done.size() > 1) {
      const auto& other = done.back().result;
      if (!options.quiet) fmt::print("\n{}", comparison_text(done.front().result, other));
      json["compare"] = to_json(other);
      json["speedup"] = other.prefill_s / done.front().result.prefill_s;
    }
    if (options.json) write_json(*options.json, json);
    if (options.dump) write_dump(*options.dump, done.front().logits, done.front().selected);
    if (options.trace) {
      const auto shape = shape_of(run->model.config(), run->config.model.precision);
      write_trace(*options.trace, done.front().result.plan, done.front().trace,
                  2 * shape.element_bytes * shape.kv_heads * shape.head_dim);
    }
    return 0;
  } catch (const fault& why) {
    if (interrupted) {
      fmt::print(stderr, "baton: stopped\n");
      return 1;
    }
    return report(why, why.code() == fault_code::bad_input ? 2 : 1);
  }
}

int plan_command(const run_options& options) {
  try {
    check_writable("--json", options.json);
    auto run = prepare(options);
    const auto costed = plan_of(run, balanced(run, options, job_of(run.config, options, run.config.job.strategy)));
    arenas_for(run, std::span(&costed, 1));
    fmt::print("{}", describe(costed.plan, costed.costs));
    nlohmann::json json{{"plan", to_json(costed.plan)}, {"costs", to_json(costed.costs)}};
    if (options.predict) {
      const double predicted_s = predicted_prefill_s(costed.plan, run.model.config(), rates_of(run));
      fmt::print("{:<15}{} of prefill, {} tokens/s\n", "predicted", format_seconds(predicted_s),
                 format_rate(static_cast<double>(costed.plan.document_tokens) / predicted_s));
      json["predicted_prefill_s"] = predicted_s;
    }
    if (options.json) write_json(*options.json, json);
    return 0;
  } catch (const fault& why) {
    return report(why, 2);
  }
}

}  // namespace baton
