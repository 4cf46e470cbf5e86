#include "actors/job_output.hpp"

#include <csignal>
#include <fstream>

#include <fmt/format.h>
#include <unistd.h>

#include "runtime/observe/log.hpp"
#include "runtime/observe/terminal.hpp"
#include "runtime/observe/trace_file.hpp"
#include "runtime/plan/plan_costs.hpp"

namespace baton {
namespace {

volatile std::sig_atomic_t asked_to_stop = 0;

}  // namespace

view_options terminal_view(bool quiet) {
  view_options options;
  options.quiet = quiet;
  options.as_log = log_is_json();
  options.progress = !quiet && log_shows(log_level::info);
  // Lines that others write meanwhile would tear bars apart.
  options.terminal = !options.as_log && !log_shows(log_level::debug) && isatty(STDERR_FILENO) != 0;
  if (options.terminal) options.size = [] { return size_of_terminal(STDERR_FILENO).value_or(terminal_size{}); };
  options.color = options.terminal && wants_color(STDERR_FILENO);
  return options;
}

void check_writable(const char* option, const std::optional<std::filesystem::path>& path) {
  if (!path) return;
  const auto folder = path->has_parent_path() ? path->parent_path() : std::filesystem::path(".");
  if (!std::filesystem::is_directory(folder) || access(folder.c_str(), W_OK) != 0 ||
      std::filesystem::is_directory(*path)) {
    throw fault(fault_code::bad_input, "cannot be written; is its folder there?",
                fmt::format("{} {}", option, path->string()));
  }
}

void write_json(const std::filesystem::path& path, const nlohmann::json& json) {
  std::ofstream file(path);
  file << json.dump(2) << '\n';
  if (!file.flush()) throw fault(fault_code::bad_input, "cannot be written", "--json " + path.string());
}

void print_table(const run_result& result) {
  fmt::print("\n{}", table(result, size_of_terminal(STDOUT_FILENO).value_or(terminal_size{}).columns));
}

void write_trace(const std::filesystem::path& path, const finished_job& job, const checkpoint& model,
                 element_type precision) {
  const auto shape = shape_of(model.config(), precision);
  write_trace(path, job.result.plan, job.trace, 2 * shape.element_bytes * shape.kv_heads * shape.head_dim);
}

void stop_on_interrupt() {
  struct sigaction action = {};
  action.sa_handler = [](int) { asked_to_stop = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
}

bool interrupted() { return asked_to_stop != 0; }

void check_interrupted() {
  if (interrupted()) throw fault(fault_code::cancelled, "it was interrupted");
}

int report(const fault& why, int code) {
  log_line(log_level::error, why.what(), {{"code", std::string(name_of(why.code()))}, {"where", why.where()}});
  return code;
}

int report_end(const fault& why) {
  if (interrupted()) {
    log_line(log_level::error, "stopped");
    return 1;
  }
  return report(why, why.code() == fault_code::bad_input ? 2 : 1);
}

}  // namespace baton
