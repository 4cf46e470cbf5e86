#include <cstdlib>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/end_to_end/samples.hpp"
#include "tests/support/places.hpp"
#include "tests/support/small_terminal.hpp"

namespace baton {
namespace {

using testing::HasSubstr;
using testing::Not;

/// What a run writes to a terminal of so many columns, up to its end.
std::string on_terminal(int columns, const char* no_color) {
  const auto sample = samples_of("archive-8k").at(0);
  winsize size{.ws_row = 24, .ws_col = static_cast<unsigned short>(columns), .ws_xpixel = 0, .ws_ypixel = 0};
  int terminal = -1;
  const pid_t child = forkpty(&terminal, nullptr, nullptr, &size);
  if (child == 0) {
    if (no_color != nullptr) {
      setenv("NO_COLOR", no_color, 1);
    } else {
      unsetenv("NO_COLOR");
    }
    execl(BATON_BINARY, "baton", "run", "--config", quickstart.c_str(), "--document", sample.document.c_str(),
          "--question", sample.question.c_str(), "--strategy", "apb", "--ranks", "4", static_cast<char*>(nullptr));
    _exit(127);
  }
  std::string all;
  char piece[4096];
  // Linux answers with an error when the last process has closed its side.
  for (ssize_t count = 0; (count = read(terminal, piece, sizeof piece)) > 0;)
    all.append(piece, static_cast<std::size_t>(count));
  close(terminal);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << all;
  return all;
}

TEST(terminal, bars_are_redrawn_in_place_and_nothing_wraps_at_three_widths) {
  for (const int columns : {60, 80, 120}) {
    SCOPED_TRACE(columns);
    const auto text = on_terminal(columns, nullptr);
    small_terminal terminal(columns + 1, 24);  // what is printed once may fill the last column
    terminal.show(text);
    EXPECT_FALSE(terminal.left_screen);
    EXPECT_FALSE(terminal.wrapped);
    int bars = 0;
    int answers = 0;
    for (const auto& line : terminal.lines()) {
      bars += static_cast<int>(line.starts_with(" all ["));
      answers += static_cast<int>(line.starts_with("answer:"));
    }
    EXPECT_EQ(bars, 1) << text;
    EXPECT_EQ(answers, 1) << text;
    EXPECT_THAT(text, HasSubstr("\x1b[32m"));
  }
}

TEST(terminal, no_color_is_honoured_unless_it_is_empty) {
  EXPECT_THAT(on_terminal(80, "1"), Not(HasSubstr("\x1b[32m")));
  EXPECT_THAT(on_terminal(80, ""), HasSubstr("\x1b[32m"));
}

}  // namespace
}  // namespace baton
