#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/device/task.hpp"
#include "runtime/transport/block.hpp"

namespace baton {

/// How a block travels. Both sides name the same.
enum class block_route : std::uint8_t {
  relayed,  ///< through the relays, which log it: compressed blocks
  direct,   ///< from rank to rank: partial results, tokens, KV that goes round a ring
};

/// A block to give away: the bytes of `parts`, device memory, one after another. They may be overwritten when the
/// transfer is done. Targets may include the sender itself, who gets nothing.
struct outgoing_block {
  block_key key;
  std::vector<std::span<const std::byte>> parts;
  rank_range targets;
  block_route route = block_route::relayed;
  bool on_host = false;  ///< the parts are host memory, whatever the device's is
};

/// A block to take: its bytes fill `parts`, device memory, one after another.
struct incoming_block {
  block_key key;
  std::vector<std::span<std::byte>> parts;
  block_route route = block_route::relayed;
  bool on_host = false;  ///< the parts are host memory, whatever the device's is
};

/// Where a rank's process is reached on the data plane, and which attempt of its shard runs there.
struct rank_place {
  std::string address;  ///< a messenger's; empty where all ranks share one process
  std::uint32_t attempt = 0;
  std::string
      via{};  ///< the relay of a third node that passes on what goes there and comes from there; empty: nobody has to

  bool operator==(const rank_place&) const = default;
};

/// What a transport must know of a job's placement. Equal on all processes but for `relay` and the places' `via`.
struct job_routes {
  std::vector<rank_place> ranks;
  std::string relay;  ///< of this process's node

  bool operator==(const job_routes&) const = default;
};

class transport;

/// An exchange under way. Awaited in a pass, it suspends until everything has arrived; destroyed early, it is cancelled. Belongs to
/// the compute thread; its transport outlives it.
class transfer {
 public:
  transfer() = default;
  transfer(transport& owner, std::uint64_t id) : owner_(&owner), id_(id) {}
  transfer(transfer&& other) noexcept;
  transfer& operator=(transfer&& other) noexcept;
  ~transfer();

  /// Never blocks. Throws fault(corruption | cancelled).
  [[nodiscard]] bool done();
  /// The rank whose block is missing, or -1.
  [[nodiscard]] int missing_rank() const;

  bool await_ready() { return done(); }
  void await_suspend(std::coroutine_handle<task::promise_type> self) noexcept { *self.promise().place = {self, this}; }
  void await_resume() const noexcept {}

 private:
  transport* owner_ = nullptr;  ///< null: done, nothing to wait for
  std::uint64_t id_ = 0;
};

/// What a rank has moved so far.
struct transport_counts {
  std::int64_t blocks_sent = 0;
  std::int64_t bytes_sent = 0;  ///< a block counts once, whoever reads it
  std::int64_t blocks_received = 0;
  std::int64_t bytes_received = 0;
};

/// One rank's part in one job, over an endpoint that the process shares. Used by the compute thread of the rank's device, except
/// `abort`. A lost peer leaves its transfers pending; only abort and corruption throw.
class transport {
 public:
  virtual ~transport() = default;

  /// Returns at once. Both sides know from the plan which blocks move and how long they are; a block of another length than its
  /// `parts` is fault(corruption).
  [[nodiscard]] virtual transfer exchange(std::span<const outgoing_block> sends,
                                          std::span<const incoming_block> receives) = 0;
  /// From now on rank `source`, which has joined there, is reached at another place: blocks for it go there, its direct blocks of
  /// earlier attempts are not taken any more (what a relay has logged is good, whichever attempt made it). A place of an earlier
  /// attempt than is known changes nothing; the same place with another `via` is reached that way from now on. Transfers stay as they are.
  virtual void rewire(int source, const rank_place& place) = 0;
  /// From any thread: every transfer of this rank throws fault(cancelled) from now on.
  virtual void abort() noexcept = 0;
  [[nodiscard]] virtual transport_counts counts() const = 0;

 protected:
  friend class transfer;
  virtual bool poll(std::uint64_t transfer) = 0;
  [[nodiscard]] virtual int missing_rank(std::uint64_t transfer) const = 0;
  virtual void cancel(std::uint64_t transfer) noexcept = 0;
};

/// A device's door to the others. `wait` is the compute thread's; `wake` anybody's.
class endpoint {
 public:
  virtual ~endpoint() = default;
  /// `rank` of a job that is placed as `routes` says; its own attempt stands there too. Ends with the transport's destruction.
  [[nodiscard]] virtual std::unique_ptr<transport> join(job_id job, int rank, const job_routes& routes) = 0;
  /// Sleeps until a transfer may have moved, `wake` was called, or the deadline has passed.
  virtual void wait(std::chrono::steady_clock::time_point deadline) = 0;
  virtual void wake() = 0;
};

}  // namespace baton
