#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "runtime/wire/codec.hpp"
#include "tests/unit/runtime/wire/drawn_messages.hpp"

/// The six conversations as types, so that a test can go through them and through each one's messages.
namespace baton {

template <typename Variant>
Variant decode(std::string_view bytes) {
  if constexpr (std::is_same_v<Variant, worker_command>) return decode_worker_command(bytes);
  if constexpr (std::is_same_v<Variant, worker_report>) return decode_worker_report(bytes);
  if constexpr (std::is_same_v<Variant, relay_command>) return decode_relay_command(bytes);
  if constexpr (std::is_same_v<Variant, relay_report>) return decode_relay_report(bytes);
  if constexpr (std::is_same_v<Variant, client_request>) return decode_client_request(bytes);
  if constexpr (std::is_same_v<Variant, client_update>) return decode_client_update(bytes);
}

using conversations =
    ::testing::Types<worker_command, worker_report, relay_command, relay_report, client_request, client_update>;

/// Calls `use.operator()<Message>()` for every message of a conversation.
template <typename Variant, std::size_t Index = 0, typename Use>
void for_each_message(const Use& use) {
  if constexpr (Index < std::variant_size_v<Variant>) {
    use.template operator()<std::variant_alternative_t<Index, Variant>>();
    for_each_message<Variant, Index + 1>(use);
  }
}

/// Where `bytes` are refused; empty if they are not.
template <typename Variant>
std::string refused_at(std::string_view bytes) {
  try {
    decode<Variant>(bytes);
    return {};
  } catch (const fault& f) {
    EXPECT_EQ(f.code(), fault_code::bad_input);
    EXPECT_NE(f.reason(), "");
    return f.where();
  }
}
template <typename Variant>
std::string refused_at(const Variant& message) {
  return refused_at<Variant>(std::string_view(encode(message)));
}

}  // namespace baton
