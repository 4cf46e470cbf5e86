// A process at the other end, for tests that kill or stop it. Prints its messenger's address in hexadecimal, sends every message
// back to where it came from, and ends with its standard input.

#include <cstdio>

#include <unistd.h>

#include "runtime/transport/ucx_messenger.hpp"

namespace {

struct echo final : baton::messenger::listener {
  explicit echo(baton::messenger& through) : messages(through) {}
  void received(const std::string& from, baton::message&& m) override { messages.send(from, std::move(m)); }
  void tick() override {}
  baton::messenger& messages;
};

}  // namespace

int main() {
  const auto messages = baton::make_ucx_messenger({});
  echo back(*messages);
  messages->listen(&back);
  for (const char c : messages->address()) std::printf("%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
  std::printf("\n");
  std::fflush(stdout);
  char ignored = 0;
  while (read(STDIN_FILENO, &ignored, 1) > 0) continue;
}
