#include "runtime/cluster/messages.hpp"

#include <array>

namespace baton {

failure failure_of(const fault& f) { return {f.code(), f.reason(), f.where()}; }

std::string_view name_of(job_state state) {
  static constexpr std::array<std::string_view, 7> names{"queued",   "starting", "prefilling", "answering",
                                                         "finished", "failed",   "cancelled"};
  return names.at(static_cast<std::size_t>(state));
}

std::string_view name_of(peer_state state) {
  static constexpr std::array<std::string_view, 3> names{"down", "idle", "busy"};
  return names.at(static_cast<std::size_t>(state));
}

std::string_view name_of(rank_state state) {
  static constexpr std::array<std::string_view, 5> names{"preparing", "computing", "waiting", "done", "lost"};
  return names.at(static_cast<std::size_t>(state));
}

}  // namespace baton
