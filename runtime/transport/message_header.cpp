#include "runtime/transport/message_header.hpp"

#include <concepts>
#include <cstring>
#include <string_view>
#include <type_traits>

#include <fmt/format.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

constexpr std::uint32_t header_mark = 0x314d5442;   // "BTM1"
constexpr std::uint32_t address_mark = 0x31415442;  // "BTA1"

constexpr std::uint8_t carries_payload = 1;
constexpr std::uint8_t carries_address = 2;
constexpr std::uint8_t is_hello = 4;

class field_writer {
 public:
  explicit field_writer(std::size_t bytes) { bytes_.reserve(bytes); }

  template <std::integral Number>
  void number(Number value) {
    auto bits = static_cast<std::make_unsigned_t<Number>>(value);
    for (std::size_t i = 0; i < sizeof(Number); ++i) bytes_.push_back(static_cast<std::byte>(bits >> (8 * i)));
  }
  void bytes(std::span<const std::byte> more) { bytes_.insert(bytes_.end(), more.begin(), more.end()); }
  [[nodiscard]] std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// Reads past the end give 0 and are remembered.
class field_reader {
 public:
  explicit field_reader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <std::integral Number>
  void number(Number& value) {
    if (rest_.size() < sizeof(Number)) {
      complete_ = false;
      value = 0;
      return;
    }
    std::make_unsigned_t<Number> bits = 0;
    for (std::size_t i = 0; i < sizeof(Number); ++i) {
      bits |=
          static_cast<std::make_unsigned_t<Number>>(std::to_integer<std::make_unsigned_t<Number>>(rest_[i]) << (8 * i));
    }
    value = static_cast<Number>(bits);
    rest_ = rest_.subspan(sizeof(Number));
  }
  [[nodiscard]] bool complete() const { return complete_; }
  [[nodiscard]] std::span<const std::byte> rest() const { return rest_; }

 private:
  std::span<const std::byte> rest_;
  bool complete_ = true;
};

bool is_target(int rank) { return rank >= 0 && rank <= target_ranks_max; }

}  // namespace

void check_sendable(const message& m) {
  if (m.payload && m.payload->bytes.size() > payload_bytes_max) {
    throw fault(fault_code::internal,
                fmt::format("a payload of {} bytes; a message holds {}", m.payload->bytes.size(), payload_bytes_max),
                describe(m.key));
  }
  if (!is_target(m.targets.first) || !is_target(m.targets.last)) {
    throw fault(fault_code::internal, fmt::format("targets [{}, {}) are no ranks", m.targets.first, m.targets.last),
                describe(m.key));
  }
}

std::vector<std::byte> write_header(const message_header& header) {
  const message& m = header.what;
  field_writer out(96 + header.sender_address.size());
  out.number(header_mark);
  out.number(static_cast<std::uint8_t>(m.kind));
  out.number(static_cast<std::uint8_t>((header.has_payload ? carries_payload : 0) |
                                       (header.sender_address.empty() ? 0 : carries_address) |
                                       (header.hello ? is_hello : 0)));
  out.number(header.sender);
  out.number(header.connection);
  out.number(m.delivery);
  out.number(m.key.job);
  out.number(static_cast<std::uint8_t>(m.key.phase));
  out.number(m.key.question);
  out.number(m.key.step);
  out.number(m.key.layer);
  out.number(m.key.source);
  out.number(m.key.part);
  out.number(m.key.attempt);
  out.number(static_cast<std::int32_t>(m.targets.first));
  out.number(static_cast<std::int32_t>(m.targets.last));
  out.number(header.payload_bytes);
  out.number(header.payload_checksum);
  out.bytes(header.sender_address);
  return out.take();
}

std::optional<message_header> read_header(std::span<const std::byte> bytes) {
  message_header header;
  message& m = header.what;
  std::uint32_t mark = 0;
  std::uint8_t kind = 0, flags = 0, phase = 0;
  std::int32_t first = 0, last = 0;
  field_reader in(bytes);
  in.number(mark);
  in.number(kind);
  in.number(flags);
  in.number(header.sender);
  in.number(header.connection);
  in.number(m.delivery);
  in.number(m.key.job);
  in.number(phase);
  in.number(m.key.question);
  in.number(m.key.step);
  in.number(m.key.layer);
  in.number(m.key.source);
  in.number(m.key.part);
  in.number(m.key.attempt);
  in.number(first);
  in.number(last);
  in.number(header.payload_bytes);
  in.number(header.payload_checksum);
  if (!in.complete() || mark != header_mark || header.sender == 0) return std::nullopt;
  if (kind > static_cast<std::uint8_t>(message_kind::echo)) return std::nullopt;
  if (phase > static_cast<std::uint8_t>(block_phase::decode)) return std::nullopt;
  if ((flags & ~(carries_payload | carries_address | is_hello)) != 0) return std::nullopt;
  if (!is_target(first) || !is_target(last)) return std::nullopt;
  header.hello = (flags & is_hello) != 0;
  header.has_payload = (flags & carries_payload) != 0;
  if (header.payload_bytes > (header.has_payload ? payload_bytes_max : 0)) return std::nullopt;
  header.sender_address = in.rest();
  if (header.sender_address.empty() != ((flags & carries_address) == 0)) return std::nullopt;
  m.kind = static_cast<message_kind>(kind);
  m.key.phase = static_cast<block_phase>(phase);
  m.targets = {first, last};
  return header;
}

std::string write_address(const messenger_address& address) {
  field_writer rest(8 + address.place.size());
  rest.number(address.instance);
  rest.bytes(address.place);
  const auto checked = rest.take();
  field_writer out(12 + checked.size());
  out.number(address_mark);
  out.number(checksum_of(checked));
  out.bytes(checked);
  const auto bytes = out.take();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::optional<messenger_address> read_address(std::span<const std::byte> bytes) {
  if (bytes.size() > messenger_address_bytes_max) return std::nullopt;
  messenger_address address;
  std::uint32_t mark = 0;
  std::uint64_t checksum = 0;
  field_reader in(bytes);
  in.number(mark);
  in.number(checksum);
  if (!in.complete() || mark != address_mark || checksum != checksum_of(in.rest())) return std::nullopt;
  in.number(address.instance);
  if (!in.complete() || address.instance == 0 || in.rest().empty()) return std::nullopt;
  address.place = in.rest();
  return address;
}

}  // namespace baton
