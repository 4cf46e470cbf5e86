#pragma once

#include <string>

namespace CLI {
class App;
}

namespace baton {

/// A script that teaches a shell the program's commands and options: "bash", "zsh" or "fish"; made from what the parser knows, so that it
/// cannot fall behind. Throws fault(bad_input) for another shell.
std::string completion_script(const CLI::App& app, const std::string& shell);

}  // namespace baton
