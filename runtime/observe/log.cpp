#include "runtime/observe/log.hpp"

#include <algorithm>
#include <array>
#include <memory>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_sinks.h>

#include "kernels/fault.hpp"
#include "runtime/observe/format.hpp"

namespace baton {
namespace {

constexpr std::array<std::string_view, 6> names{"trace", "debug", "info", "warning", "error", "off"};

spdlog::level::level_enum level_of(log_level level) {
  switch (level) {
    case log_level::trace: return spdlog::level::trace;
    case log_level::debug: return spdlog::level::debug;
    case log_level::info: return spdlog::level::info;
    case log_level::warning: return spdlog::level::warn;
    case log_level::error: return spdlog::level::err;
    case log_level::off: break;
  }
  return spdlog::level::off;
}

/// What all threads of the process share. Only start_log changes options and process.
struct process_log {
  log_options options;
  log_process process;
  spdlog::logger out{"baton", std::make_shared<spdlog::sinks::stderr_sink_mt>()};

  process_log() {
    out.set_pattern("%v");
    out.set_level(level_of(options.level));
  }
};

/// Never destroyed: threads of libraries may speak until the very end.
process_log& this_log() {
  static auto* const log = new process_log;
  return *log;
}

}  // namespace

const std::string log_level_names = "trace, debug, info, warning, error or off";

std::string_view name_of(log_level level) { return names.at(static_cast<std::size_t>(level)); }

log_level log_level_from(const std::string& name) {
  const auto found = std::ranges::find(names, name);
  if (found == names.end())
    throw fault(fault_code::bad_input, fmt::format("'{}' is unknown; {}", name, log_level_names), "--log-level");
  return static_cast<log_level>(found - names.begin());
}

void start_log(const log_options& options, log_process process) {
  auto& log = this_log();
  log.options = options;
  log.process = std::move(process);
  log.out.set_level(level_of(options.level));
}

std::vector<std::string> log_arguments() {
  const auto& options = this_log().options;
  std::vector<std::string> arguments;
  if (options.level != log_options{}.level) arguments = {"--log-level", std::string(name_of(options.level))};
  if (options.json) arguments.emplace_back("--log-json");
  return arguments;
}

bool log_shows(log_level level) { return this_log().out.should_log(level_of(level)); }

bool log_is_json() { return this_log().options.json; }

void log_line(log_level level, std::string_view message, const log_fields& fields) {
  auto& log = this_log();
  if (level == log_level::off || !log.out.should_log(level_of(level))) return;
  log.out.log(level_of(level),
              formatted_log_line(log.options, log.process, std::chrono::system_clock::now(), level, message, fields));
}

std::string formatted_log_line(const log_options& options, const log_process& process,
                               std::chrono::system_clock::time_point time, log_level level, std::string_view message,
                               const log_fields& fields) {
  if (!options.json) {
    const auto who = process.among_others ? process.name + ": " : std::string();
    return fmt::format("baton: {}{}", who, printable(message));
  }
  const auto since = time.time_since_epoch();
  const auto ms = std::chrono::floor<std::chrono::milliseconds>(since).count();
  const auto s = std::chrono::floor<std::chrono::seconds>(since).count();
  nlohmann::ordered_json line;
  line["time"] = fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(static_cast<std::time_t>(s)), ms - s * 1000);
  line["level"] = name_of(level);
  line["process"] = process.name;
  line["message"] = message;
  for (const auto& field : fields) std::visit([&](const auto& value) { line[field.name] = value; }, field.value);
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace baton
