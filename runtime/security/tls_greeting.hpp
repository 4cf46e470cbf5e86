#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace baton {

/// Follows what a TLS 1.3 client says, by the heads of its records alone: first its hello, later its own part of the handshake,
/// encrypted. Plain TLS 1.2 never gets beyond the hello. Bytes in, no sockets.
class tls_greeting {
 public:
  enum class stage : std::uint8_t {
    silent,    ///< no whole hello yet
    greeted,   ///< a whole hello
    finished,  ///< a whole encrypted record behind it, which the server accepts or answers by closing
    nonsense,  ///< no TLS 1.3 client says this
  };

  /// The next bytes, in any pieces. Once it has finished, or is nonsense, it stays so.
  stage heard(std::span<const std::byte> bytes) {
    while (!bytes.empty() && at_ != stage::finished && at_ != stage::nonsense) {
      if (head_bytes_ < head_.size()) {
        head_[head_bytes_++] = bytes.front();
        bytes = bytes.subspan(1);
        if (head_bytes_ == head_.size()) head_came();
        continue;
      }
      const auto taken = bytes.size() < rest_ ? bytes.size() : rest_;
      bytes = bytes.subspan(taken);
      rest_ -= taken;
      if (rest_ == 0) record_came();
    }
    return at_;
  }

 private:
  static constexpr unsigned change_cipher_spec = 20, handshake = 22, application_data = 23;
  static constexpr std::size_t record_max = (std::size_t{16} << 10) + 256;
  static constexpr int records_max = 8;  ///< of a hello in several, and what old middleboxes want to see

  void head_came() {
    type_ = std::to_integer<unsigned>(head_[0]);
    rest_ = std::to_integer<std::size_t>(head_[3]) << 8 | std::to_integer<std::size_t>(head_[4]);
    const bool known =
        type_ == handshake || (at_ == stage::greeted && (type_ == change_cipher_spec || type_ == application_data));
    if (!known || std::to_integer<unsigned>(head_[1]) != 3 || rest_ == 0 || rest_ > record_max ||
        ++records_ > records_max)
      at_ = stage::nonsense;
  }
  void record_came() {
    if (type_ == handshake) at_ = stage::greeted;
    if (type_ == application_data) at_ = stage::finished;
    head_bytes_ = 0;
  }

  stage at_ = stage::silent;
  std::array<std::byte, 5> head_{};
  std::size_t head_bytes_ = 0;
  std::size_t rest_ = 0;  ///< of the record in hand
  unsigned type_ = 0;
  int records_ = 0;
};

}  // namespace baton
