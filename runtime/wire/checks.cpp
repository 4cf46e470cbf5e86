#include "runtime/wire/checks.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/fault.hpp"
#include "runtime/cluster/messages.hpp"

namespace baton::wire {

std::string place::path() const {
  if (!parent_) return fmt::format("message {}", name_);
  const std::string_view before = parent_->parent_ ? "." : ", field ";
  const std::string item = index_ < 0 ? "" : fmt::format("[{}]", index_);
  return fmt::format("{}{}{}{}", parent_->path(), before, name_, item);
}

void refuse(const place& at, const std::string& why) { throw fault(fault_code::bad_input, why, at.path()); }

double seconds(double value, const place& at) {
  if (!std::isfinite(value) || value < 0) refuse(at, fmt::format("{} is no number of seconds", value));
  return value;
}

const std::string& text(const std::string& value, const place& at) {
  if (value.size() > text_bytes_max) {
    refuse(at, fmt::format("a text of {} bytes; at most {}", value.size(), text_bytes_max));
  }
  return value;
}

std::vector<std::int32_t> ids(const id_list& list, const place& at) {
  const auto negative = std::ranges::find_if(list, [](std::int32_t id) { return id < 0; });
  if (negative != list.end()) refuse(at, fmt::format("{} is negative", *negative));
  return {list.begin(), list.end()};
}

std::vector<std::int32_t> layers(const id_list& list, const place& at) {
  int above = -1;
  for (const std::int32_t number : list) above = within(number, above + 1, layers_max - 1, at);
  return {list.begin(), list.end()};
}

std::vector<std::int32_t> piece(const id_list& list, const place& at) {
  if (list.size() > ids_per_message) {
    refuse(at, fmt::format("{} ids in one message; at most {}", list.size(), ids_per_message));
  }
  return ids(list, at);
}

}  // namespace baton::wire
