#include "actors/actor_config.hpp"

#include <charconv>
#include <thread>

#include <caf/io/all.hpp>
#include <fmt/format.h>

#include "kernels/fault.hpp"

namespace baton::actors {

actor_config::actor_config(reach how) {
  add_message_types<caf::id_block::baton>();
  // Sharing is quieter when idle and answers faster beside busy threads than work stealing.
  set("scheduler.policy", caf::atom("sharing"));
  set("scheduler.max-threads", 2u);
  if (how == reach::process) return;
  load<caf::io::middleman>();
  // A connection that says nothing at all is closed in the end; who is alive is decided much earlier, by the coordinator.
  set("middleman.heartbeat-interval", caf::timespan(std::chrono::milliseconds(500)));
  set("middleman.connection-timeout", caf::timespan(std::chrono::seconds(30)));
}

void close_side_doors(caf::actor_system& system) {
  system.registry().erase(caf::atom("SpawnServ"));
  system.registry().erase(caf::atom("ConfigServ"));
}

coordinator_address parse_coordinator_address(const std::string& text) {
  const auto colon = text.rfind(':');
  coordinator_address address;
  if (colon != std::string::npos && colon > 0) {
    address.host = text.substr(0, colon);
    const char* const end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data() + colon + 1, end, address.port);
    if (error == std::errc() && rest == end && address.port > 0) return address;
  }
  throw fault(fault_code::bad_input, fmt::format("'{}' is no HOST:PORT, such as 127.0.0.1:4711", text),
              "--coordinator");
}

bool sleep_for(std::chrono::milliseconds time) {
  std::this_thread::sleep_for(time);
  return true;
}

coordinator_actor connect(caf::actor_system& system, const coordinator_address& where,
                          std::chrono::milliseconds patience, const pause_function& pause) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (;;) {
    auto found = system.middleman().remote_actor<coordinator_actor>(where.host, where.port);
    if (found) return *found;
    if (std::chrono::steady_clock::now() > deadline) {
      throw fault(
          fault_code::deadline,
          fmt::format("no coordinator answered within {} ms ({})", patience.count(), system.render(found.error())),
          fmt::format("{}:{}", where.host, where.port));
    }
    if (!pause(std::chrono::milliseconds(50)))
      throw fault(fault_code::cancelled, "stopped while it looked for the coordinator",
                  fmt::format("{}:{}", where.host, where.port));
  }
}

}  // namespace baton::actors
