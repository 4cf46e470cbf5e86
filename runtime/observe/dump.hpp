#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace baton {

/// The units that one rank passed on in one layer.
struct selected_units {
  int layer = 0;
  int rank = 0;
  int kv_heads = 0;
  std::vector<std::int32_t> indices;  ///< (kv_heads, units), document indices, ascending within a head
  std::uint64_t kv_checksum{};        ///< of the rank's keys and values in that layer; 0: not known
};

/// Writes a safetensors file with `first_logits`, F32 (vocabulary), and for each layer and rank that chose any units
/// `selected.layer{i}.rank{h}`, I32 (kv_heads, units), and `kv_checksum.layer{i}.rank{h}`, I64 (1): equal ones mean equal KV. Throws what write_safetensors throws, and fault(internal) for
/// indices that are not as described.
void write_dump(const std::filesystem::path& path, std::span<const float> first_logits,
                std::span<const selected_units> selected);

}  // namespace baton
