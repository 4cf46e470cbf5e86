#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <vector>

#include "runtime/transport/block.hpp"

namespace baton {

/// The compressed blocks that a relay keeps until their job's KV is released, within what was reserved at admission, so that
/// half-logged jobs never block each other (host memory). Any thread.
class relay_log {
 public:
  explicit relay_log(std::int64_t bytes_max) : bytes_max_(bytes_max) {}

  /// Sets room for a job's whole log aside. False: there is not enough; nothing changes. Asking again for a job changes its room.
  [[nodiscard]] bool reserve(job_id job, std::int64_t bytes);
  /// Keeps a block; the first holder wins, a second copy is dropped (false). fault(internal) without a reservation that it fits.
  bool put(const block_key& key, block&& b);
  [[nodiscard]] bool holds(const block_key& key) const;
  /// Fills `parts` with the block's bytes and verifies the checksum. False: not here (yet).
  /// Throws fault(corruption) when length or checksum differ.
  [[nodiscard]] bool read(const block_key& key, std::span<const std::span<std::byte>> parts) const;
  [[nodiscard]] std::vector<block_key> keys(job_id job) const;
  /// Drops a job's blocks and reservation; does nothing where there is none.
  void release(job_id job);

  [[nodiscard]] std::int64_t bytes() const;           ///< in blocks
  [[nodiscard]] std::int64_t bytes_reserved() const;  ///< set aside, blocks included
  [[nodiscard]] std::int64_t bytes_max() const { return bytes_max_; }

 private:
  struct job_room {
    std::int64_t reserved = 0;
    std::int64_t used = 0;
    std::map<block_key, block> blocks;
  };

  const std::int64_t bytes_max_;
  mutable std::mutex mutex_;
  std::map<job_id, job_room> jobs_;
  std::int64_t reserved_ = 0;
  std::int64_t used_ = 0;
};

}  // namespace baton
