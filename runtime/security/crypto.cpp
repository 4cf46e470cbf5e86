#include "runtime/security/crypto.hpp"

#include <string>
#include <utility>
#include <vector>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

void check(bool well, const char* what) {
  if (!well) throw fault(fault_code::internal, std::string("OpenSSL failed: ") + what);
}

template <class Type, auto Free>
struct freed_by {
  void operator()(Type* what) const noexcept { Free(what); }
};
template <class Type, auto Free>
using owned = std::unique_ptr<Type, freed_by<Type, Free>>;

using key_handle = owned<EVP_PKEY, EVP_PKEY_free>;
using key_context = owned<EVP_PKEY_CTX, EVP_PKEY_CTX_free>;
using digest_context = owned<EVP_MD_CTX, EVP_MD_CTX_free>;
using cipher_context = owned<EVP_CIPHER_CTX, EVP_CIPHER_CTX_free>;

unsigned char* raw(std::byte* bytes) { return reinterpret_cast<unsigned char*>(bytes); }
const unsigned char* raw(const std::byte* bytes) { return reinterpret_cast<const unsigned char*>(bytes); }

constexpr std::size_t nonce_bytes = 12;

std::array<unsigned char, nonce_bytes> nonce_of(std::uint64_t number) {
  std::array<unsigned char, nonce_bytes> nonce{};
  for (std::size_t i = 0; i < 8; ++i) nonce[nonce_bytes - 1 - i] = static_cast<unsigned char>(number >> (8 * i));
  return nonce;
}

public_point point_of(const key_handle& key) {
  public_point point;
  std::size_t bytes = point.size();
  check(EVP_PKEY_get_raw_public_key(key.get(), raw(point.data()), &bytes) == 1 && bytes == point.size(),
        "a key's public half");
  return point;
}

}  // namespace

void fill_random(std::span<std::byte> out) {
  check(RAND_bytes(raw(out.data()), static_cast<int>(out.size())) == 1, "random bytes");
}

secret_key random_key() {
  secret_key key;
  fill_random(key);
  return key;
}

digest sha256(std::span<const std::byte> data) {
  digest out;
  check(EVP_Q_digest(nullptr, "SHA256", nullptr, data.data(), data.size(), raw(out.data()), nullptr) == 1, "SHA-256");
  return out;
}

digest hmac_sha256(std::span<const std::byte> key, std::span<const std::byte> data) {
  digest out;
  check(EVP_Q_mac(nullptr, "HMAC", nullptr, "SHA256", nullptr, key.data(), key.size(), raw(data.data()), data.size(),
                  raw(out.data()), out.size(), nullptr) != nullptr,
        "HMAC");
  return out;
}

secret_key derive_key(std::span<const std::byte> secret, std::span<const std::byte> salt, std::string_view purpose,
                      std::span<const std::byte> context) {
  std::vector<std::byte> info(purpose.size() + 1 + context.size());
  const auto text = std::as_bytes(std::span(purpose));
  std::copy(text.begin(), text.end(), info.begin());
  std::copy(context.begin(), context.end(), info.end() - static_cast<std::ptrdiff_t>(context.size()));

  const owned<EVP_KDF, EVP_KDF_free> kind(EVP_KDF_fetch(nullptr, "HKDF", nullptr));
  check(kind != nullptr, "HKDF");
  const owned<EVP_KDF_CTX, EVP_KDF_CTX_free> deriving(EVP_KDF_CTX_new(kind.get()));
  check(deriving != nullptr, "HKDF");
  const auto octets = [](const char* name, std::span<const std::byte> value) {
    return OSSL_PARAM_construct_octet_string(name, const_cast<std::byte*>(value.data()), value.size());
  };
  std::string hash = "SHA256";
  std::array<OSSL_PARAM, 5> how{OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, hash.data(), 0),
                                octets(OSSL_KDF_PARAM_KEY, secret), octets(OSSL_KDF_PARAM_INFO, info),
                                OSSL_PARAM_construct_end(), OSSL_PARAM_construct_end()};
  if (!salt.empty()) how[3] = octets(OSSL_KDF_PARAM_SALT, salt);
  secret_key out;
  check(EVP_KDF_derive(deriving.get(), raw(out.data()), out.size(), how.data()) == 1, "HKDF");
  return out;
}

bool same_secret(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

struct key_exchange::pair {
  key_handle handle;
};

key_exchange::key_exchange() : pair_(std::make_unique<pair>()) {
  pair_->handle.reset(EVP_PKEY_Q_keygen(nullptr, nullptr, "X25519"));
  check(pair_->handle != nullptr, "an X25519 key");
  point_ = point_of(pair_->handle);
}
key_exchange::key_exchange(const secret_key& secret) : pair_(std::make_unique<pair>()) {
  pair_->handle.reset(EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, raw(secret.data()), secret.size()));
  check(pair_->handle != nullptr, "an X25519 key");
  point_ = point_of(pair_->handle);
}
key_exchange::~key_exchange() = default;
key_exchange::key_exchange(key_exchange&&) noexcept = default;
key_exchange& key_exchange::operator=(key_exchange&&) noexcept = default;

std::optional<secret_key> key_exchange::shared_with(const public_point& other) const {
  const key_handle theirs(EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, raw(other.data()), other.size()));
  const key_context deriving(EVP_PKEY_CTX_new(pair_->handle.get(), nullptr));
  check(theirs != nullptr && deriving != nullptr && EVP_PKEY_derive_init(deriving.get()) == 1, "X25519");
  secret_key shared;
  std::size_t bytes = shared.size();
  if (EVP_PKEY_derive_set_peer(deriving.get(), theirs.get()) != 1 ||
      EVP_PKEY_derive(deriving.get(), raw(shared.data()), &bytes) != 1 || bytes != shared.size()) {
    return std::nullopt;
  }
  return shared;
}

struct signing_key::pair {
  key_handle handle;
};

signing_key::signing_key(const secret_key& secret) : pair_(std::make_unique<pair>()) {
  pair_->handle.reset(EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, raw(secret.data()), secret.size()));
  check(pair_->handle != nullptr, "an Ed25519 key");
  point_ = point_of(pair_->handle);
}
signing_key::~signing_key() = default;
signing_key::signing_key(signing_key&&) noexcept = default;
signing_key& signing_key::operator=(signing_key&&) noexcept = default;

signature_bytes signing_key::sign(std::span<const std::byte> data) const {
  const digest_context signing(EVP_MD_CTX_new());
  signature_bytes out;
  std::size_t bytes = out.size();
  check(signing != nullptr && EVP_DigestSignInit(signing.get(), nullptr, nullptr, nullptr, pair_->handle.get()) == 1 &&
            EVP_DigestSign(signing.get(), raw(out.data()), &bytes, raw(data.data()), data.size()) == 1 &&
            bytes == out.size(),
        "Ed25519");
  return out;
}

bool signing_key::has_signed(const public_point& who, std::span<const std::byte> data,
                             const signature_bytes& signature) {
  const key_handle key(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, raw(who.data()), who.size()));
  const digest_context checking(EVP_MD_CTX_new());
  check(key != nullptr && checking != nullptr &&
            EVP_DigestVerifyInit(checking.get(), nullptr, nullptr, nullptr, key.get()) == 1,
        "Ed25519");
  return EVP_DigestVerify(checking.get(), raw(signature.data()), signature.size(), raw(data.data()), data.size()) == 1;
}

struct record_cipher::context {
  cipher_context handle;
};

record_cipher::record_cipher(const secret_key& key, use how) : context_(std::make_unique<context>()) {
  context_->handle.reset(EVP_CIPHER_CTX_new());
  check(context_->handle != nullptr && EVP_CipherInit_ex(context_->handle.get(), EVP_aes_256_gcm(), nullptr,
                                                         raw(key.data()), nullptr, how == use::sealing ? 1 : 0) == 1,
        "AES-256-GCM");
}
record_cipher::~record_cipher() = default;
record_cipher::record_cipher(record_cipher&&) noexcept = default;
record_cipher& record_cipher::operator=(record_cipher&&) noexcept = default;

void record_cipher::seal(std::span<const std::byte> clear, std::span<const std::byte> plain, std::byte* sealed,
                         std::span<std::byte, tag_bytes> tag) {
  begin(clear);
  add(plain, sealed);
  finish(tag);
}

void record_cipher::begin(std::span<const std::byte> clear) {
  const auto nonce = nonce_of(number_++);
  int length = 0;
  check(EVP_CipherInit_ex(context_->handle.get(), nullptr, nullptr, nullptr, nonce.data(), -1) == 1 &&
            EVP_CipherUpdate(context_->handle.get(), nullptr, &length, raw(clear.data()),
                             static_cast<int>(clear.size())) == 1,
        "AES-256-GCM");
}

void record_cipher::add(std::span<const std::byte> in, std::byte* out) {
  if (in.empty()) return;
  int length = 0;
  check(EVP_CipherUpdate(context_->handle.get(), raw(out), &length, raw(in.data()), static_cast<int>(in.size())) == 1,
        "AES-256-GCM");
}

void record_cipher::finish(std::span<std::byte, tag_bytes> tag) {
  int length = 0;
  std::array<unsigned char, tag_bytes> rest{};
  check(EVP_CipherFinal_ex(context_->handle.get(), rest.data(), &length) == 1 &&
            EVP_CIPHER_CTX_ctrl(context_->handle.get(), EVP_CTRL_AEAD_GET_TAG, tag_bytes, tag.data()) == 1,
        "AES-256-GCM");
}

bool record_cipher::open(std::span<const std::byte> clear, std::span<std::byte> bytes,
                         std::span<const std::byte, tag_bytes> tag) {
  begin(clear);
  add(bytes, bytes.data());
  int length = 0;
  std::array<unsigned char, tag_bytes> rest{};
  check(EVP_CIPHER_CTX_ctrl(context_->handle.get(), EVP_CTRL_AEAD_SET_TAG, tag_bytes,
                            const_cast<std::byte*>(tag.data())) == 1,
        "AES-256-GCM");
  return EVP_CipherFinal_ex(context_->handle.get(), rest.data(), &length) == 1;
}

}  // namespace baton
