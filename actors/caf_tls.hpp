#pragma once

namespace baton::actors {

/// CAF 0.17 asks OpenSSL for the reason when a read would block, and does not empty OpenSSL's queue of errors before, which all
/// connections of a thread share: one connection that ends without a word, or a stranger's failed handshake, ends healthy ones.
/// So this program has its own SSL_read, SSL_write, SSL_accept and SSL_connect, which libcaf_openssl finds first and which empty that
/// queue. Throws fault(internal) where it would find others, as it would if the program were linked in some other way.
void check_tls_is_mended();

}  // namespace baton::actors
