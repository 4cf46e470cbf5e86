#include "runtime/transport/delivery.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace baton {
namespace {

using duration = std::chrono::steady_clock::duration;

constexpr std::size_t number_bytes = sizeof(std::uint64_t);

std::int64_t bytes_of(const message& m) { return m.payload ? static_cast<std::int64_t>(m.payload->bytes.size()) : 0; }

}  // namespace

message outbox::post(const std::string& to, message what, time now) {
  auto& peer = receivers_[to];
  what.delivery = ++peer.last_delivery;
  peer.bytes += bytes_of(what);
  const auto delay = delay_first + std::chrono::milliseconds(peer.bytes * 1000 / slow_bytes_per_s);
  peer.messages.emplace(what.delivery, kept{what, now + delay, delay});
  return what;
}

std::vector<addressed_message> outbox::due(time now) {
  std::vector<addressed_message> again;
  for (auto& [to, peer] : receivers_) {
    for (auto& [delivery, m] : peer.messages) {
      if (m.due > now) continue;
      m.delay = std::max(m.delay, std::min(2 * m.delay, duration(delay_max)));
      m.due = now + m.delay;
      again.push_back({to, m.what});
    }
  }
  return again;
}

void outbox::send_again(const std::string& to, time now) {
  const auto found = receivers_.find(to);
  if (found == receivers_.end()) return;
  std::int64_t bytes = 0;
  for (auto& [delivery, m] : found->second.messages) {
    bytes += bytes_of(m.what);
    m.due = now;
    m.delay =
        (delay_first + std::chrono::milliseconds(bytes * 1000 / slow_bytes_per_s)) / 2;  // it doubles when it goes
  }
}

void outbox::acknowledged(const std::string& from, std::span<const std::uint64_t> deliveries) {
  const auto found = receivers_.find(from);
  if (found == receivers_.end()) return;
  auto& peer = found->second;
  for (const auto delivery : deliveries) {
    const auto m = peer.messages.find(delivery);
    if (m == peer.messages.end()) continue;
    peer.bytes -= bytes_of(m->second.what);
    peer.messages.erase(m);
  }
}

void outbox::forget(const std::string& to) {
  const auto found = receivers_.find(to);
  if (found == receivers_.end()) return;
  found->second.messages.clear();
  found->second.bytes = 0;
}

void outbox::forget_job(job_id job) {
  for (auto& [to, peer] : receivers_) {
    std::erase_if(peer.messages, [&](const auto& numbered) {
      const auto& what = numbered.second.what;
      if (what.key.job != job) return false;
      peer.bytes -= bytes_of(what);
      return true;
    });
  }
}

std::vector<message> outbox::unacknowledged(const std::string& to) const {
  std::vector<message> messages;
  if (const auto found = receivers_.find(to); found != receivers_.end()) {
    for (const auto& [delivery, m] : found->second.messages) messages.push_back(m.what);
  }
  return messages;
}

std::size_t outbox::retained() const {
  std::size_t count = 0;
  for (const auto& [to, peer] : receivers_) count += peer.messages.size();
  return count;
}

bool inbox_filter::first_time(const std::string& from, std::uint64_t delivery) {
  acknowledgements_[from].push_back(delivery);
  auto& seen = seen_[from];
  const auto after = seen.upper_bound(delivery);
  const auto before = after == seen.begin() ? seen.end() : std::prev(after);
  if (before != seen.end() && delivery <= before->second) return false;
  const bool joins_before = before != seen.end() && before->second + 1 == delivery;
  const bool joins_after = after != seen.end() && after->first == delivery + 1;
  const auto last = joins_after ? after->second : delivery;
  if (joins_after) seen.erase(after);
  if (joins_before) {
    before->second = last;
  } else {
    seen.emplace(delivery, last);
  }
  return true;
}

std::map<std::string, std::vector<std::uint64_t>> inbox_filter::take_acknowledgements() {
  return std::exchange(acknowledgements_, {});
}

void inbox_filter::forget(const std::string& from) {
  seen_.erase(from);
  acknowledgements_.erase(from);
}

message acknowledgement_of(std::span<const std::uint64_t> deliveries) {
  auto payload = std::make_shared<block>();
  payload->bytes.reserve(deliveries.size() * number_bytes);
  for (const auto delivery : deliveries) {
    for (std::size_t i = 0; i < number_bytes; ++i)
      payload->bytes.push_back(static_cast<std::byte>(delivery >> (8 * i)));
  }
  payload->checksum = checksum_of(payload->bytes);
  message m;
  m.kind = message_kind::acknowledge;
  m.payload = std::move(payload);
  return m;
}

std::optional<std::vector<std::uint64_t>> acknowledged_by(const message& m) {
  if (m.kind != message_kind::acknowledge || !m.payload || m.payload->bytes.size() % number_bytes != 0 ||
      checksum_of(m.payload->bytes) != m.payload->checksum) {
    return std::nullopt;
  }
  std::vector<std::uint64_t> deliveries(m.payload->bytes.size() / number_bytes);
  for (std::size_t i = 0; i < m.payload->bytes.size(); ++i) {
    deliveries[i / number_bytes] |= std::to_integer<std::uint64_t>(m.payload->bytes[i]) << (8 * (i % number_bytes));
  }
  return deliveries;
}

}  // namespace baton
