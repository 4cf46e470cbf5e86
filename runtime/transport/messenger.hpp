#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "runtime/transport/block.hpp"

namespace baton {

/// What processes say to each other on the data plane. A `put`, `forward` or `direct` with a delivery number is acknowledged and
/// sent again until it is; a `want` is repeated until its answer has come. So a lost message, or one that comes twice, harms nobody.
/// A `carry` is lost or doubled like any other: what is in it has its own delivery number, of its sender for its receiver.
enum class message_kind : std::uint8_t {
  put,          ///< a process gives its node's relay a block
  forward,      ///< a relay gives another node's relay a block
  want,         ///< a process asks a relay for a block
  answer,       ///< a relay's answer to a want, once it has the block
  direct,       ///< a block from rank to rank
  acknowledge,  ///< its payload: delivery numbers, 8 bytes each, little-endian
  carry,  ///< its payload: a message between two processes that do not reach each other, for a third node's relay to pass on
  probe,  ///< a relay asks another whether it hears it; lost ones are not sent again for ever
  echo,   ///< the answer, on the way that the probe has come
};

struct message {
  message_kind kind = message_kind::want;
  std::uint64_t delivery = 0;  ///< the sender's number for this receiver, from 1 up; 0: nothing is to be acknowledged
  block_key key;
  rank_range targets;                    ///< who is to get the block
  std::shared_ptr<const block> payload;  ///< null: none
};

/// Moves messages between processes, which know each other by address: opaque bytes that travel through the control plane.
/// Owns the process's one transport thread; `send` may be called from any.
///
/// A message arrives whole, once, or not at all; messages of one pair of processes may overtake each other. Nothing tells a sender
/// that a peer is gone: who must know has its own signs of life.
class messenger {
 public:
  /// Hears what comes in; on the transport thread, and must not block for long.
  class listener {
   public:
    virtual ~listener() = default;
    /// `from`: the sender's address, which answers may be sent to.
    virtual void received(const std::string& from, message&& m) = 0;
    /// About every `tick_interval`: time to send again what nobody has acknowledged.
    virtual void tick() = 0;
  };

  struct counts {
    std::int64_t messages_sent = 0;
    std::int64_t bytes_sent = 0;  ///< headers and payloads, as handed to the network
    std::int64_t messages_received = 0;
    std::int64_t bytes_received = 0;
  };

  static constexpr std::chrono::milliseconds tick_interval{50};

  virtual ~messenger() = default;

  /// How others reach this process.
  [[nodiscard]] virtual const std::string& address() const = 0;
  /// Begins to hand messages to `who`, which outlives the messenger or a call of `listen(nullptr)`; the latter returns when no call
  /// is under way any more. Messages that come before are kept.
  virtual void listen(listener* who) = 0;
  /// Returns at once; the payload is shared until it has been sent. An address that makes no sense is fault(bad_input).
  virtual void send(const std::string& to, message m) = 0;
  /// Drops whatever waits to be sent to a process that is known to be dead.
  virtual void forget(const std::string& to) = 0;
  [[nodiscard]] virtual counts traffic() const = 0;
};

}  // namespace baton
