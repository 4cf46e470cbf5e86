#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "runtime/security/crypto.hpp"
#include "runtime/transport/message_header.hpp"

/// How messages become a stream of bytes and messages again, plain or sealed. Bytes in, bytes out: no sockets, no clock.
///
/// A record is four bytes (its length, and whether it is a chunk), as many bytes, and a tag where the stream is sealed. A message
/// is a record: its header, with the payload behind it where that is small. A larger payload follows in chunks, of one message at a
/// time; small messages go between them.
namespace baton {

/// A larger payload goes in chunks.
inline constexpr std::size_t small_payload_max = std::size_t{64} << 10;
/// So long a small message may have to wait.
inline constexpr std::size_t chunk_bytes_max = std::size_t{256} << 10;

/// Messages that wait for their connection, in two queues, so that large ones do not hold up small ones.
class sending_queue {
 public:
  /// A large message that waits, or is under way, is not taken a second time.
  void put(message&& m);
  void clear();
  [[nodiscard]] bool empty() const { return small_.empty() && large_.empty() && !current_; }

 private:
  friend class record_writer;

  std::deque<message> small_;
  std::deque<message> large_;
  std::optional<message> current_;  ///< whose payload is being sent
  std::size_t offset_ = 0;          ///< of the payload's next chunk
};

class record_writer {
 public:
  /// `key`: nothing for a plain stream.
  record_writer(instance_id self, const std::optional<secret_key>& key);

  /// Takes messages off the queue until there is something to write. False: nothing is, and nothing was left unwritten.
  bool fill(sending_queue& from);
  /// What is to be written next: one piece after the other, the second may be empty. Valid until `wrote` or the next `fill`.
  [[nodiscard]] std::array<std::span<const std::byte>, 2> unwritten() const;
  void wrote(std::size_t bytes);
  [[nodiscard]] bool done() const { return at_ == buffer_.size() + direct_.size(); }

  /// Headers and payloads of the messages begun since the last call: how many, and their bytes.
  [[nodiscard]] std::pair<std::int64_t, std::int64_t> take_counts() { return std::exchange(counts_, {0, 0}); }

 private:
  void append_message(const message& m);
  void append_chunk(std::span<const std::byte> bytes);

  const instance_id self_;
  std::optional<record_cipher> cipher_;
  block_bytes buffer_;
  std::span<const std::byte> direct_;  ///< of the current message's payload, behind the buffer
  std::size_t at_ = 0;
  std::pair<std::int64_t, std::int64_t> counts_{0, 0};
};

class record_reader {
 public:
  struct arrival {
    message what;
    std::size_t bytes = 0;  ///< header and payload
  };

  explicit record_reader(const std::optional<secret_key>& key);
  record_reader(const record_reader&) = delete;
  record_reader& operator=(const record_reader&) = delete;

  /// Where the stream's next bytes are to go; never empty.
  [[nodiscard]] std::span<std::byte> wanted();
  /// So many have been put there. False: the stream makes no sense, and is to be closed.
  [[nodiscard]] bool got(std::size_t bytes);
  /// Whether the next bytes are a large payload's.
  [[nodiscard]] bool in_chunk() const { return part_ == part::chunk; }
  [[nodiscard]] std::vector<arrival> take_arrived() { return std::exchange(arrived_, {}); }

 private:
  enum class part : std::uint8_t { head, record, chunk, tag };

  bool head_came();
  bool record_came();
  bool chunk_came();

  std::optional<record_cipher> cipher_;
  part part_ = part::head;
  std::array<std::byte, 4> head_{};
  std::array<std::byte, record_cipher::tag_bytes> tag_{};
  block_bytes record_;
  std::span<std::byte> into_;  ///< of the part in hand
  std::span<std::byte> body_;  ///< of the record in hand
  bool chunk_ = false;         ///< the record in hand is one
  std::optional<message> large_;
  std::shared_ptr<block> payload_;  ///< of `large_`
  std::size_t offset_ = 0;          ///< of the payload's next chunk
  std::vector<arrival> arrived_;
};

}  // namespace baton
