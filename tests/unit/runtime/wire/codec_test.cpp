#include "runtime/wire/codec.hpp"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "tests/unit/runtime/wire/conversation.hpp"
#include "tests/unit/runtime/wire/drawn_messages.hpp"

namespace baton {
namespace {

template <typename Variant>
struct codec : ::testing::Test {};
TYPED_TEST_SUITE(codec, conversations);

/// Behind std::function, so that RapidCheck is instantiated once and not for every message.
void expect_always(const std::function<void()>& property) { EXPECT_TRUE(rc::check(property)); }

TYPED_TEST(codec, gives_every_message_back_as_it_was) {
  for_each_message<TypeParam>([]<typename Message>() {
    expect_always([] {
      const TypeParam sent = draw<Message>();
      RC_ASSERT(decode<TypeParam>(encode(sent)) == sent);
    });
  });
}

/// Either refuses the bytes or has read something that it would write and read again.
template <typename Variant>
bool reads_or_refuses(const std::string& bytes) {
  try {
    const std::string once = encode(decode<Variant>(bytes));
    // Compared as bytes, because a logit may be no number.
    return encode(decode<Variant>(once)) == once;
  } catch (const fault& f) {
    return f.code() == fault_code::bad_input && f.where().starts_with("message ");
  }
}

TYPED_TEST(codec, reads_or_refuses_any_bytes) {
  const google::protobuf::LogSilencer quiet;
  expect_always([] { RC_ASSERT(reads_or_refuses<TypeParam>(any<std::string>())); });
}

std::string damaged(std::string bytes) {
  const int changes = between(1, 6);
  for (int i = 0; i < changes; ++i) {
    const auto at = between<std::size_t>(0, bytes.size());
    const auto count = std::min(between<std::size_t>(1, 12), bytes.size() - at);
    switch (between(0, 4)) {
      case 0: bytes.replace(at, count, *rc::gen::container<std::string>(count, rc::gen::arbitrary<char>())); break;
      case 1: bytes.erase(at, count); break;
      case 2: bytes.insert(at, any<std::string>()); break;
      case 3: bytes.insert(at, bytes.substr(between<std::size_t>(0, bytes.size()), 64)); break;
      case 4: bytes.insert(at, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"); break;
    }
  }
  return bytes;
}

TYPED_TEST(codec, reads_or_refuses_damaged_messages) {
  const google::protobuf::LogSilencer quiet;
  for_each_message<TypeParam>([]<typename Message>() {
    expect_always([] { RC_ASSERT(reads_or_refuses<TypeParam>(damaged(encode(TypeParam(draw<Message>()))))); });
  });
}

TEST(codec, names_the_conversation_where_bytes_are_no_message_of_it) {
  EXPECT_EQ(refused_at<worker_command>("\xff"), "message worker_command");
  EXPECT_EQ(refused_at<worker_report>("\x0a\x05"), "message worker_report");
  EXPECT_EQ(refused_at<relay_command>("\x0b"), "message relay_command");
  EXPECT_EQ(refused_at<relay_report>("\x0f"), "message relay_report");
  EXPECT_EQ(refused_at<client_request>("\x0a\x80"), "message client_request");
  // A request id that is not UTF-8.
  const google::protobuf::LogSilencer quiet;
  EXPECT_EQ(refused_at<client_request>("\x12\x03\x0a\x01\xff"), "message client_request");
}

TEST(codec, refuses_a_message_of_no_known_kind) {
  for (const std::string_view bytes : {std::string_view(), std::string_view("\xa2\x06\x00", 3)}) {
    EXPECT_EQ(refused_at<worker_command>(bytes), "message worker_command, field kind");
    EXPECT_EQ(refused_at<worker_report>(bytes), "message worker_report, field kind");
    EXPECT_EQ(refused_at<relay_command>(bytes), "message relay_command, field kind");
    EXPECT_EQ(refused_at<relay_report>(bytes), "message relay_report, field kind");
    EXPECT_EQ(refused_at<client_request>(bytes), "message client_request, field kind");
    EXPECT_EQ(refused_at<client_update>(bytes), "message client_update, field kind");
  }
}

TEST(codec, passes_over_fields_that_it_does_not_know) {
  const worker_command sent = release_job{7};
  EXPECT_EQ(decode_worker_command(encode(sent) + std::string("\xa0\x06\x01")), sent);
}

}  // namespace
}  // namespace baton
