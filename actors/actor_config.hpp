#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include <caf/all.hpp>

#include "actors/messages.hpp"
#include "runtime/security/certificates.hpp"

namespace baton::actors {

/// How every actor system of ours is set up.
struct actor_config : caf::actor_system_config {
  enum class reach : std::uint8_t {
    process,  ///< actors of this process only
    network,  ///< actors of other processes too
  };

  /// `identity`: for TLS with certificates on both sides; null: none.
  explicit actor_config(reach how, const cluster_identity* identity = nullptr);
};

/// Takes away what strangers could use on a port of ours: spawning actors and reading the configuration by name.
void close_side_doors(caf::actor_system& system);

/// "HOST:PORT", as `--coordinator` takes it. Throws fault(bad_input) for anything else.
struct coordinator_address {
  std::string host;
  std::uint16_t port = 0;
};
coordinator_address parse_coordinator_address(const std::string& text);

/// Waits between two attempts; false: give up.
using pause_function = std::function<bool(std::chrono::milliseconds)>;
bool sleep_for(std::chrono::milliseconds time);

}  // namespace baton::actors
