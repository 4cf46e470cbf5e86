#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "runtime/relay/relay_log.hpp"
#include "runtime/transport/doorbell.hpp"
#include "runtime/transport/transport.hpp"

namespace baton {

/// The ranks of one process, which share host memory: compressed blocks go through the node's relay log, partial results from
/// rank to rank. Devices whose memory is host memory only. Outlives its endpoints; any thread.
class local_network {
 public:
  explicit local_network(relay_log& log) : log_(log) {}

  [[nodiscard]] std::unique_ptr<endpoint> make_endpoint();

 private:
  friend class local_endpoint;
  friend class local_transport;

  struct place {
    job_id job = 0;
    int rank = 0;
    friend auto operator<=>(const place&, const place&) = default;
  };
  struct mailbox {
    doorbell* bell = nullptr;  ///< of the rank's device, once it has joined
    std::map<block_key, block> blocks;
  };

  void deliver(const outgoing_block& outgoing, block&& b);
  [[nodiscard]] bool take(const place& who, const incoming_block& incoming);
  void enter(const place& who, doorbell& bell);
  void leave(const place& who, int ranks);

  relay_log& log_;
  std::mutex mutex_;
  std::map<place, mailbox> mailboxes_;
};

}  // namespace baton
