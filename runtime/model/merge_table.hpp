#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace baton {

/// Two neighbouring symbols may become one. Lower ranks go first, of equal ranks the one further left.
struct merge {
  std::int32_t left;
  std::int32_t right;
  std::int32_t result;
  std::int32_t rank;
};

/// The merges by their two symbols: a table with open addressing, because encoding spends its time here. Immutable; any
/// thread may use it.
class merge_table {
 public:
  /// Symbols are not negative. Of a pair that is listed twice the later entry counts, as in Hugging Face tokenizers.
  explicit merge_table(std::span<const merge> merges);

  struct ranked {
    std::int32_t rank, result;
  };
  /// Null where the two do not merge.
  [[nodiscard]] const ranked* find(std::int32_t left, std::int32_t right) const {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t at = slot_of(key);; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].key == key) return &slots_[at].value;
      if (slots_[at].key == nothing) return nullptr;
    }
  }

 private:
  static constexpr std::uint64_t nothing = ~std::uint64_t{0};
  struct slot {
    std::uint64_t key = nothing;
    ranked value{};
  };

  static std::uint64_t key_of(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
  }
  [[nodiscard]] std::size_t slot_of(std::uint64_t key) const {
    return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15u) >>
                                    shift_);  // the golden ratio's bits spread neighbours
  }

  std::vector<slot> slots_;  // a power of two, at most half full
  int shift_;
};

}  // namespace baton
