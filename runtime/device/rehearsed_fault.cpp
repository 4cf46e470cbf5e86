#include "runtime/device/rehearsed_fault.hpp"

#include <csignal>
#include <cstdlib>
#include <string>

#include <fmt/format.h>
#include <unistd.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

std::string name_of(const pass_place& here) {
  const char* const stage = here.stage == block_phase::prefill ? "prefill"
                            : here.stage == block_phase::query ? "query"
                                                               : "decode";
  return fmt::format("{}{}.layer{}.chunk{}", stage, here.step, here.layer, here.chunk);
}

}  // namespace

void rehearse_fault(int rank, const pass_place& here) {
  static const char* const folder = std::getenv("BATON_FAULT");
  if (folder == nullptr) return;
  const auto place = fmt::format("rank{}.{}", rank, name_of(here));
  const auto is_asked_for = [&](const char* what) {
    return unlink(fmt::format("{}/{}.{}", folder, what, place).c_str()) == 0;
  };
  // To this thread, so that not a step more is done: one to the process may wait for another thread to take it.
  if (is_asked_for("stop")) std::raise(SIGSTOP);
  if (is_asked_for("fail")) throw fault(fault_code::device, "a rehearsed fault", place);
}

}  // namespace baton
