#include "runtime/transport/tcp_records.hpp"

#include <algorithm>
#include <cstring>
#include <new>

namespace baton {
namespace {

constexpr std::uint32_t is_chunk = std::uint32_t{1} << 31;

std::size_t payload_bytes(const message& m) { return m.payload ? m.payload->bytes.size() : 0; }

/// Sent again by somebody who does not know how far the first one is.
bool repeats(const message& a, const message& b) {
  return a.kind == b.kind && a.delivery == b.delivery && a.key == b.key && a.key.attempt == b.key.attempt &&
         a.targets == b.targets && payload_bytes(a) == payload_bytes(b);
}

std::vector<std::byte> header_of(const message& m, instance_id self) {
  message_header header;
  header.sender = self;
  header.what = m;
  header.what.payload.reset();
  if (m.payload) {
    header.has_payload = true;
    header.payload_bytes = m.payload->bytes.size();
    header.payload_checksum = m.payload->checksum;
  }
  return write_header(header);
}

/// All headers without an address have one length.
std::size_t header_bytes() {
  static const std::size_t bytes = header_of({}, 1).size();
  return bytes;
}

std::array<std::byte, 4> write_head(std::size_t length, bool chunk) {
  const auto bits = static_cast<std::uint32_t>(length) | (chunk ? is_chunk : 0);
  std::array<std::byte, 4> out{};
  for (std::size_t i = 0; i < 4; ++i) out[i] = static_cast<std::byte>(bits >> (8 * i));
  return out;
}

}  // namespace

// ---- sending_queue ----

void sending_queue::put(message&& m) {
  if (payload_bytes(m) <= small_payload_max) {
    small_.push_back(std::move(m));
    return;
  }
  const auto repeated = [&](const message& other) { return repeats(m, other); };
  if (std::any_of(large_.begin(), large_.end(), repeated) || (current_ && repeated(*current_))) return;
  large_.push_back(std::move(m));
}

void sending_queue::clear() {
  small_.clear();
  large_.clear();
  current_.reset();
}

// ---- record_writer ----

record_writer::record_writer(instance_id self, const std::optional<secret_key>& key) : self_(self) {
  if (key) cipher_.emplace(*key, record_cipher::use::sealing);
}

bool record_writer::fill(sending_queue& from) {
  if (!done()) return true;
  buffer_.clear();
  direct_ = {};
  at_ = 0;
  if (from.current_ && from.offset_ == payload_bytes(*from.current_)) from.current_.reset();
  while (!from.small_.empty() && buffer_.size() < small_payload_max) {
    append_message(from.small_.front());
    from.small_.pop_front();
  }
  if (!from.current_ && !from.large_.empty()) {
    from.current_ = std::move(from.large_.front());
    from.large_.pop_front();
    from.offset_ = 0;
    append_message(*from.current_);
  }
  if (from.current_) {
    const auto rest = std::span(from.current_->payload->bytes).subspan(from.offset_);
    const auto chunk = rest.first(std::min(rest.size(), chunk_bytes_max));
    append_chunk(chunk);
    from.offset_ += chunk.size();
  }
  return !done();
}

std::array<std::span<const std::byte>, 2> record_writer::unwritten() const {
  const std::span<const std::byte> buffer(buffer_);
  if (at_ < buffer.size()) return {buffer.subspan(at_), direct_};
  return {direct_.subspan(at_ - buffer.size()), {}};
}

void record_writer::wrote(std::size_t bytes) { at_ += bytes; }

void record_writer::append_message(const message& m) {
  const auto header = header_of(m, self_);
  const std::size_t payload = payload_bytes(m);
  const std::size_t inlined = payload <= small_payload_max ? payload : 0;
  const std::size_t start = buffer_.size();
  const std::size_t body = header.size() + inlined;
  buffer_.resize(start + 4 + body + (cipher_ ? record_cipher::tag_bytes : 0));
  const auto out = std::span(buffer_).subspan(start);
  const auto head = write_head(body, false);
  std::memcpy(out.data(), head.data(), head.size());
  std::memcpy(out.data() + 4, header.data(), header.size());
  if (inlined != 0) std::memcpy(out.data() + 4 + header.size(), m.payload->bytes.data(), inlined);
  if (cipher_) {
    const auto text = out.subspan(4, body);
    cipher_->seal(head, text, text.data(), out.last<record_cipher::tag_bytes>());
  }
  ++counts_.first;
  counts_.second += static_cast<std::int64_t>(header.size() + payload);
}

void record_writer::append_chunk(std::span<const std::byte> bytes) {
  const auto head = write_head(bytes.size(), true);
  const std::size_t start = buffer_.size();
  if (!cipher_) {
    buffer_.resize(start + 4);
    std::memcpy(buffer_.data() + start, head.data(), head.size());
    direct_ = bytes;
    return;
  }
  buffer_.resize(start + 4 + bytes.size() + record_cipher::tag_bytes);
  const auto out = std::span(buffer_).subspan(start);
  std::memcpy(out.data(), head.data(), head.size());
  cipher_->seal(head, bytes, out.data() + 4, out.last<record_cipher::tag_bytes>());
}

// ---- record_reader ----

record_reader::record_reader(const std::optional<secret_key>& key) : into_(head_) {
  if (key) cipher_.emplace(*key, record_cipher::use::opening);
}

std::span<std::byte> record_reader::wanted() { return into_; }

bool record_reader::got(std::size_t bytes) try {
  into_ = into_.subspan(bytes);
  if (!into_.empty()) return true;
  switch (part_) {
    case part::head: return head_came();
    case part::record:
    case part::chunk:
      if (cipher_) {
        part_ = part::tag;
        into_ = tag_;
        return true;
      }
      break;
    case part::tag:
      if (!cipher_->open(head_, body_, tag_)) return false;
      break;
  }
  const bool well = chunk_ ? chunk_came() : record_came();
  part_ = part::head;
  into_ = head_;
  return well;
} catch (const std::bad_alloc&) {
  return false;
}

bool record_reader::head_came() {
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < 4; ++i)
    bits |= static_cast<std::uint32_t>(std::to_integer<unsigned>(head_[i])) << (8 * i);
  chunk_ = (bits & is_chunk) != 0;
  const std::size_t length = bits & ~is_chunk;
  if (chunk_) {
    if (!large_ || length == 0 || length > chunk_bytes_max || length > payload_->bytes.size() - offset_) return false;
    body_ = std::span(payload_->bytes).subspan(offset_, length);
  } else {
    if (length < header_bytes() || length > header_bytes() + small_payload_max) return false;
    record_.resize(length);
    body_ = record_;
  }
  part_ = chunk_ ? part::chunk : part::record;
  into_ = body_;
  return true;
}

bool record_reader::record_came() {
  auto header = read_header(body_.first(header_bytes()));
  const auto inlined = body_.subspan(header_bytes());
  if (!header || header->hello) return false;
  const bool large = header->payload_bytes > small_payload_max;
  if (inlined.size() != (large ? 0 : header->payload_bytes)) return false;
  if (header->has_payload) {
    auto payload = std::make_shared<block>();
    payload->checksum = header->payload_checksum;
    payload->bytes.resize(header->payload_bytes);
    if (large) {
      if (large_) return false;
      payload_ = std::move(payload);
      large_ = std::move(header->what);
      offset_ = 0;
      return true;
    }
    if (!inlined.empty()) std::memcpy(payload->bytes.data(), inlined.data(), inlined.size());
    header->what.payload = std::move(payload);
  }
  arrived_.push_back({std::move(header->what), body_.size()});
  return true;
}

bool record_reader::chunk_came() {
  offset_ += body_.size();
  if (offset_ < payload_->bytes.size()) return true;
  const std::size_t bytes = header_bytes() + payload_->bytes.size();
  large_->payload = std::move(payload_);
  arrived_.push_back({std::move(*large_), bytes});
  large_.reset();
  return true;
}

}  // namespace baton
