#pragma once

#include <filesystem>
#include <optional>

#include <nlohmann/json.hpp>

#include "actors/followed_job.hpp"
#include "kernels/fault.hpp"
#include "runtime/model/checkpoint.hpp"

namespace baton {

/// What this process's terminal is like.
view_options terminal_view(bool quiet);

/// A result that cannot be kept is better refused before the work than after it. Throws fault(bad_input) that names the option.
void check_writable(const char* option, const std::optional<std::filesystem::path>& path);
/// Throws fault(bad_input).
void write_json(const std::filesystem::path& path, const nlohmann::json& json);
void print_table(const run_result& result);
void write_trace(const std::filesystem::path& path, const finished_job& job, const checkpoint& model,
                 element_type precision);

/// Ctrl-C and SIGTERM ask to stop, which `interrupted` tells from then on; a second one ends the program at once.
void stop_on_interrupt();
bool interrupted();
/// Throws fault(cancelled) once it does.
void check_interrupted();

/// Tells people of a fault; returns `code`.
int report(const fault& why, int code);
/// The exit code of a job that has ended with a fault: 2 where what was asked for is to blame, else 1.
int report_end(const fault& why);

}  // namespace baton
