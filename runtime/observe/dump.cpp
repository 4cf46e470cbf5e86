#include "runtime/observe/dump.hpp"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "kernels/fault.hpp"
#include "runtime/model/safetensors.hpp"

namespace baton {
namespace {

void check(const selected_units& units, const std::string& name) {
  const std::size_t heads = units.kv_heads > 0 ? static_cast<std::size_t>(units.kv_heads) : 0;
  if (heads == 0 || units.indices.size() % heads != 0) {
    throw fault(fault_code::internal,
                fmt::format("{} units cannot be shared by {} KV heads", units.indices.size(), units.kv_heads), name);
  }
  const std::size_t of_head = units.indices.size() / heads;
  for (std::size_t head = 0; head < heads; ++head) {
    const auto chosen = std::span(units.indices).subspan(head * of_head, of_head);
    if (std::ranges::adjacent_find(chosen, std::greater_equal<>()) != chosen.end()) {
      throw fault(fault_code::internal, fmt::format("the chosen units of KV head {} do not ascend", head), name);
    }
  }
}

}  // namespace

void write_dump(const std::filesystem::path& path, std::span<const float> first_logits,
                std::span<const selected_units> selected) {
  // Sized in advance: the views borrow the names.
  std::vector<std::string> names;
  names.reserve(2 * selected.size());
  std::vector<tensor_view> tensors;
  tensors.push_back({"first_logits",
                     tensor_type::f32,
                     {static_cast<std::int64_t>(first_logits.size())},
                     std::as_bytes(first_logits)});
  // Equal results make equal files, whoever reported first.
  std::vector<const selected_units*> ordered;
  for (const auto& units : selected) ordered.push_back(&units);
  std::ranges::sort(ordered, {}, [](const selected_units* s) { return std::pair(s->layer, s->rank); });
  for (const auto* each : ordered) {
    const auto& units = *each;
    if (units.kv_checksum != 0) {
      tensors.push_back({names.emplace_back(fmt::format("kv_checksum.layer{}.rank{}", units.layer, units.rank)),
                         tensor_type::i64,
                         {1},
                         std::as_bytes(std::span(&units.kv_checksum, 1))});
    }
    if (units.indices.empty()) continue;
    const auto& name = names.emplace_back(fmt::format("selected.layer{}.rank{}", units.layer, units.rank));
    check(units, name);
    const std::int64_t heads = units.kv_heads;
    tensors.push_back({name,
                       tensor_type::i32,
                       {heads, static_cast<std::int64_t>(units.indices.size()) / heads},
                       std::as_bytes(std::span(units.indices))});
  }
  write_safetensors(path, tensors);
}

}  // namespace baton
