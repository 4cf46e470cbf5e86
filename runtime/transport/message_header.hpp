#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "runtime/transport/messenger.hpp"

namespace baton {

/// Names a messenger in the cluster: random, never 0, new with each messenger.
using instance_id = std::uint64_t;

/// What goes before a payload on the wire: a message's fields in a fixed little-endian layout, and who sent it.
struct message_header {
  instance_id sender = 0;
  std::uint32_t connection = 0;  ///< the sender's number of its connection to the receiver
  bool hello = false;            ///< from messenger to messenger; `what` means nothing
  message what;                  ///< without the payload
  bool has_payload = false;
  std::uint64_t payload_bytes = 0;
  std::uint64_t payload_checksum = 0;
  std::span<const std::byte> sender_address;  ///< empty: the receiver knows the sender; a view into what was read
};

/// The longest payload; what claims to be longer is no message.
inline constexpr std::uint64_t payload_bytes_max = std::uint64_t{1} << 30;
/// Targets are ranks below this.
inline constexpr int target_ranks_max = 65536;
/// The longest address that a messenger believes.
inline constexpr std::size_t messenger_address_bytes_max = 2048;

/// Whether a header can carry the message: fault(internal) where its payload or its targets are out of bounds.
void check_sendable(const message& m);

[[nodiscard]] std::vector<std::byte> write_header(const message_header& header);
/// Nothing where the bytes are no header: every length and every enumeration is checked.
[[nodiscard]] std::optional<message_header> read_header(std::span<const std::byte> bytes);

/// A messenger's address: its instance and where its network library is reached, with a checksum, so that bytes from elsewhere are
/// told apart before that library sees them.
struct messenger_address {
  instance_id instance = 0;
  std::span<const std::byte> place;  ///< opaque; a view into what was read
};
[[nodiscard]] std::string write_address(const messenger_address& address);
[[nodiscard]] std::optional<messenger_address> read_address(std::span<const std::byte> bytes);

}  // namespace baton
