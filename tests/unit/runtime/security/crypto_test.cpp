#include "runtime/security/crypto.hpp"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace baton {
namespace {

std::vector<std::byte> from_hex(const std::string& text) {
  std::vector<std::byte> out;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    out.push_back(static_cast<std::byte>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return out;
}

template <class Bytes>
std::vector<std::byte> copied(const Bytes& bytes) {
  return {bytes.begin(), bytes.end()};
}

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(crypto, hashes_and_macs_are_those_of_the_standards) {
  // FIPS 180-4, RFC 4231 test case 2.
  EXPECT_EQ(copied(sha256(bytes_of("abc"))),
            from_hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
  EXPECT_EQ(copied(hmac_sha256(bytes_of("Jefe"), bytes_of("what do ya want for nothing?"))),
            from_hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"));
}

TEST(crypto, derived_keys_are_hkdfs) {
  // The definition of RFC 5869 with one block of output, from HMAC alone.
  const auto secret = bytes_of("a secret"), salt = bytes_of("salt"), context = bytes_of("between us");
  const auto pseudo_random = hmac_sha256(salt, secret);
  std::string info("purpose");
  info += '\0';
  info += "between us";
  info += '\1';
  EXPECT_EQ(derive_key(secret, salt, "purpose", context), hmac_sha256(pseudo_random, bytes_of(info)));
  EXPECT_NE(derive_key(secret, salt, "purpose", context), derive_key(secret, salt, "another", context));
  EXPECT_NE(derive_key(secret, salt, "purpose"), derive_key(secret, {}, "purpose"));
}

TEST(crypto, both_sides_of_an_exchange_share_a_secret_and_nobody_else) {
  const key_exchange a, b, other;
  const auto shared = a.shared_with(b.own_point());
  ASSERT_TRUE(shared);
  EXPECT_EQ(shared, b.shared_with(a.own_point()));
  EXPECT_NE(shared, other.shared_with(a.own_point()));
  EXPECT_FALSE(a.shared_with(public_point{})) << "a point of small order gives everybody the same secret";
}

TEST(crypto, records_open_in_their_order_and_unchanged_only) {
  const auto key = random_key();
  record_cipher sealing(key, record_cipher::use::sealing);
  const auto text = copied(bytes_of("a block's bytes"));
  const auto clear = bytes_of("head");
  struct record {
    std::vector<std::byte> bytes;
    std::array<std::byte, record_cipher::tag_bytes> tag{};
  };
  std::vector<record> records(3);
  for (auto& r : records) {
    r.bytes.resize(text.size());
    sealing.seal(clear, text, r.bytes.data(), r.tag);
    EXPECT_NE(r.bytes, text);
  }
  EXPECT_NE(records[0].bytes, records[1].bytes);

  const auto opens = [&](record_cipher& how, record r, std::span<const std::byte> head) {
    return how.open(head, r.bytes, r.tag) && r.bytes == text;
  };
  {
    record_cipher opening(key, record_cipher::use::opening);
    for (const auto& r : records) EXPECT_TRUE(opens(opening, r, clear));
  }
  {
    record_cipher opening(key, record_cipher::use::opening);
    EXPECT_FALSE(opens(opening, records[1], clear)) << "out of order";
  }
  {
    record_cipher opening(key, record_cipher::use::opening);
    EXPECT_FALSE(opens(opening, records[0], bytes_of("Head")));
  }
  {
    record_cipher opening(random_key(), record_cipher::use::opening);
    EXPECT_FALSE(opens(opening, records[0], clear));
  }
  for (std::size_t bit = 0; bit < 8 * text.size(); bit += 5) {
    record_cipher opening(key, record_cipher::use::opening);
    auto changed = records[0];
    changed.bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    EXPECT_FALSE(opens(opening, changed, clear)) << bit;
  }
}

}  // namespace
}  // namespace baton
