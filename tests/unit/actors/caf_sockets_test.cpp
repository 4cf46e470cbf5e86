#include "actors/caf_sockets.hpp"

#include <set>

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace baton::actors {
namespace {

TEST(caf_sockets, no_connection_has_the_number_of_one_that_was_closed_shortly_before) {
  EXPECT_NO_THROW(check_sockets_are_mended());
  const int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in here{};
  here.sin_family = AF_INET;
  here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof here;
  ASSERT_EQ(bind(listening, reinterpret_cast<sockaddr*>(&here), length), 0);
  ASSERT_EQ(listen(listening, 8), 0);
  ASSERT_EQ(getsockname(listening, reinterpret_cast<sockaddr*>(&here), &length), 0);
  std::set<int> numbers;
  for (int i = 0; i < 100; ++i) {
    const int caller = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(connect(caller, reinterpret_cast<sockaddr*>(&here), length), 0);
    const int called = accept(listening, nullptr, nullptr);
    ASSERT_GE(called, 0);
    EXPECT_TRUE(numbers.insert(called).second) << called << " is here again";
    char word = 'x';
    EXPECT_EQ(write(caller, &word, 1), 1);
    EXPECT_EQ(read(called, &word, 1), 1);
    close(called);
    close(caller);
  }
  close(listening);
}

}  // namespace
}  // namespace baton::actors
