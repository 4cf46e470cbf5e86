#include "runtime/transport/detours.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/transport/message_header.hpp"

namespace baton {
namespace {

/// Before each of a carry's pieces: its length.
using length = std::uint32_t;

bool belongs_to_no_job(message_kind kind) { return kind == message_kind::acknowledge; }
bool looks_for_a_way(message_kind kind) { return kind == message_kind::probe || kind == message_kind::echo; }

void append(block_bytes& to, std::span<const std::byte> piece) {
  const auto bytes = static_cast<length>(piece.size());
  for (std::size_t i = 0; i < sizeof(length); ++i) to.push_back(static_cast<std::byte>(bytes >> (8 * i)));
  to.insert(to.end(), piece.begin(), piece.end());
}

/// Nothing where there are fewer bytes than it says.
std::optional<std::span<const std::byte>> next(std::span<const std::byte>& rest) {
  if (rest.size() < sizeof(length)) return {};
  length bytes = 0;
  for (std::size_t i = 0; i < sizeof(length); ++i) bytes |= std::to_integer<length>(rest[i]) << (8 * i);
  rest = rest.subspan(sizeof(length));
  if (rest.size() < bytes) return {};
  const auto piece = rest.first(bytes);
  rest = rest.subspan(bytes);
  return piece;
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Takes its bytes off the count when nobody has the block any more.
struct counted_block {
  std::shared_ptr<const block> what;
  std::shared_ptr<std::atomic<std::int64_t>> total;

  counted_block(std::shared_ptr<const block> b, std::shared_ptr<std::atomic<std::int64_t>> t)
      : what(std::move(b)), total(std::move(t)) {}
  counted_block(const counted_block&) = delete;
  counted_block& operator=(const counted_block&) = delete;
  ~counted_block() { *total -= static_cast<std::int64_t>(what->bytes.size()); }
};

}  // namespace

std::shared_ptr<const block> carried_bytes::admit(std::shared_ptr<const block> b) {
  const auto bytes = static_cast<std::int64_t>(b->bytes.size());
  const auto before = bytes_.fetch_add(bytes);
  if (before > 0 && before + bytes > bytes_max && bytes > small) {
    bytes_ -= bytes;
    return nullptr;
  }
  const auto self = shared_from_this();
  const auto counted =
      std::make_shared<counted_block>(std::move(b), std::shared_ptr<std::atomic<std::int64_t>>(self, &bytes_));
  return {counted, counted->what.get()};
}

std::optional<message> carry_of(const std::string& from, const std::string& to, const message& m) {
  message_header header;
  header.sender = 1;  // the names are in the carry
  header.what = m;
  header.what.payload.reset();
  if (m.payload) {
    header.has_payload = true;
    header.payload_bytes = m.payload->bytes.size();
    header.payload_checksum = m.payload->checksum;
  }
  const auto what = write_header(header);
  const std::size_t bytes = 3 * sizeof(length) + from.size() + to.size() + what.size() + header.payload_bytes;
  if (bytes > payload_bytes_max) return {};
  auto payload = std::make_shared<block>();
  payload->bytes.reserve(bytes);
  append(payload->bytes, std::as_bytes(std::span(from)));
  append(payload->bytes, std::as_bytes(std::span(to)));
  append(payload->bytes, what);
  if (m.payload) payload->bytes.insert(payload->bytes.end(), m.payload->bytes.begin(), m.payload->bytes.end());
  payload->checksum = checksum_of(payload->bytes);
  return message{.kind = message_kind::carry, .key = m.key, .payload = std::move(payload)};
}

std::optional<carried_message> read_carry(const message& carry) {
  if (carry.kind != message_kind::carry || !carry.payload) return {};
  std::span<const std::byte> rest = carry.payload->bytes;
  const auto from = next(rest);
  const auto to = from ? next(rest) : std::nullopt;
  const auto what = to ? next(rest) : std::nullopt;
  if (!what) return {};
  auto header = read_header(*what);
  // None within another: there is one relay in between.
  if (!header || header->hello || header->what.kind == message_kind::carry || header->payload_bytes != rest.size())
    return {};
  return carried_message{text_of(*from),           text_of(*to), std::move(header->what), header->has_payload,
                         header->payload_checksum, rest};
}

std::optional<message> opened(const carried_message& carried) {
  message m = carried.what;
  if (carried.has_payload) {
    auto payload = std::make_shared<block>();
    payload->bytes.assign(carried.payload.begin(), carried.payload.end());
    payload->checksum = carried.checksum;
    if (!is_intact(*payload)) return {};
    m.payload = std::move(payload);
  }
  return m;
}

std::vector<std::string> detours::lead(job_id job, std::map<std::string, std::string> ways) {
  auto& known = ways_[job];
  std::vector<std::string> changed;
  for (const auto& [to, via] : ways) {
    if (const auto before = known.find(to); before == known.end() || before->second != via) changed.push_back(to);
  }
  for (const auto& [to, via] : known) {
    if (!ways.contains(to)) changed.push_back(to);
  }
  known = std::move(ways);
  if (known.empty()) ways_.erase(job);
  return changed;
}

std::vector<std::string> detours::lead_relay(job_id job, const std::string& here, std::span<const detour> all) {
  std::map<std::string, std::string> ways;
  carried_jobs_.erase(job);
  for (const auto& [one, other, via] : all) {
    if (one == here) ways[other] = via;
    if (other == here) ways[one] = via;
    if (via == here) carried_jobs_.insert(job);
  }
  return lead(job, std::move(ways));
}

void detours::forget_job(job_id job) {
  ways_.erase(job);
  carried_jobs_.erase(job);
  std::erase_if(bytes_, [](const auto& entry) { return entry.second->under_way() == 0; });
}

const std::string* detours::way_to(const std::string& to, const message& m) const {
  const auto in = [&](const std::map<std::string, std::string>& ways) -> const std::string* {
    const auto found = ways.find(to);
    return found == ways.end() ? nullptr : &found->second;
  };
  if (!belongs_to_no_job(m.kind)) {
    const auto of_job = ways_.find(m.key.job);
    return of_job == ways_.end() ? nullptr : in(of_job->second);
  }
  for (const auto& [job, ways] : ways_) {
    if (const auto* via = in(ways)) return via;
  }
  return nullptr;
}

bool detours::comes_by(const std::string& via, const carried_message& carried) const {
  if (looks_for_a_way(carried.what.kind)) return true;
  if (!belongs_to_no_job(carried.what.kind)) {
    const auto* way = way_to(carried.from, carried.what);
    return way && *way == via;
  }
  return std::ranges::any_of(ways_, [&](const auto& entry) {
    const auto way = entry.second.find(carried.from);
    return way != entry.second.end() && way->second == via;
  });
}

bool detours::passes_on(const std::string& from, const carried_message& carried) const {
  if (carried.from != from) return false;  // nobody speaks for somebody else
  if (looks_for_a_way(carried.what.kind)) return true;
  if (belongs_to_no_job(carried.what.kind)) return !carried_jobs_.empty();
  return carried_jobs_.contains(carried.what.key.job);
}

std::shared_ptr<carried_bytes> detours::bytes_to(const std::string& to) {
  auto& bytes = bytes_[to];
  if (!bytes) bytes = std::make_shared<carried_bytes>();
  return bytes;
}

}  // namespace baton
