#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// A cluster's certificates: its own authority, and a pair of key and certificate for each member. Beyond loopback nobody takes
/// part without one. Files are PEM; keys are ECDSA keys on P-256. Throws fault(bad_input) with the file where one is missing,
/// wrong, or open to others.
namespace baton {

enum class member_role : std::uint8_t { coordinator, node, client };

/// Whom a certificate is for.
struct cluster_member {
  member_role role = member_role::client;
  std::string name;  ///< of a node; others have none

  /// For people: "the coordinator", "node west", "a client".
  [[nodiscard]] std::string text() const;
  /// "coordinator", "node-west", "client": what its files are called before .crt and .key.
  [[nodiscard]] std::string stem() const;

  bool operator==(const cluster_member&) const = default;
};

struct certificate_files {
  std::filesystem::path authority;    ///< ca.crt
  std::filesystem::path certificate;  ///< such as node-west.crt
  std::filesystem::path key;          ///< such as node-west.key
};
[[nodiscard]] certificate_files files_of(const std::filesystem::path& directory, const cluster_member& who);

/// Makes what `directory` lacks: the authority (ca.crt, ca.key), and a pair for each member. What is there stays as it is; a pair of
/// which one half is missing is refused, and so are members' pairs without their authority. Keys are readable by their owner alone.
/// Returns the files that were made.
std::vector<std::filesystem::path> make_certificates(const std::filesystem::path& directory,
                                                     const std::vector<cluster_member>& members);

/// What a member has to prove who it is, and to tell whether others are who they say. Immutable; any thread.
class cluster_identity {
 public:
  /// Reads the member's files and checks them: the key belongs to the certificate and is nobody else's to read, the certificate is
  /// the authority's, still holds, and is for this member.
  cluster_identity(const std::filesystem::path& directory, const cluster_member& who);
  ~cluster_identity();
  cluster_identity(const cluster_identity&) = delete;
  cluster_identity& operator=(const cluster_identity&) = delete;

  [[nodiscard]] const cluster_member& who() const { return who_; }
  [[nodiscard]] const certificate_files& files() const { return files_; }
  /// Its certificate, to be shown to others.
  [[nodiscard]] const std::string& certificate() const { return certificate_; }
  [[nodiscard]] std::string sign(std::span<const std::byte> what) const;
  /// A secret that follows from the member's key, and stays the same as long as that does.
  [[nodiscard]] std::vector<std::byte> own_secret() const;

  /// Whose certificate it is, if it is this cluster's and holds today, and `signature` is that member's under `what`. Whatever
  /// bytes come: they are a stranger's.
  [[nodiscard]] std::optional<cluster_member> signer(const std::string& certificate, std::span<const std::byte> what,
                                                     const std::string& signature) const;

 private:
  struct parts;
  const cluster_member who_;
  const certificate_files files_;
  std::string certificate_;
  std::unique_ptr<parts> parts_;
};

}  // namespace baton
