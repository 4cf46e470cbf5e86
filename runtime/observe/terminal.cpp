#include "runtime/observe/terminal.hpp"

#include <cstdlib>

#include <sys/ioctl.h>
#include <unistd.h>

namespace baton {

std::optional<terminal_size> size_of_terminal(int descriptor) {
  winsize size{};
  if (ioctl(descriptor, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return {};
  return terminal_size{size.ws_col, size.ws_row};
}

bool wants_color(int descriptor) {
  const char* const unwanted = std::getenv("NO_COLOR");
  return isatty(descriptor) != 0 && (unwanted == nullptr || *unwanted == '\0');
}

}  // namespace baton
