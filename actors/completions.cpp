#include "actors/completions.hpp"

#include <set>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "kernels/fault.hpp"
#include "runtime/observe/log.hpp"
#include "runtime/strategy/strategy.hpp"

namespace baton {
namespace {

/// A command, as it is typed behind the program's name, and what may follow.
struct command_words {
  std::string path;  ///< "bench prefill"; empty: the program itself
  std::string description;
  std::vector<std::string> commands;
  std::vector<const CLI::Option*> options;
};

/// What may stand behind an option, where there are few such words. Their order is that of --help.
std::vector<std::string> choices_of(const std::string& option) {
  if (option == "strategy" || option == "strategies" || option == "compare") {
    const auto names = strategy_names();
    return {names.begin(), names.end()};
  }
  if (option == "compressor") return {"auto", "retaining_heads", "query_key", "recent", "random"};
  if (option == "blocks") return {"even", "balanced"};
  if (option == "precision") return {"bf16", "fp32"};
  if (option == "log-level") {
    std::vector<std::string> names;
    for (int level = 0; level <= static_cast<int>(log_level::off); ++level)
      names.emplace_back(name_of(static_cast<log_level>(level)));
    return names;
  }
  return {};
}

void collect(const CLI::App& app, const std::string& path, std::vector<command_words>& all) {
  command_words words{path, app.get_description(), {}, app.get_options()};
  std::erase_if(words.options, [](const CLI::Option* o) { return o->get_lnames().empty(); });
  for (const auto* below : app.get_subcommands({})) words.commands.push_back(below->get_name());
  if (path == "completions") words.commands = {"bash", "zsh", "fish"};
  all.push_back(words);
  for (const auto* below : app.get_subcommands({}))
    collect(*below, path.empty() ? below->get_name() : path + " " + below->get_name(), all);
}

std::string bash_script(const std::vector<command_words>& all) {
  std::string paths;
  std::string cases;
  std::string values;
  std::set<std::string> named;
  for (const auto& words : all) {
    for (const auto* o : words.options) {
      const auto& name = o->get_lnames().front();
      if (const auto choices = choices_of(name); !choices.empty() && named.insert(name).second)
        values += fmt::format("    --{}) choices=\"{}\" ;;\n", name, fmt::join(choices, " "));
    }
    if (!words.path.empty()) paths += fmt::format("{}\"{}\"", paths.empty() ? "" : "|", words.path);
    std::vector<std::string> options;
    for (const auto* o : words.options) options.push_back("--" + o->get_lnames().front());
    cases += fmt::format("    \"{}\") commands=\"{}\"; options=\"{}\" ;;\n", words.path, fmt::join(words.commands, " "),
                         fmt::join(options, " "));
  }
  return fmt::format(R"(_baton() {{
  local word path="" commands="" options="" choices="" current="${{COMP_WORDS[COMP_CWORD]}}"
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "${{path:+$path }}$word" in
      {}) path="${{path:+$path }}$word" ;;
    esac
  done
  case "$path" in
{}  esac
  case "${{COMP_WORDS[COMP_CWORD-1]}}" in
{}  esac
  # Where nothing of these fits, a file is meant.
  if [[ -n $choices ]]; then
    COMPREPLY=($(compgen -W "$choices" -- "$current"))
  elif [[ $current == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$current"))
  elif [[ ${{COMP_WORDS[COMP_CWORD-1]}} != -* ]]; then
    COMPREPLY=($(compgen -W "$commands" -- "$current"))
  fi
}}
complete -o default -F _baton baton
)",
                     paths, cases, values);
}

std::string in_single_quotes(std::string_view text) {
  std::string quoted = "'";
  for (const char c : text)
    quoted += c == '\'' ? std::string("\\'") : c == '\\' ? std::string("\\\\") : std::string(1, c);
  return quoted + "'";
}

std::string fish_script(const std::vector<command_words>& all) {
  std::string text = "complete -c baton -e\n";
  for (const auto& words : all) {
    // All of the command's words are there, and none of those that may come next.
    std::string condition = "true";
    for (std::size_t at = 0; at < words.path.size();) {
      const auto end = std::min(words.path.find(' ', at), words.path.size());
      condition += fmt::format("; and __fish_seen_subcommand_from {}", words.path.substr(at, end - at));
      at = end + 1;
    }
    if (!words.commands.empty())
      condition += fmt::format("; and not __fish_seen_subcommand_from {}", fmt::join(words.commands, " "));
    for (const auto& command : words.commands) {
      for (const auto& below : all) {
        if (below.path != (words.path.empty() ? command : words.path + " " + command)) continue;
        text += fmt::format("complete -c baton -f -n {} -a {} -d {}\n", in_single_quotes(condition), command,
                            in_single_quotes(below.description));
      }
      if (words.path == "completions")
        text += fmt::format("complete -c baton -f -n {} -a {}\n", in_single_quotes(condition), command);
    }
    for (const auto* o : words.options) {
      const auto& name = o->get_lnames().front();
      const auto choices = choices_of(name);
      const std::string value = !choices.empty()                  ? fmt::format(" -x -a '{}'", fmt::join(choices, " "))
                                : o->get_items_expected_max() > 0 ? " -r"
                                                                  : "";
      text += fmt::format("complete -c baton -n {} -l {}{} -d {}\n", in_single_quotes(condition), name, value,
                          in_single_quotes(o->get_description()));
    }
  }
  return text;
}

}  // namespace

std::string completion_script(const CLI::App& app, const std::string& shell) {
  std::vector<command_words> all;
  collect(app, "", all);
  if (shell == "bash") return bash_script(all);
  if (shell == "zsh") return "autoload -U +X bashcompinit && bashcompinit\n" + bash_script(all);
  if (shell == "fish") return fish_script(all);
  throw fault(fault_code::bad_input, "'" + shell + "' is unknown; bash, zsh or fish", "completions");
}

}  // namespace baton
