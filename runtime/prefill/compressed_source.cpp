#include "runtime/prefill/compressed_source.hpp"

#include <algorithm>
#include <array>
#include <cstddef>

#include "kernels/fault.hpp"

namespace baton {

block gather_compressed(device_context& device, const kv_shard& shard, int layer,
                        std::span<const std::int32_t> chosen) {
  auto& kernels = device.kernels();
  auto& queue = device.queue();
  const std::array<head_matrix, 2> sources{shard.keys(layer), shard.values(layer)};
  const int heads = sources[0].heads;
  const int dim = sources[0].dim;
  const auto units = static_cast<std::int64_t>(chosen.size()) / heads;
  const auto unit_bytes = static_cast<std::int64_t>(heads) * dim * bytes_of(sources[0].type);
  const auto index_bytes = heads * static_cast<std::int64_t>(sizeof(std::int32_t));

  // As many units at once as fit the scratch together with their indices.
  const matrix scratch = device.scratch().gate_up;
  const auto scratch_bytes = scratch.rows * scratch.stride * bytes_of(scratch.type);
  const auto piece_max = (scratch_bytes - static_cast<std::int64_t>(2 * arena::alignment)) / (unit_bytes + index_bytes);

  if (piece_max < 1) throw fault(fault_code::internal, "the chunk scratch does not hold one KV unit");
  block made;
  made.bytes.resize(static_cast<std::size_t>(2 * units * unit_bytes));
  std::vector<std::int32_t> piece;
  for (std::int64_t first = 0; first < units; first += piece_max) {
    const std::int64_t count = std::min(piece_max, units - first);
    piece.clear();
    for (int head = 0; head < heads; ++head) {
      const auto of_head =
          chosen.subspan(static_cast<std::size_t>(head * units + first), static_cast<std::size_t>(count));
      piece.insert(piece.end(), of_head.begin(), of_head.end());
    }
    layout cut(static_cast<std::byte*>(scratch.data));
    auto* const indices = reinterpret_cast<std::int32_t*>(cut.cut(piece.size() * sizeof(std::int32_t)));
    const head_matrix gathered = cut.cut_heads(count, heads, dim, sources[0].type);
    kernels.upload(queue, indices, piece.data(), piece.size() * sizeof(std::int32_t));
    auto* to = made.bytes.data() + first * unit_bytes;
    for (const auto& source : sources) {
      kernels.gather(queue, source, indices, gathered);
      kernels.download(queue, to, gathered.data, static_cast<std::size_t>(count * unit_bytes));
      to += units * unit_bytes;
    }
    // `piece` and the scratch are used again.
    kernels.synchronize(queue);
  }
  made.checksum = checksum_of(made.bytes);
  return made;
}

std::uint64_t kv_checksum(device_context& device, const kv_shard& shard, int layer) {
  const std::array<head_matrix, 2> halves{shard.keys(layer), shard.values(layer)};
  const auto row = static_cast<std::size_t>(halves[0].heads) * static_cast<std::size_t>(halves[0].dim) *
                   static_cast<std::size_t>(bytes_of(halves[0].type));
  std::vector<std::byte> bytes(2 * static_cast<std::size_t>(halves[0].tokens) * row);
  auto* to = bytes.data();
  for (const auto& half : halves) {
    // Without gaps in one piece: a GPU takes some microseconds for each.
    const bool whole = half.stride == static_cast<std::int64_t>(half.heads) * half.dim;
    const std::int64_t at_once = whole ? half.tokens : 1;
    for (std::int64_t token = 0; token < half.tokens; token += at_once) {
      const auto bytes_at_once = static_cast<std::size_t>(at_once) * row;
      device.kernels().download(device.queue(), to, half.slice(token, at_once).data, bytes_at_once);
      to += bytes_at_once;
    }
  }
  device.kernels().synchronize(device.queue());
  return checksum_of(bytes);
}

std::optional<block> compressed_source::gather_again(device_context& device, const kv_shard& shard, int layer) const {
  const auto& chosen = chosen_.at(static_cast<std::size_t>(layer));
  if (chosen.empty()) return std::nullopt;
  return gather_compressed(device, shard, layer, chosen);
}

}  // namespace baton
