#pragma once

#include <string>

#include <caf/all.hpp>

/// The actors' typed interfaces. Between actors every conversation travels as the protobuf bytes of runtime/wire, so that one
/// schema exists, whether a peer lives in this process or in another. All messages are one-way: an answer is a message of
/// its own that names what it answers, and who must not wait for ever has a tick.
namespace baton::actors {

struct worker_command_bytes {
  std::string bytes;
};
struct worker_report_bytes {
  std::string bytes;
};
struct relay_command_bytes {
  std::string bytes;
};
struct relay_report_bytes {
  std::string bytes;
};
struct client_request_bytes {
  std::string bytes;
};
struct client_update_bytes {
  std::string bytes;
};

template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, worker_command_bytes& x) {
  return f(caf::meta::type_name("worker_command_bytes"), x.bytes);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, worker_report_bytes& x) {
  return f(caf::meta::type_name("worker_report_bytes"), x.bytes);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, relay_command_bytes& x) {
  return f(caf::meta::type_name("relay_command_bytes"), x.bytes);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, relay_report_bytes& x) {
  return f(caf::meta::type_name("relay_report_bytes"), x.bytes);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, client_request_bytes& x) {
  return f(caf::meta::type_name("client_request_bytes"), x.bytes);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, client_update_bytes& x) {
  return f(caf::meta::type_name("client_update_bytes"), x.bytes);
}

/// Time has passed: progress and deadlines.
using tick_atom = caf::atom_constant<caf::atom("tick")>;
/// The device has told something; it waits in the worker's inbox.
using device_atom = caf::atom_constant<caf::atom("device")>;
/// A node agent or its relay has something to report; it waits in their inbox.
using report_atom = caf::atom_constant<caf::atom("report")>;

/// How a process joins (runtime/security/join.hpp): a hello, and a proof.
using hello_atom = caf::atom_constant<caf::atom("hello")>;
using prove_atom = caf::atom_constant<caf::atom("prove")>;

/// How many workers and relays have joined, and what has gone wrong with processes that have not; empty: nothing.
using count_atom = caf::atom_constant<caf::atom("count")>;

using worker_actor =
    caf::typed_actor<caf::reacts_to<worker_command_bytes>, caf::reacts_to<device_atom>, caf::reacts_to<tick_atom>>;
using relay_actor =
    caf::typed_actor<caf::reacts_to<relay_command_bytes>, caf::reacts_to<report_atom>, caf::reacts_to<tick_atom>>;
using client_actor = caf::typed_actor<caf::reacts_to<client_update_bytes>, caf::reacts_to<tick_atom>>;
/// A peer joins with its first message and a handle to answer it; the coordinator monitors it from then on.
using coordinator_actor =
    caf::typed_actor<caf::reacts_to<worker_actor, worker_report_bytes>, caf::reacts_to<worker_report_bytes>,
                     caf::reacts_to<relay_actor, relay_report_bytes>, caf::reacts_to<relay_report_bytes>,
                     caf::reacts_to<client_actor, client_request_bytes>, caf::reacts_to<client_request_bytes>,
                     caf::reacts_to<tick_atom>,
                     caf::replies_to<count_atom>::with<std::uint64_t, std::uint64_t, std::string>>;

/// What strangers find at the coordinator's port. It answers a hello with a challenge, and a proof with the coordinator and the data
/// plane's key.
using gate_actor = caf::typed_actor<caf::replies_to<hello_atom, std::string>::with<std::string>,
                                    caf::replies_to<prove_atom, std::string>::with<coordinator_actor, std::string>>;

}  // namespace baton::actors

CAF_BEGIN_TYPE_ID_BLOCK(baton, caf::first_custom_type_id)
CAF_ADD_TYPE_ID(baton, (baton::actors::worker_command_bytes))
CAF_ADD_TYPE_ID(baton, (baton::actors::worker_report_bytes))
CAF_ADD_TYPE_ID(baton, (baton::actors::relay_command_bytes))
CAF_ADD_TYPE_ID(baton, (baton::actors::relay_report_bytes))
CAF_ADD_TYPE_ID(baton, (baton::actors::client_request_bytes))
CAF_ADD_TYPE_ID(baton, (baton::actors::client_update_bytes))
CAF_ADD_TYPE_ID(baton, (baton::actors::worker_actor))
CAF_ADD_TYPE_ID(baton, (baton::actors::relay_actor))
CAF_ADD_TYPE_ID(baton, (baton::actors::client_actor))
CAF_ADD_TYPE_ID(baton, (baton::actors::coordinator_actor))
CAF_ADD_TYPE_ID(baton, (baton::actors::gate_actor))
CAF_END_TYPE_ID_BLOCK(baton)
