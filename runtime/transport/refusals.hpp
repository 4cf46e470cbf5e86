#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "runtime/transport/socket.hpp"

/// What everybody needs who listens where strangers come by.
namespace baton {

/// Tells of refused strangers, and never so often that they fill a log. Not synchronized.
class refusals {
 public:
  using time_point = std::chrono::steady_clock::time_point;
  static constexpr std::chrono::seconds interval{10};

  /// `warn`: none: nobody is told.
  explicit refusals(std::function<void(const std::string&)> warn) : warn_(std::move(warn)) {}

  void report(const socket_place& stranger, const socket_place& where, const std::string& why, time_point now) {
    if (!warn_) return;
    if (now < next_) {
      ++untold_;
      return;
    }
    next_ = now + interval;
    warn_(fmt::format("a stranger at {} was refused on {}: {}{}", stranger.text(), where.text(), why,
                      untold_ == 0 ? "" : fmt::format(" ({} others before)", untold_)));
    untold_ = 0;
  }

 private:
  std::function<void(const std::string&)> warn_;
  std::int64_t untold_ = 0;
  time_point next_{};
};

/// Whom to send away where one too many waits: the oldest of the address that has most, so that one host cannot keep others out.
/// `waiting`: a map of pointers to what has a `from`, the oldest first; not empty. Returns its key.
template <class Waiting>
auto one_too_many(const Waiting& waiting) {
  using key = typename Waiting::key_type;
  std::map<decltype(socket_place::ip), std::pair<std::size_t, key>> by_address;  // how many, and the oldest
  for (const auto& [id, who] : waiting) ++by_address.try_emplace(who->from.ip, 0, id).first->second.first;
  return std::max_element(by_address.begin(), by_address.end(),
                          [](const auto& a, const auto& b) { return a.second.first < b.second.first; })
      ->second.second;
}

}  // namespace baton
