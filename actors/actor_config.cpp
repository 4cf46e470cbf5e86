#include "actors/actor_config.hpp"

#include <charconv>
#include <thread>

#include <caf/io/all.hpp>
#include <caf/openssl/all.hpp>
#include <fmt/format.h>

#include "actors/caf_sockets.hpp"
#include "actors/caf_tls.hpp"
#include "kernels/fault.hpp"

namespace baton::actors {

actor_config::actor_config(reach how, const cluster_identity* identity) {
  add_message_types<caf::id_block::baton>();
  // Sharing is quieter when idle and answers faster beside busy threads than work stealing.
  set("scheduler.policy", caf::atom("sharing"));
  set("scheduler.max-threads", 2u);
  if (how == reach::process) return;
  check_sockets_are_mended();
  load<caf::io::middleman>();
  // A connection that says nothing at all is closed in the end; who is alive is decided much earlier, by the coordinator.
  // Seldom, for each beat also closes a connection whose handshake is under way, and over a slow link that takes many round trips.
  set("middleman.heartbeat-interval", caf::timespan(std::chrono::seconds(5)));
  set("middleman.connection-timeout", caf::timespan(std::chrono::seconds(30)));
  if (identity == nullptr) return;
  check_tls_is_mended();
  load<caf::openssl::manager>();
  openssl_certificate = identity->files().certificate.string();
  openssl_key = identity->files().key.string();
  openssl_cafile = identity->files().authority.string();
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

}  // namespace baton::actors
