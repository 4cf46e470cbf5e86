#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "runtime/transport/block.hpp"

namespace baton {

struct relay_log_options {
  std::int64_t memory_bytes_max = 0;
  std::int64_t disk_bytes_max = 0;  ///< 0: no disk
  std::filesystem::path disk_directory =
      {};  ///< where the disk part lies, in files without names: nothing stays behind
};

/// The compressed blocks that a relay keeps until their job's KV is released, within what was reserved at admission, so that
/// half-logged jobs never block each other. A job's blocks fill its share of host memory, then its share of the disk. Any thread.
///
/// Errors of the disk are fault(out_of_memory | device) and name the directory; other jobs are not touched by them.
class relay_log {
 public:
  /// Throws fault(bad_input) where a disk is asked for and the directory cannot take a file.
  explicit relay_log(relay_log_options options);
  explicit relay_log(std::int64_t memory_bytes_max) : relay_log(relay_log_options{memory_bytes_max}) {}
  relay_log(const relay_log&) = delete;
  relay_log& operator=(const relay_log&) = delete;
  ~relay_log();

  /// Sets room for a job's whole log aside: memory as far as it is free, the rest on the disk, where it is taken at once. False:
  /// there is not enough, and nothing changes. A job that has room already keeps what it has: true if that suffices.
  /// Throws what the disk says. `reserve` and `release` of one job come one after the other.
  [[nodiscard]] bool reserve(job_id job, std::int64_t bytes);
  /// Keeps a block; the first holder wins, a second copy is dropped (false). fault(internal) without a reservation that it fits.
  bool put(const block_key& key, std::shared_ptr<const block> b);
  bool put(const block_key& key, block&& b) { return put(key, std::make_shared<const block>(std::move(b))); }
  [[nodiscard]] bool holds(const block_key& key) const;
  /// Fills `parts` with the block's bytes and verifies the checksum. False: not here (yet).
  /// Throws fault(corruption) when length or checksum differ.
  [[nodiscard]] bool read(const block_key& key, std::span<const std::span<std::byte>> parts) const;
  /// The block itself, to be sent on; null: not here (yet). What was on the disk is verified: fault(corruption).
  [[nodiscard]] std::shared_ptr<const block> get(const block_key& key) const;
  /// What `get` or `read` found damaged is not held any more, and may be put again, into the same room.
  void forget(const block_key& key);
  [[nodiscard]] std::vector<block_key> keys(job_id job) const;
  /// Drops a job's blocks and reservation; does nothing where there is none.
  void release(job_id job);

  struct contents {
    std::int64_t blocks = 0;
    std::int64_t bytes = 0;       ///< of these blocks
    std::int64_t disk_bytes = 0;  ///< of `bytes`
  };
  [[nodiscard]] contents held() const;
  [[nodiscard]] std::int64_t bytes_reserved() const;  ///< set aside, blocks included
  [[nodiscard]] std::int64_t bytes_max() const { return options_.memory_bytes_max + options_.disk_bytes_max; }

 private:
  class job_room;

  [[nodiscard]] std::shared_ptr<job_room> room_of(job_id job) const;

  const relay_log_options options_;
  mutable std::mutex mutex_;
  std::map<job_id, std::shared_ptr<job_room>> rooms_;  ///< shared with whoever reads or writes at the moment
  std::int64_t memory_reserved_ = 0;
  std::int64_t disk_reserved_ = 0;
};

}  // namespace baton
