#include "runtime/security/certificates.hpp"

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "kernels/fault.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const cluster_member coordinator{member_role::coordinator, {}};
const cluster_member west{member_role::node, "west"};
const cluster_member east{member_role::node, "east"};
const cluster_member client{member_role::client, {}};

std::string text_of(const fs::path& file) {
  std::ifstream in(file);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

void expect_refused(const fs::path& file, const std::string& why, const std::function<void()>& body) {
  try {
    body();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const fault& refusal) {
    EXPECT_EQ(refusal.code(), fault_code::bad_input);
    EXPECT_EQ(refusal.where(), file.string());
    EXPECT_THAT(refusal.reason(), HasSubstr(why));
  }
}

struct certificates : testing::Test {
  temporary_directory folder;
  const fs::path directory = folder.path() / "certificates";
};

TEST_F(certificates, are_made_for_every_member_and_readable_by_their_owner_alone) {
  const auto made = make_certificates(directory, {coordinator, west, east, client});
  std::set<std::string> names;
  for (const auto& file : made) {
    names.insert(file.filename().string());
    struct stat what {};
    ASSERT_EQ(stat(file.c_str(), &what), 0);
    EXPECT_EQ(what.st_mode & 0777, 0600u) << file;
  }
  EXPECT_EQ(names,
            (std::set<std::string>{"ca.crt", "ca.key", "coordinator.crt", "coordinator.key", "node-west.crt",
                                   "node-west.key", "node-east.crt", "node-east.key", "client.crt", "client.key"}));
  for (const auto& who : {coordinator, west, east, client}) EXPECT_EQ(cluster_identity(directory, who).who(), who);
}

TEST_F(certificates, that_are_there_stay_and_what_lacks_is_added) {
  static_cast<void>(make_certificates(directory, {coordinator, west}));
  const auto before = text_of(directory / "node-west.key");
  const auto added = make_certificates(directory, {coordinator, west, east});
  EXPECT_EQ(added.size(), 2u);
  EXPECT_EQ(text_of(directory / "node-west.key"), before);
  EXPECT_TRUE(make_certificates(directory, {coordinator, west, east}).empty());
  // The new one is the same cluster's.
  const cluster_identity one(directory, west), other(directory, east);
  EXPECT_EQ(one.signer(other.certificate(), bytes_of("x"), other.sign(bytes_of("x"))), east);
}

TEST_F(certificates, that_are_incomplete_are_refused) {
  static_cast<void>(make_certificates(directory, {coordinator, west}));
  fs::remove(directory / "node-west.key");
  expect_refused(directory / "node-west.key", "is missing beside", [&] { make_certificates(directory, {west}); });
  fs::remove(directory / "node-west.crt");
  fs::remove(directory / "ca.key");
  expect_refused(directory / "ca.key", "is missing beside", [&] { make_certificates(directory, {west}); });
  fs::remove(directory / "ca.crt");
  expect_refused(directory / "ca.crt", "somebody's already", [&] { make_certificates(directory, {coordinator}); });
}

TEST_F(certificates, signatures_tell_who_made_them) {
  static_cast<void>(make_certificates(directory, {coordinator, west, client}));
  const cluster_identity host(directory, coordinator), node(directory, west), user(directory, client);
  const auto what = bytes_of("a fresh challenge");
  EXPECT_EQ(host.signer(node.certificate(), what, node.sign(what)), west);
  EXPECT_EQ(host.signer(user.certificate(), what, user.sign(what)), client);
  EXPECT_EQ(node.signer(host.certificate(), what, host.sign(what)), coordinator);
  EXPECT_FALSE(host.signer(node.certificate(), bytes_of("an old challenge"), node.sign(what)));
  EXPECT_FALSE(host.signer(node.certificate(), what, user.sign(what))) << "a client that says it is a node";
}

TEST_F(certificates, of_another_cluster_prove_nothing) {
  static_cast<void>(make_certificates(directory, {coordinator}));
  const auto elsewhere = folder.path() / "elsewhere";
  static_cast<void>(make_certificates(elsewhere, {coordinator, west}));
  const cluster_identity host(directory, coordinator), foreign(elsewhere, west);
  const auto what = bytes_of("a challenge");
  EXPECT_FALSE(host.signer(foreign.certificate(), what, foreign.sign(what)));
}

TEST_F(certificates, nonsense_in_place_of_a_certificate_proves_nothing) {
  static_cast<void>(make_certificates(directory, {coordinator, west}));
  const cluster_identity host(directory, coordinator), node(directory, west);
  const auto what = bytes_of("a challenge");
  const auto signature = node.sign(what);
  EXPECT_FALSE(host.signer("", what, signature));
  EXPECT_FALSE(host.signer(std::string(1 << 20, 'x'), what, signature));
  EXPECT_FALSE(host.signer(text_of(directory / "node-west.key"), what, signature));
  EXPECT_FALSE(host.signer(node.certificate(), what, std::string(1 << 20, 'x')));
  EXPECT_FALSE(host.signer(node.certificate(), what, ""));
  const auto certificate = node.certificate();
  for (std::size_t at = 0; at < certificate.size(); at += 3) {
    auto changed = certificate;
    changed[at] = changed[at] == 'A' ? 'B' : 'A';
    const auto who = host.signer(changed, what, signature);
    EXPECT_TRUE(!who || *who == west) << at;
  }
}

TEST_F(certificates, that_do_not_fit_are_refused_by_file) {
  static_cast<void>(make_certificates(directory, {coordinator, west, east}));
  expect_refused(directory / "client.crt", "cannot be read", [&] { cluster_identity(directory, client); });

  fs::permissions(directory / "node-east.key", fs::perms::group_read, fs::perm_options::add);
  expect_refused(directory / "node-east.key", "chmod 600", [&] { cluster_identity(directory, east); });
  fs::permissions(directory / "node-east.key", fs::perms::group_read, fs::perm_options::remove);

  fs::copy_file(directory / "node-east.key", directory / "node-west.key", fs::copy_options::overwrite_existing);
  expect_refused(directory / "node-west.key", "not the key of", [&] { cluster_identity(directory, west); });
  fs::copy_file(directory / "node-east.crt", directory / "node-west.crt", fs::copy_options::overwrite_existing);
  expect_refused(directory / "node-west.crt", "for node east, not for node west",
                 [&] { cluster_identity(directory, west); });

  const auto elsewhere = folder.path() / "elsewhere";
  static_cast<void>(make_certificates(elsewhere, {coordinator}));
  fs::copy_file(elsewhere / "ca.crt", directory / "ca.crt", fs::copy_options::overwrite_existing);
  expect_refused(directory / "coordinator.crt", "does not vouch", [&] { cluster_identity(directory, coordinator); });
  std::ofstream(directory / "coordinator.crt") << "nonsense";
  expect_refused(directory / "coordinator.crt", "no certificate", [&] { cluster_identity(directory, coordinator); });
}

TEST_F(certificates, a_members_own_secret_lasts_and_is_its_own) {
  static_cast<void>(make_certificates(directory, {coordinator, west}));
  const auto once = cluster_identity(directory, coordinator).own_secret();
  EXPECT_EQ(once, cluster_identity(directory, coordinator).own_secret());
  EXPECT_NE(once, cluster_identity(directory, west).own_secret());
}

}  // namespace
}  // namespace baton
