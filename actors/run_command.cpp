#include "actors/run_command.hpp"

#include <algorithm>
#include <cstdio>
#include <optional>

#include <fmt/format.h>
#include <unistd.h>

#include "actors/cluster.hpp"
#include "actors/followed_job.hpp"
#include "actors/job_client.hpp"
#include "actors/job_output.hpp"
#include "actors/prepared_job.hpp"
#include "kernels/fault.hpp"
#include "runtime/observe/dump.hpp"
#include "runtime/observe/plan_text.hpp"
#include "runtime/observe/run_result.hpp"
#include "runtime/observe/run_view.hpp"

namespace baton {
namespace {

/// Room for the largest of the plans on each device, or what the configuration sets. Refused before anything is loaded.
std::vector<std::int64_t> arenas_for(const prepared_job& run, std::span<const costed_plan> plans) {
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
      needed = with_margin(needed);
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

/// Submits one job and follows it to its end. Throws fault: bad_input where the coordinator refuses it.
finished_job follow(actors::cluster& cluster, const prepared_job& run, const std::string& name, const job_options& job,
                    bool dump, bool trace, run_view& view, const plan_costs& costs) {
  actors::job_client client(cluster.system(), cluster.coordinator());
  auto request = submission_of(run, name, job);
  request.report_dump = dump;
  request.report_trace = trace;
  client.submit(std::move(request), run.input.document_ids, run.input.query_ids);

  followed_job followed(view, run.words ? &*run.words : nullptr, run.model.config().layers,
                        [&](const job_plan&) { return costs; });
  bool cancelled = false;
  for (;;) {
    if (interrupted() && !cancelled && followed.id()) {
      cancelled = true;
      client.cancel(*followed.id());
    }
    const auto update = client.next(std::chrono::milliseconds(50));
    if (!update) {
      if (!followed.id()) check_interrupted();
      continue;
    }
    if (followed.take(*update)) return followed.take_result();
  }
}

}  // namespace

int run_command(const run_options& options) {
  std::optional<prepared_job> run;
  std::vector<job_options> jobs;
  std::vector<costed_plan> plans;
  std::vector<std::int64_t> arenas;
  try {
    check_writable("--json", options.json);
    check_writable("--dump", options.dump);
    check_writable("--trace", options.trace);
    run.emplace(prepare_job(options, configuration_of(options)));
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
      done.push_back(follow(*cluster, *run, fmt::format("run {}", i), jobs[i], options.dump && i == 0,
                            options.trace && i == 0, view, plans[i].costs));
      if (!options.quiet) print_table(done.back().result);
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
    if (options.trace) write_trace(*options.trace, done.front(), run->model, run->config.model.precision);
    return 0;
  } catch (const fault& why) {
    return report_end(why);
  }
}

int plan_command(const run_options& options) {
  try {
    check_writable("--json", options.json);
    auto run = prepare_job(options, configuration_of(options));
    const auto costed = plan_of(run, balanced(run, options, job_of(run.config, options, run.config.job.strategy)));
    arenas_for(run, std::span(&costed, 1));
    const int columns = size_of_terminal(STDOUT_FILENO).value_or(terminal_size{}).columns;
    fmt::print("{}", describe(costed.plan, costed.costs, std::min(columns, 100)));
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
