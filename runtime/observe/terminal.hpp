#pragma once

#include <optional>

namespace baton {

struct terminal_size {
  int columns = 80;
  int rows = 24;
};

/// Of the terminal behind a descriptor, as it is now; nothing where there is none, or where it does not say.
std::optional<terminal_size> size_of_terminal(int descriptor);

/// Whether it is a terminal whose person has not asked for no colour (https://no-color.org: NO_COLOR, not empty).
bool wants_color(int descriptor);

}  // namespace baton
