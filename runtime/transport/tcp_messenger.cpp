#include "runtime/transport/tcp_messenger.hpp"

#include "runtime/transport/messenger_thread.hpp"
#include "runtime/transport/tcp_connections.hpp"

namespace baton {

std::unique_ptr<messenger> make_tcp_messenger(const tcp_options& options) {
  return std::make_unique<messenger_thread>(
      [options](traffic_counters& counters) { return std::make_unique<tcp_connections>(options, counters); },
      options.delay);
}

}  // namespace baton
