#pragma once

#include <climits>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <fmt/format.h>
#include <google/protobuf/repeated_field.h>

/// What the codecs of runtime/wire check values with. Each check gives the value back or refuses it.
namespace baton::wire {

inline constexpr std::int64_t tokens_max = INT32_MAX;  ///< positions and token indices have 32 bits
inline constexpr int ranks_max = 65535;                ///< a block's key holds rank and layer in 16 bits
inline constexpr int layers_max = 65536;
inline constexpr std::size_t text_bytes_max = 4096;
inline constexpr int held_jobs_max = 4096;  ///< that a worker or relay holds

/// Where in a message a value stands. Lives on the stack and points at its parent, so that a path costs nothing until a
/// value is refused.
class place {
 public:
  explicit place(std::string_view message) : name_(message) {}
  place operator/(std::string_view field) const { return {this, field, -1}; }
  [[nodiscard]] place item(std::string_view field, int index) const { return {this, field, index}; }

  /// "message assign_shard, field plan.shards[3].rank".
  [[nodiscard]] std::string path() const;

 private:
  place(const place* parent, std::string_view name, int index) : parent_(parent), name_(name), index_(index) {}

  const place* parent_ = nullptr;
  std::string_view name_;
  int index_ = -1;
};

/// Throws fault(bad_input).
[[noreturn]] void refuse(const place& at, const std::string& why);

template <std::integral Number>
Number within(Number value, std::type_identity_t<Number> low, std::type_identity_t<Number> high, const place& at) {
  if (value < low || value > high) refuse(at, fmt::format("{} is not between {} and {}", value, low, high));
  return value;
}

/// An enumeration whose members the schema numbers from 1.
template <typename Enum>
Enum one_of(int number, Enum last, const place& at) {
  return static_cast<Enum>(within(number, 1, static_cast<int>(last) + 1, at) - 1);
}
template <typename Number, typename Enum>
Number number_of(Enum value) {
  return static_cast<Number>(static_cast<int>(value) + 1);
}

inline std::int64_t tokens(std::int64_t value, const place& at) { return within(value, 0, tokens_max, at); }
inline int rank(int value, const place& at) { return within(value, 0, ranks_max - 1, at); }
inline int layer(int value, const place& at) { return within(value, 0, layers_max - 1, at); }
inline std::int64_t byte_count(std::int64_t value, const place& at) { return within(value, 0, INT64_MAX, at); }
double seconds(double value, const place& at);
const std::string& text(const std::string& value, const place& at);
/// Where a process is reached on the data plane: opaque, and as short as a text.
inline const std::string& address(const std::string& value, const place& at) { return text(value, at); }
inline std::int64_t process_number(std::int64_t value, const place& at) { return within(value, 0, INT32_MAX, at); }

using id_list = google::protobuf::RepeatedField<std::int32_t>;
/// Token ids or document indices: none is negative.
std::vector<std::int32_t> ids(const id_list& list, const place& at);
/// Ascending, each once.
std::vector<std::int32_t> layers(const id_list& list, const place& at);
/// At most ids_per_message of them.
std::vector<std::int32_t> piece(const id_list& list, const place& at);

template <typename List, typename Values>
void append(const Values& from, List& to) {
  to.Add(from.begin(), from.end());
}

template <typename Message>
Message parse(std::string_view bytes, const place& at) {
  Message message;
  if (bytes.size() > INT_MAX || !message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    refuse(at, fmt::format("the {} bytes are no such message", bytes.size()));
  }
  return message;
}

/// For std::visit.
template <typename... Lambdas>
struct overloaded : Lambdas... {
  using Lambdas::operator()...;
};
template <typename... Lambdas>
overloaded(Lambdas...) -> overloaded<Lambdas...>;

}  // namespace baton::wire
