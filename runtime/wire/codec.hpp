#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/cluster/messages.hpp"

/// The protobuf form of what coordinator, workers, relays and clients say to each other: a file for each conversation
/// (worker.proto, relay.proto, client.proto) and plan.proto for what they share. Pure functions; for any thread.
namespace baton {

/// The bytes of a message. Its values are not checked: whoever reads them does that. Only a failure's text is cut to
/// what a reader accepts. `generation`: of the coordinator that says it; 0 where its jobs end with it.
std::string encode(const worker_command& command, std::uint64_t generation = 0);
std::string encode(const worker_report& report);
std::string encode(const relay_command& command, std::uint64_t generation = 0);
std::string encode(const relay_report& report);
std::string encode(const client_request& request);
std::string encode(const client_update& update);

/// The message of bytes that any peer may have sent. Whatever is returned is sound in itself: counts, indices, ranks,
/// layers and enumerations lie in their ranges, seconds are finite, and the shards of a plan add up. That a job or a
/// rank exists, that a token is in the vocabulary or an option can be met is the receiver's to check.
/// `generation`, if given, becomes that of the coordinator that says it.
/// Throws fault(bad_input) with the place, such as "message assign_shard, field plan.shards[3].block_tokens".
worker_command decode_worker_command(std::string_view bytes, std::uint64_t* generation = nullptr);
worker_report decode_worker_report(std::string_view bytes);
relay_command decode_relay_command(std::string_view bytes, std::uint64_t* generation = nullptr);
relay_report decode_relay_report(std::string_view bytes);
client_request decode_client_request(std::string_view bytes);
client_update decode_client_update(std::string_view bytes);

}  // namespace baton
