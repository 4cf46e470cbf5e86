#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

/// What a process tells on standard error: lines with a level, as text for people or as JSON for programs.
namespace baton {

enum class log_level : std::uint8_t { trace, debug, info, warning, error, off };

/// "trace, debug, info, warning, error or off".
extern const std::string log_level_names;
std::string_view name_of(log_level level);
/// Throws fault(bad_input) that names the right ones.
log_level log_level_from(const std::string& name);

/// What a line is about, so that a program need not read its text: {"rank", 3}, {"node", "west"}.
struct log_field {
  std::string name;
  std::variant<std::int64_t, double, std::string> value;
};
using log_fields = std::vector<log_field>;

struct log_options {
  log_level level = log_level::info;  ///< lines below it are not written
  bool json = false;                  ///< one object a line in place of text

  bool operator==(const log_options&) const = default;
};

/// Who speaks. The text of a command that somebody has typed, such as `run`, says "baton: " only; that of a process among
/// others, such as "node west", says which one it is.
struct log_process {
  std::string name;
  bool among_others = false;
};

/// Before it is called, lines are text, from info on, of a command without a name. Once, before other threads speak.
void start_log(const log_options& options, log_process process);

/// What a child process is to be given so that it speaks alike; empty where the default is meant.
std::vector<std::string> log_arguments();
[[nodiscard]] bool log_shows(log_level level);
[[nodiscard]] bool log_is_json();

/// Writes one line, at once and whole; any thread. Text leaves the fields out: its message says for people what they say.
void log_line(log_level level, std::string_view message, const log_fields& fields = {});

/// The line, without its end. Pure.
std::string formatted_log_line(const log_options& options, const log_process& process,
                               std::chrono::system_clock::time_point time, log_level level, std::string_view message,
                               const log_fields& fields);

}  // namespace baton
