#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

/// What Baton takes from OpenSSL to keep strangers out of its data plane. Everything here throws fault(internal) where OpenSSL
/// fails, which it does for want of memory or of an algorithm only. Any thread, one object by one thread at a time.
namespace baton {

/// 256 bits that strangers do not know.
using secret_key = std::array<std::byte, 32>;
using digest = std::array<std::byte, 32>;
using public_point = std::array<std::byte, 32>;
using signature_bytes = std::array<std::byte, 64>;

void fill_random(std::span<std::byte> out);
[[nodiscard]] secret_key random_key();

[[nodiscard]] digest sha256(std::span<const std::byte> data);
[[nodiscard]] digest hmac_sha256(std::span<const std::byte> key, std::span<const std::byte> data);
/// HKDF with SHA-256 (RFC 5869): one key for each `purpose` and `context`. An empty salt is allowed.
[[nodiscard]] secret_key derive_key(std::span<const std::byte> secret, std::span<const std::byte> salt,
                                    std::string_view purpose, std::span<const std::byte> context = {});
/// Takes as long whether they differ at the first byte or nowhere.
[[nodiscard]] bool same_secret(std::span<const std::byte> a, std::span<const std::byte> b);

/// An X25519 pair (RFC 7748).
class key_exchange {
 public:
  /// A fresh one, for one handshake.
  key_exchange();
  explicit key_exchange(const secret_key& secret);
  ~key_exchange();
  key_exchange(key_exchange&&) noexcept;
  key_exchange& operator=(key_exchange&&) noexcept;

  [[nodiscard]] const public_point& own_point() const { return point_; }
  /// Nothing for a point that makes no secret (one of small order).
  [[nodiscard]] std::optional<secret_key> shared_with(const public_point& other) const;

 private:
  struct pair;
  std::unique_ptr<pair> pair_;
  public_point point_{};
};

/// An Ed25519 pair (RFC 8032).
class signing_key {
 public:
  explicit signing_key(const secret_key& secret);
  ~signing_key();
  signing_key(signing_key&&) noexcept;
  signing_key& operator=(signing_key&&) noexcept;

  [[nodiscard]] const public_point& point() const { return point_; }
  [[nodiscard]] signature_bytes sign(std::span<const std::byte> data) const;
  [[nodiscard]] static bool has_signed(const public_point& who, std::span<const std::byte> data,
                                       const signature_bytes& signature);

 private:
  struct pair;
  std::unique_ptr<pair> pair_;
  public_point point_{};
};

/// One direction of a connection under AES-256-GCM. Records are numbered from 0 on both sides, and the number is the nonce: one
/// that is left out, repeated, moved or changed does not open.
class record_cipher {
 public:
  static constexpr std::size_t tag_bytes = 16;

  enum class use : std::uint8_t { sealing, opening };
  record_cipher(const secret_key& key, use how);
  ~record_cipher();
  record_cipher(record_cipher&&) noexcept;
  record_cipher& operator=(record_cipher&&) noexcept;

  /// `sealed` has the length of `plain` (and may be it); `clear` is protected but not hidden.
  void seal(std::span<const std::byte> clear, std::span<const std::byte> plain, std::byte* sealed,
            std::span<std::byte, tag_bytes> tag);
  /// The same for what is in several pieces, sealed one after another as one record: begin, add each, finish.
  void begin(std::span<const std::byte> clear);
  void add(std::span<const std::byte> in, std::byte* out);
  void finish(std::span<std::byte, tag_bytes> tag);
  /// In place. False: it is not what was sealed, and `bytes` mean nothing.
  [[nodiscard]] bool open(std::span<const std::byte> clear, std::span<std::byte> bytes,
                          std::span<const std::byte, tag_bytes> tag);

 private:
  struct context;
  std::unique_ptr<context> context_;
  std::uint64_t number_ = 0;
};

}  // namespace baton
