// A process at the other end, for tests that kill or stop it. Its argument is the kind of its messenger. Prints its messenger's address in hexadecimal, sends every message
// back to where it came from, and ends with its standard input.

#include <cstdio>

#include <unistd.h>

#include "tests/support/messenger_kinds.hpp"

namespace {

struct echo final : baton::messenger::listener {
  explicit echo(baton::messenger& through) : messages(through) {}
  void received(const std::string& from, baton::message&& m) override { messages.send(from, std::move(m)); }
  void tick() override {}
  baton::messenger& messages;
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  const auto messages = baton::messenger_kind_of(arguments[1]).make({});
  echo back(*messages);
  messages->listen(&back);
  for (const char c : messages->address()) std::printf("%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
  std::printf("\n");
  std::fflush(stdout);
  char ignored = 0;
  while (read(STDIN_FILENO, &ignored, 1) > 0) continue;
}
