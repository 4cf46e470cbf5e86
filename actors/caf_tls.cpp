#include "actors/caf_tls.hpp"

#include <dlfcn.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "kernels/fault.hpp"

extern "C" {

int SSL_read(SSL* connection, void* into, int length) {
  ERR_clear_error();
  std::size_t got = 0;
  return SSL_read_ex(connection, into, static_cast<std::size_t>(length), &got) == 1 ? static_cast<int>(got) : -1;
}

int SSL_write(SSL* connection, const void* from, int length) {
  ERR_clear_error();
  std::size_t put = 0;
  return SSL_write_ex(connection, from, static_cast<std::size_t>(length), &put) == 1 ? static_cast<int>(put) : -1;
}

// CAF has told it before which side it is.
int SSL_accept(SSL* connection) {
  ERR_clear_error();
  return SSL_do_handshake(connection);
}

int SSL_connect(SSL* connection) {
  ERR_clear_error();
  return SSL_do_handshake(connection);
}

}  // extern "C"

namespace baton::actors {

void check_tls_is_mended() {
  const bool ours = dlsym(RTLD_DEFAULT, "SSL_read") == reinterpret_cast<void*>(&SSL_read) &&
                    dlsym(RTLD_DEFAULT, "SSL_accept") == reinterpret_cast<void*>(&SSL_accept);
  if (!ours) throw fault(fault_code::internal, "this program was linked without the mended TLS of actors/caf_tls.cpp");
}

}  // namespace baton::actors
