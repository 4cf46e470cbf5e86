#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "kernels/backend.hpp"
#include "runtime/transport/transport.hpp"

namespace baton {

class staged_transport;

/// An endpoint for a device whose memory the host cannot read. Blocks pass through pinned host memory: what is sent is copied down
/// behind the work that makes it, and given to the network when it is complete; what arrives is copied up before the work that reads
/// it. Nobody waits for the device. Between ranks of this device a block is copied up from where it was copied down, in the order of
/// streams alone; the network gets it too where it is logged, or somebody else reads it. Where a rank is replaced, that is over for its
/// job: who comes late, or begins anew, takes and gives by the network, which knows what has been and who holds it, and so do all others
/// from then on. Used by the device's compute thread, except `wake`; endpoint, backend and stream outlive it.
class staged_endpoint final : public endpoint {
 public:
  staged_endpoint(endpoint& network, backend& kernels, stream& queue);
  /// Waits until the device has left the host memory alone. Its transports are gone.
  ~staged_endpoint() override;

  [[nodiscard]] std::unique_ptr<transport> join(job_id job, int rank, const job_routes& routes) override;
  /// A block that has become complete wakes too.
  void wait(std::chrono::steady_clock::time_point deadline) override;
  void wake() override { network_.wake(); }

  /// Gives the network what has become complete. True if there was something.
  bool progress();

 private:
  friend class staged_transport;

  /// A block as it was copied down.
  struct staged_block {
    staged_block(staged_endpoint& endpoint, std::size_t size)
        : owner(endpoint), bytes(size), memory(endpoint.take(size)) {}
    ~staged_block() { owner.give_back(std::move(memory), complete.get()); }
    staged_block(const staged_block&) = delete;
    staged_block& operator=(const staged_block&) = delete;

    staged_endpoint& owner;
    std::size_t bytes;
    std::unique_ptr<device_memory> memory;
    std::unique_ptr<event> complete;
  };
  /// One that ranks of this device have still to take.
  struct kept_block {
    std::shared_ptr<staged_block> block;
    int readers = 0;
  };

  struct lent_memory {
    std::unique_ptr<device_memory> memory;
    std::unique_ptr<event> free_after;
  };

  /// Pinned memory of at least so many bytes.
  [[nodiscard]] std::unique_ptr<device_memory> take(std::size_t bytes);
  /// It may be lent again once `complete`, if there is one, and what was queued for upload have been reached.
  void give_back(std::unique_ptr<device_memory> memory, const event* complete) noexcept;
  /// How many of these ranks are on this device.
  [[nodiscard]] int ranks_here(job_id job, rank_range ranks) const;
  /// From now on the job's blocks go by the network alone; who waits for one here asks the network for it.
  void leave_to_the_network(job_id job);

  endpoint& network_;
  backend& kernels_;
  stream& queue_;
  const std::unique_ptr<stream> uploads_;  ///< beside the work, which waits for what it reads
  std::vector<staged_transport*> transports_;
  std::vector<lent_memory> unused_;
  std::map<block_key, kept_block> kept_;
  std::set<job_id> under_way_;       ///< whose ranks have exchanged
  std::set<job_id> by_the_network_;  ///< of which a rank was replaced
};

}  // namespace baton
