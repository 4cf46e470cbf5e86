#include "runtime/security/certificates.hpp"

#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <system_error>

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/fault.hpp"
#include "runtime/security/crypto.hpp"

namespace baton {
namespace {

namespace fs = std::filesystem;

constexpr int authority_days = 20 * 365;
constexpr int member_days = 10 * 365;
constexpr std::size_t pem_bytes_max = 8192;
const std::string name_space = "urn:baton:";

template <class Type, auto Free>
struct freed_by {
  void operator()(Type* what) const noexcept { Free(what); }
};
void free_bio(BIO* what) { BIO_free(what); }
void free_names(GENERAL_NAMES* what) { GENERAL_NAMES_free(what); }
using bio = std::unique_ptr<BIO, freed_by<BIO, free_bio>>;
using key_handle = std::unique_ptr<EVP_PKEY, freed_by<EVP_PKEY, EVP_PKEY_free>>;
using certificate_handle = std::unique_ptr<X509, freed_by<X509, X509_free>>;
using store_handle = std::unique_ptr<X509_STORE, freed_by<X509_STORE, X509_STORE_free>>;
using digest_context = std::unique_ptr<EVP_MD_CTX, freed_by<EVP_MD_CTX, EVP_MD_CTX_free>>;

void check(bool well, const char* what) {
  if (!well) throw fault(fault_code::internal, std::string("OpenSSL failed: ") + what);
}

[[noreturn]] void refuse(const fs::path& file, const std::string& why) {
  throw fault(fault_code::bad_input, why, file.string());
}

const unsigned char* raw(std::span<const std::byte> bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

// ---- PEM ----

bio reading(const std::string& text) {
  bio in(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  check(in != nullptr, "memory");
  return in;
}

std::string written(const std::function<bool(BIO*)>& how) {
  const bio out(BIO_new(BIO_s_mem()));
  check(out != nullptr && how(out.get()), "writing PEM");
  char* text = nullptr;
  const long length = BIO_get_mem_data(out.get(), &text);
  return {text, static_cast<std::size_t>(length)};
}

certificate_handle read_certificate(const std::string& pem) {
  return certificate_handle(PEM_read_bio_X509(reading(pem).get(), nullptr, nullptr, nullptr));
}
key_handle read_key(const std::string& pem) {
  // No pass phrase, and nobody is asked for one.
  const auto none = [](char*, int, int, void*) { return 0; };
  return key_handle(PEM_read_bio_PrivateKey(reading(pem).get(), nullptr, none, nullptr));
}
std::string pem_of(X509* certificate) {
  return written([&](BIO* out) { return PEM_write_bio_X509(out, certificate) == 1; });
}
std::string pem_of(EVP_PKEY* key) {
  return written(
      [&](BIO* out) { return PEM_write_bio_PKCS8PrivateKey(out, key, nullptr, nullptr, 0, nullptr, nullptr) == 1; });
}

// ---- files ----

std::string read_file(const fs::path& file, bool secret) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    refuse(file, fmt::format("it cannot be read ({}); `baton certificates` makes it, and docs/deployment.md says which "
                             "files belong on which host",
                             std::strerror(errno)));
  }
  struct stat what {};
  std::string text(pem_bytes_max, '\0');
  const bool known = ::fstat(fd, &what) == 0;
  const auto got = ::read(fd, text.data(), text.size());
  ::close(fd);
  if (!known || got < 0) refuse(file, "it cannot be read");
  if (secret && (what.st_mode & 077) != 0)
    refuse(file, fmt::format("others may read this key (mode {:03o}); chmod 600 it", what.st_mode & 0777));
  text.resize(static_cast<std::size_t>(got));
  return text;
}

/// Never replaces a file, and leaves none half written.
void write_new_file(const fs::path& file, const std::string& text, mode_t mode) {
  const fs::path draft = file.string() + fmt::format(".{}", ::getpid());
  const int fd = ::open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  bool well = fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && ::fsync(fd) == 0;
  int why = errno;
  if (fd >= 0) ::close(fd);
  if (well && ::link(draft.c_str(), file.c_str()) != 0) {
    well = false;
    why = errno;
  }
  ::unlink(draft.c_str());
  if (!well) refuse(file, fmt::format("it cannot be written ({})", std::strerror(why)));
}

bool is_there(const fs::path& file) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(file, ignored));
}

// ---- certificates ----

key_handle new_key() {
  key_handle key(EVP_EC_gen("P-256"));
  check(key != nullptr, "a key");
  return key;
}

std::string uri_of(const cluster_member& who) {
  switch (who.role) {
    case member_role::coordinator: return name_space + "coordinator";
    case member_role::node: return name_space + "node:" + who.name;
    case member_role::client: return name_space + "client";
  }
  throw fault(fault_code::internal, "no such role");
}

std::optional<cluster_member> member_of(const std::string& uri) {
  const std::string node = name_space + "node:";
  if (uri == name_space + "coordinator") return cluster_member{member_role::coordinator, {}};
  if (uri == name_space + "client") return cluster_member{member_role::client, {}};
  if (uri.starts_with(node) && uri.size() > node.size())
    return cluster_member{member_role::node, uri.substr(node.size())};
  return std::nullopt;
}

/// Whom a certificate is for; nothing where it does not say, or says more than one.
std::optional<cluster_member> member_of(const X509* certificate) {
  const std::unique_ptr<GENERAL_NAMES, freed_by<GENERAL_NAMES, free_names>> names(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  if (!names || sk_GENERAL_NAME_num(names.get()) != 1) return std::nullopt;
  const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), 0);
  if (name->type != GEN_URI) return std::nullopt;
  const auto* text = name->d.uniformResourceIdentifier;
  return member_of(std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                               static_cast<std::size_t>(ASN1_STRING_length(text))));
}

void extend(X509* certificate, X509* issuer, int what, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const std::unique_ptr<X509_EXTENSION, freed_by<X509_EXTENSION, X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, &context, what, value.c_str()));
  check(extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1, "an extension");
}

/// A certificate for `key`, signed by `issuer_key`; its own authority where `issuer` is null.
certificate_handle new_certificate(EVP_PKEY* key, const std::string& title, X509* issuer, EVP_PKEY* issuer_key,
                                   int days) {
  certificate_handle made(X509_new());
  check(made != nullptr && X509_set_version(made.get(), X509_VERSION_3) == 1, "a certificate");
  std::array<unsigned char, 16> serial{};
  check(RAND_bytes(serial.data(), static_cast<int>(serial.size())) == 1, "random bytes");
  serial[0] = static_cast<unsigned char>((serial[0] & 0x7f) | 0x40);
  const std::unique_ptr<BIGNUM, freed_by<BIGNUM, BN_free>> number(
      BN_bin2bn(serial.data(), static_cast<int>(serial.size()), nullptr));
  check(number != nullptr && BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(made.get())) != nullptr,
        "a number");
  // Clocks of hosts differ: it holds from an hour ago.
  X509_gmtime_adj(X509_getm_notBefore(made.get()), -3600);
  X509_time_adj_ex(X509_getm_notAfter(made.get()), days, 0, nullptr);
  X509_NAME* subject = X509_get_subject_name(made.get());
  check(X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(title.data()),
                                   static_cast<int>(title.size()), -1, 0) == 1,
        "a name");
  X509* by = issuer == nullptr ? made.get() : issuer;
  check(X509_set_issuer_name(made.get(), X509_get_subject_name(by)) == 1 && X509_set_pubkey(made.get(), key) == 1,
        "a certificate");
  extend(made.get(), by, NID_subject_key_identifier, "hash");
  extend(made.get(), by, NID_authority_key_identifier, "keyid");
  if (issuer == nullptr) {
    extend(made.get(), by, NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
    extend(made.get(), by, NID_key_usage, "critical,keyCertSign,cRLSign");
    check(X509_sign(made.get(), issuer_key, EVP_sha256()) > 0, "signing");
  }
  return made;
}

certificate_handle new_member_certificate(EVP_PKEY* key, const cluster_member& who, X509* authority,
                                          EVP_PKEY* authority_key) {
  auto made = new_certificate(key, fmt::format("Baton: {}", who.text()), authority, authority_key, member_days);
  extend(made.get(), authority, NID_basic_constraints, "critical,CA:FALSE");
  extend(made.get(), authority, NID_key_usage, "critical,digitalSignature");
  extend(made.get(), authority, NID_ext_key_usage, "serverAuth,clientAuth");
  extend(made.get(), authority, NID_subject_alt_name, "URI:" + uri_of(who));
  check(X509_sign(made.get(), authority_key, EVP_sha256()) > 0, "signing");
  return made;
}

store_handle store_of(X509* authority) {
  store_handle store(X509_STORE_new());
  check(store != nullptr && X509_STORE_add_cert(store.get(), authority) == 1, "a store");
  return store;
}

/// Why it is not this authority's, or does not hold; empty: it is and does.
std::string trouble_with(X509* certificate, X509_STORE* store) {
  const std::unique_ptr<X509_STORE_CTX, freed_by<X509_STORE_CTX, X509_STORE_CTX_free>> verifying(X509_STORE_CTX_new());
  check(verifying != nullptr && X509_STORE_CTX_init(verifying.get(), store, certificate, nullptr) == 1, "verifying");
  if (X509_verify_cert(verifying.get()) == 1) return {};
  return X509_verify_cert_error_string(X509_STORE_CTX_get_error(verifying.get()));
}

}  // namespace

std::string cluster_member::text() const {
  switch (role) {
    case member_role::coordinator: return "the coordinator";
    case member_role::node: return "node " + name;
    case member_role::client: return "a client";
  }
  return {};
}

std::string cluster_member::stem() const {
  switch (role) {
    case member_role::coordinator: return "coordinator";
    case member_role::node: return "node-" + name;
    case member_role::client: return "client";
  }
  return {};
}

certificate_files files_of(const fs::path& directory, const cluster_member& who) {
  return {directory / "ca.crt", directory / (who.stem() + ".crt"), directory / (who.stem() + ".key")};
}

std::vector<fs::path> make_certificates(const fs::path& directory, const std::vector<cluster_member>& members) {
  std::error_code failed;
  if (fs::create_directories(directory, failed)) fs::permissions(directory, fs::perms::owner_all, failed);
  if (failed || !fs::is_directory(directory)) refuse(directory, "this folder cannot be made");

  const auto check_pair = [](const fs::path& certificate, const fs::path& key) {
    if (is_there(certificate) != is_there(key)) {
      const auto& missing = is_there(certificate) ? key : certificate;
      refuse(missing, fmt::format("it is missing beside {}; bring it back, or remove that one too",
                                  (is_there(certificate) ? certificate : key).string()));
    }
    return is_there(key);
  };
  const fs::path authority_file = directory / "ca.crt", authority_key_file = directory / "ca.key";
  const bool has_authority = check_pair(authority_file, authority_key_file);
  std::vector<cluster_member> wanted;
  for (const auto& who : members) {
    const auto files = files_of(directory, who);
    if (!check_pair(files.certificate, files.key)) {
      wanted.push_back(who);
    } else if (!has_authority) {
      refuse(authority_file, fmt::format("it is missing, and {} is somebody's already; choose an empty folder",
                                         files.certificate.string()));
    }
  }

  std::vector<fs::path> made;
  const auto write_pair = [&](const fs::path& certificate_file, X509* certificate, const fs::path& key_file,
                              EVP_PKEY* key) {
    write_new_file(key_file, pem_of(key), 0600);
    write_new_file(certificate_file, pem_of(certificate), 0600);
    made.push_back(certificate_file);
    made.push_back(key_file);
  };
  key_handle authority_key;
  certificate_handle authority;
  if (has_authority) {
    authority = read_certificate(read_file(authority_file, false));
    authority_key = read_key(read_file(authority_key_file, true));
    if (!authority) refuse(authority_file, "this is no certificate");
    if (!authority_key || X509_check_private_key(authority.get(), authority_key.get()) != 1)
      refuse(authority_key_file, "this is not the key of " + authority_file.string());
  } else {
    authority_key = new_key();
    authority = new_certificate(authority_key.get(), "Baton: authority of a cluster", nullptr, authority_key.get(),
                                authority_days);
    write_pair(authority_file, authority.get(), authority_key_file, authority_key.get());
  }
  for (const auto& who : wanted) {
    const auto key = new_key();
    const auto certificate = new_member_certificate(key.get(), who, authority.get(), authority_key.get());
    const auto files = files_of(directory, who);
    write_pair(files.certificate, certificate.get(), files.key, key.get());
  }
  return made;
}

struct cluster_identity::parts {
  key_handle key;
  store_handle store;
};

cluster_identity::cluster_identity(const fs::path& directory, const cluster_member& who)
    : who_(who), files_(files_of(directory, who)), parts_(std::make_unique<parts>()) {
  const auto authority = read_certificate(read_file(files_.authority, false));
  if (!authority) refuse(files_.authority, "this is no certificate");
  certificate_ = read_file(files_.certificate, false);
  const auto own = read_certificate(certificate_);
  if (!own) refuse(files_.certificate, "this is no certificate");
  parts_->key = read_key(read_file(files_.key, true));
  if (!parts_->key || X509_check_private_key(own.get(), parts_->key.get()) != 1)
    refuse(files_.key, "this is not the key of " + files_.certificate.string());
  parts_->store = store_of(authority.get());
  if (const auto trouble = trouble_with(own.get(), parts_->store.get()); !trouble.empty())
    refuse(files_.certificate, fmt::format("{} does not vouch for it: {}", files_.authority.string(), trouble));
  const auto whose = member_of(own.get());
  if (whose != who)
    refuse(files_.certificate, fmt::format("it is for {}, not for {}", whose ? whose->text() : "nobody", who.text()));
}
cluster_identity::~cluster_identity() = default;

std::string cluster_identity::sign(std::span<const std::byte> what) const {
  const digest_context signing(EVP_MD_CTX_new());
  std::size_t length = 0;
  check(signing != nullptr &&
            EVP_DigestSignInit(signing.get(), nullptr, EVP_sha256(), nullptr, parts_->key.get()) == 1 &&
            EVP_DigestSign(signing.get(), nullptr, &length, raw(what), what.size()) == 1,
        "signing");
  std::string signature(length, '\0');
  check(EVP_DigestSign(signing.get(), reinterpret_cast<unsigned char*>(signature.data()), &length, raw(what),
                       what.size()) == 1,
        "signing");
  signature.resize(length);
  return signature;
}

std::vector<std::byte> cluster_identity::own_secret() const {
  const auto pem = pem_of(parts_->key.get());
  const auto key = derive_key(std::as_bytes(std::span(pem)), {}, "baton: a member's own secret");
  return {key.begin(), key.end()};
}

std::optional<cluster_member> cluster_identity::signer(const std::string& certificate, std::span<const std::byte> what,
                                                       const std::string& signature) const {
  if (certificate.size() > pem_bytes_max || signature.size() > 1024) return std::nullopt;
  const auto shown = read_certificate(certificate);
  if (!shown || !trouble_with(shown.get(), parts_->store.get()).empty()) return std::nullopt;
  const digest_context verifying(EVP_MD_CTX_new());
  EVP_PKEY* key = X509_get0_pubkey(shown.get());
  if (key == nullptr || verifying == nullptr ||
      EVP_DigestVerifyInit(verifying.get(), nullptr, EVP_sha256(), nullptr, key) != 1 ||
      EVP_DigestVerify(verifying.get(), reinterpret_cast<const unsigned char*>(signature.data()), signature.size(),
                       raw(what), what.size()) != 1) {
    return std::nullopt;
  }
  return member_of(shown.get());
}

}  // namespace baton
