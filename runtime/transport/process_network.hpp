#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/transport/delivery.hpp"
#include "runtime/transport/detours.hpp"
#include "runtime/transport/job_blocks.hpp"
#include "runtime/transport/messenger.hpp"
#include "runtime/transport/transport.hpp"

namespace baton {

/// The ranks of one process among many. Direct blocks go from process to process, once to each, however many of their targets live
/// there; a compressed block goes to the node's relay, and comes from there to a process where a rank waits for it, once for all
/// of its ranks. Ranks of this process get each other's blocks from memory. Devices whose memory is host memory only.
///
/// Borrows the messenger and is its listener: it lives shorter than the messenger and longer than its endpoints. Any thread; blocks
/// are copied and verified by compute threads, never by the transport thread or under the mutex.
///
/// When the last rank of a job leaves, all that the process still holds for the job is dropped, also what others have not
/// acknowledged: ranks leave when the job is released or has failed everywhere. So the last ranks stay until then, even if they have
/// nothing left to do.
class process_network final : public messenger::listener {
 public:
  explicit process_network(messenger& network);
  ~process_network() override;
  process_network(const process_network&) = delete;
  process_network& operator=(const process_network&) = delete;

  /// Its `join` throws fault(internal) for a rank that is there already, or is none of the job's; an exchange throws fault(bad_input) where the routes name an address that makes no sense.
  [[nodiscard]] std::unique_ptr<endpoint> make_endpoint();

  void received(const std::string& from, message&& m) override;
  void tick() override;

 private:
  friend class process_endpoint;
  friend class process_transport;

  void enter(job_id job, int rank, const job_routes& routes, doorbell& bell);
  void leave(job_id job, int rank) noexcept;
  void give(const block_key& key, rank_range targets, block_route route, std::shared_ptr<const block> b);
  /// Null: not here (yet).
  [[nodiscard]] std::shared_ptr<const block> take(int rank, const block_key& key, block_route route);
  void rewire(job_id job, int rank, const rank_place& place);

  // These with the mutex held:
  [[nodiscard]] job_blocks& job_of(job_id job);
  [[nodiscard]] addressed_message posted(const std::string& to, message&& m);
  /// What a rank has not acknowledged where it was follows it; returns what is to be sent.
  [[nodiscard]] std::vector<addressed_message> move(job_id id, job_blocks& job, int rank, const rank_place& place);
  /// Whether a rank or a relay of any job lives there.
  [[nodiscard]] bool in_use(const std::string& address) const;
  /// Who is reached on another way than before, as the job's places say; what they have not acknowledged is sent again.
  [[nodiscard]] std::vector<std::string> lead(job_id id, const job_blocks& job);

  void hear(const std::string& from, message&& m);
  void open(const std::string& from, const message& carry);
  void send(std::vector<addressed_message>&& messages);
  /// Straight, or through the relay in between.
  void send(const std::string& to, message&& m);
  void received_direct(const std::string& from, const message& m);
  void received_answer(const message& m);

  messenger& network_;
  std::mutex mutex_;  ///< of what follows; held neither while bytes are touched nor while the messenger is called
  std::map<job_id, job_blocks> jobs_;
  outbox outbox_;
  inbox_filter inbox_;
  detours detours_;
};

}  // namespace baton
