#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "runtime/device/device_context.hpp"
#include "runtime/prefill/kv_shard.hpp"
#include "runtime/transport/block.hpp"

namespace baton {

/// What C_h of a layer is called.
inline block_key compressed_key(job_id job, int layer, int rank) {
  return {.job = job, .layer = static_cast<std::uint16_t>(layer), .source = static_cast<std::uint16_t>(rank)};
}

/// C_h of one layer once more, from the KV that it was chosen from: the bytes that a prefill sent, keys then values, (units, n_kv, D)
/// each. `chosen` is (n_kv, units), indices into B_h. On the device's compute thread; works in the device's chunk scratch and takes no
/// device memory.
block gather_compressed(device_context& device, const kv_shard& shard, int layer, std::span<const std::int32_t> chosen);

/// Of a layer's keys and values, to compare them with another run's: not on the way of a job. On the device's compute thread.
std::uint64_t kv_checksum(device_context& device, const kv_shard& shard, int layer);

/// What a finished rank remembers of its choice, so that its compressed blocks can be made again for a relay that has lost them.
/// Host memory; goes with the rank's KV shard.
class compressed_source {
 public:
  /// Per layer (n_kv, units), indices into B_h; none where nothing was passed on.
  explicit compressed_source(std::vector<std::vector<std::int32_t>> chosen) : chosen_(std::move(chosen)) {}

  /// Empty where the rank passed nothing on.
  [[nodiscard]] std::optional<block> gather_again(device_context& device, const kv_shard& shard, int layer) const;

 private:
  std::vector<std::vector<std::int32_t>> chosen_;
};

}  // namespace baton
