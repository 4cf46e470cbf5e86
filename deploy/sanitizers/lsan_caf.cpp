// Linked into every program that uses CAF when AddressSanitizer is on, so that programs which such a program starts have it too.

extern "C" {

// When an actor system ends just as a connection to one of its peers does, CAF 0.17.6 may leave its own broker behind, with what
// only that one reaches. Nothing of ours is reached from there. A TLS handshake that fails leaves its session behind in libcaf_openssl.
const char* __lsan_default_suppressions();
const char* __lsan_default_suppressions() { return "leak:caf::io::basp_broker\nleak:libcaf_openssl\n"; }

// Tests compare what a program writes.
const char* __lsan_default_options();
const char* __lsan_default_options() { return "print_suppressions=0"; }
}
