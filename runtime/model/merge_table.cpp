#include "runtime/model/merge_table.hpp"

#include <algorithm>
#include <bit>

namespace baton {

merge_table::merge_table(std::span<const merge> merges)
    : slots_(std::bit_ceil(std::max<std::size_t>(2, 2 * merges.size()))), shift_(64 - std::countr_zero(slots_.size())) {
  for (const merge& m : merges) {
    const std::uint64_t key = key_of(m.left, m.right);
    std::size_t at = slot_of(key);
    while (slots_[at].key != key && slots_[at].key != nothing) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = {key, {m.rank, m.result}};
  }
}

}  // namespace baton
