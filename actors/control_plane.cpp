#include "actors/control_plane.hpp"

#include <algorithm>
#include <optional>
#include <random>

#include <caf/io/all.hpp>
#include <caf/openssl/all.hpp>
#include <fmt/format.h>
#include <poll.h>

#include "actors/affinity.hpp"
#include "kernels/fault.hpp"
#include "runtime/observe/log.hpp"
#include "runtime/transport/socket.hpp"
#include "runtime/transport/tcp_messenger.hpp"
#include "runtime/transport/ucx_messenger.hpp"

namespace baton::actors {
namespace {

using clock = std::chrono::steady_clock;

// Steps of a join.
constexpr std::chrono::seconds connect_time_max{2};
constexpr std::chrono::seconds answer_time_max{5};
// Between two attempts. A busy coordinator that cannot finish handshakes in time finishes none if all try again at once.
constexpr std::chrono::milliseconds pause_first{50};
constexpr std::chrono::milliseconds pause_max{2000};

std::string where_of(const coordinator_address& where) { return fmt::format("{}:{}", where.host, where.port); }

caf::expected<gate_actor> gate_at(caf::actor_system& system, const coordinator_address& where,
                                  const cluster_identity* identity) {
  if (identity == nullptr) return system.middleman().remote_actor<gate_actor>(where.host, where.port);
  return caf::openssl::remote_actor<gate_actor>(system, where.host, where.port);
}

/// Asks, and waits for the answer. Nothing: none came, and `trouble` says why.
template <class... Answers, class... Question>
std::optional<std::tuple<Answers...>> asked(caf::scoped_actor& self, const gate_actor& gate, std::string& trouble,
                                            Question&&... question) {
  std::optional<std::tuple<Answers...>> answer;
  self->request(gate, answer_time_max, std::forward<Question>(question)...)
      .receive([&](Answers&... answers) { answer.emplace(answers...); },
               [&](const caf::error& why) { trouble = self->home_system().render(why); });
  return answer;
}

}  // namespace

std::unique_ptr<cluster_identity> identity_of(const cluster_config& config, const cluster_member& who) {
  if (config.security.certificates.empty()) return nullptr;
  return std::make_unique<cluster_identity>(config.security.certificates, who);
}

coordinator_port::coordinator_port(const cluster_identity* identity, const secret_key& root)
    : identity_(identity), root_(root) {}

std::uint16_t coordinator_port::open(caf::actor_system& system, const coordinator_actor& coordinator,
                                     const coordinator_address& where) {
  const auto gate = spawn_gate(system, coordinator, identity_, root_, admitted_);
  if (identity_ != nullptr) {
    const auto behind = caf::openssl::publish(gate, 0, "127.0.0.1", true);
    if (!behind) throw fault(fault_code::internal, system.render(behind.error()), "TLS on loopback");
    guard_ = std::make_unique<port_guard>(
        port_guard_options{resolved_place(where.host, where.port), resolved_place("127.0.0.1", *behind),
                           [](const std::string& text) { log_line(log_level::warning, text); }});
    return guard_->port();
  }
  const auto port = system.middleman().publish(gate, where.port, where.host.c_str(), true);
  if (port) return *port;
  throw fault(fault_code::bad_input,
              fmt::format("it cannot listen there ({}); is the address this machine's, and the port free?",
                          system.render(port.error())),
              where_of(where));
}

membership join_cluster(caf::actor_system& system, const coordinator_address& where, const cluster_identity* identity,
                        std::chrono::milliseconds patience, const pause_function& pause) {
  const auto deadline = clock::now() + patience;
  std::minstd_rand random(std::random_device{}());
  auto pause_next = pause_first;
  for (;;) {
    std::string trouble;
    const auto place = resolved_place(where.host, where.port);
    // A host that does not answer would hold up the one thread of CAF's that connects. Without certificates the coordinator is on this very
    // host, which answers at once.
    if (identity != nullptr && !can_connect(place, connect_time_max)) {
      trouble = "nobody takes connections there";
      pause_next = pause_first;
    } else if (auto gate = gate_at(system, where, identity)) {
      caf::scoped_actor self(system);
      joiner newcomer(identity);
      const auto challenge = asked<std::string>(self, *gate, trouble, hello_atom::value, newcomer.hello());
      if (challenge) {
        const auto proof = newcomer.challenged(std::get<0>(*challenge));
        const auto admission = asked<coordinator_actor, std::string>(self, *gate, trouble, prove_atom::value, proof);
        if (admission) return {std::get<0>(*admission), newcomer.admitted(std::get<1>(*admission))};
      }
      // CAF would go on with this connection until it times out, and its messages may be what is lost (caf_sockets.hpp).
      shut_connections_to(place);
    } else {
      trouble = system.render(gate.error());
    }
    log_line(log_level::debug,
             fmt::format("the coordinator at {} does not let this process in yet: {}", where_of(where), trouble));
    if (clock::now() > deadline) {
      throw fault(fault_code::deadline,
                  fmt::format("no coordinator let this process in within {} ms ({})", patience.count(), trouble),
                  where_of(where));
    }
    if (!pause(pause_next))
      throw fault(fault_code::cancelled, "stopped while it looked for the coordinator", where_of(where));
    pause_next = std::min(pause_max, pause_next * std::uniform_int_distribution<int>(15, 25)(random) / 10);
  }
}

std::unique_ptr<messenger> make_messenger(const cluster_config& config, const node_config& node,
                                          std::span<const device_config> devices,
                                          const std::optional<data_plane_identity>& data_plane) {
  const std::chrono::milliseconds delay(config.links.delay_ms);
  const auto here = resolved_place(node.address, 0);
  // Without a name of its own UCX takes any device.
  if (config.links.transport == transport_kind::ucx) {
    const auto near = here.is_loopback() ? "lo" : network_devices_of(node, here.host(), devices);
    return make_ucx_messenger({.net_devices = near, .delay = delay});
  }
  if (!data_plane)
    throw fault(fault_code::bad_input, "the coordinator has let this process in as a client", "node " + node.name);
  return make_tcp_messenger({.host = here.host(),
                             .ports = node.data_ports,
                             .identity = *data_plane,
                             .delay = delay,
                             .warn = [](const std::string& text) { log_line(log_level::warning, text); }});
}

}  // namespace baton::actors
