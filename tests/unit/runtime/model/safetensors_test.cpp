#include "runtime/model/safetensors.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <csignal>
#include <cstring>
#include <iterator>
#include <limits>
#include <type_traits>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "kernels/fault.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

static_assert(std::is_nothrow_move_constructible_v<safetensors_file>);
static_assert(!std::is_copy_constructible_v<safetensors_file>);

template <class Number>
tensor_view view_of(std::string_view name, tensor_type type, std::vector<std::int64_t> shape,
                    const std::vector<Number>& numbers) {
  return {name, type, std::move(shape), std::as_bytes(std::span(numbers))};
}

template <class Number>
std::vector<Number> numbers_of(const tensor_view& tensor) {
  std::vector<Number> numbers(tensor.bytes.size() / sizeof(Number));
  std::memcpy(numbers.data(), tensor.bytes.data(), tensor.bytes.size());
  return numbers;
}

// The bytes of a file: the length of the header, the header, the data.
std::string file_of(std::string_view header, std::string_view data) {
  const std::uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes.append(header).append(data);
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

template <class Action>
fault fault_of(Action action) {
  try {
    action();
  } catch (const fault& thrown) {
    return thrown;
  }
  return {fault_code::internal, "nothing was refused"};
}

// The reason why a file of these bytes is refused.
std::string refusal(const std::string& bytes) {
  const temporary_directory directory;
  const auto path = directory.write("model.safetensors", bytes);
  const fault refused = fault_of([&] { safetensors_file::open(path); });
  EXPECT_EQ(refused.code(), fault_code::bad_input);
  EXPECT_EQ(refused.where(), path.string());
  return refused.reason();
}

TEST(safetensors, reads_back_what_was_written) {
  const std::vector<std::uint16_t> halves = {1, 2, 3};
  const std::vector<float> singles = {0.5F, -1.25F, 3, 4, 5, 6};
  const std::vector<std::int32_t> small = {-7};
  const std::vector<std::int64_t> wide = {1, -2};
  const std::vector<float> none;
  const tensor_view written[] = {
      view_of("halves", tensor_type::bf16, {3}, halves),   view_of("singles", tensor_type::f32, {2, 1, 3}, singles),
      view_of("scalar", tensor_type::i32, {}, small),      view_of("wide", tensor_type::i64, {1, 2}, wide),
      view_of("empty", tensor_type::f32, {4, 0, 2}, none), view_of("other halves", tensor_type::f16, {3}, halves)};

  const temporary_directory directory;
  const auto path = directory.path() / "out.safetensors";
  write_safetensors(path, written);
  const auto file = safetensors_file::open(path);

  ASSERT_EQ(file.tensors().size(), std::size(written));
  for (const tensor_view& expected : written) {
    const tensor_view& actual = file.at(expected.name);
    EXPECT_EQ(actual.name, expected.name);
    EXPECT_EQ(actual.type, expected.type);
    EXPECT_EQ(actual.shape, expected.shape);
    EXPECT_TRUE(std::ranges::equal(actual.bytes, expected.bytes)) << expected.name;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(actual.bytes.data()) * 8 % bits_of(actual.type), 0U);
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory.path()), {}), 1);
}

// As the Python library writes {"a": [1.5, -2.0] in F32, "b": [[7]] in I64}, with an entry for metadata.
TEST(safetensors, reads_a_file_of_the_python_library) {
  std::string data(16, '\0');
  const std::int64_t b = 7;
  const float a[] = {1.5F, -2.0F};
  std::memcpy(data.data(), &b, sizeof(b));
  std::memcpy(data.data() + 8, a, sizeof(a));
  const temporary_directory directory;
  const auto file = safetensors_file::open(directory.write(
      "python.safetensors",
      file_of(R"({"__metadata__":{"format":"pt"},"b":{"dtype":"I64","shape":[1,1],"data_offsets":[0,8]},)"
              R"("a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}     )",
              data)));
  ASSERT_EQ(file.tensors().size(), 2U);
  EXPECT_EQ(file.tensors()[0].name, "a");
  EXPECT_EQ(numbers_of<float>(file.at("a")), (std::vector<float>{1.5F, -2.0F}));
  EXPECT_EQ(numbers_of<std::int64_t>(file.at("b")), std::vector<std::int64_t>{7});
  EXPECT_EQ(file.at("b").shape, (std::vector<std::int64_t>{1, 1}));
}

TEST(safetensors, reads_a_file_without_tensors) {
  const temporary_directory directory;
  EXPECT_TRUE(safetensors_file::open(directory.write("none", file_of("{}", ""))).tensors().empty());
}

TEST(safetensors, reads_data_that_is_not_aligned) {
  const temporary_directory directory;
  const float value = 2.5F;
  std::string data = "x....";
  std::memcpy(data.data() + 1, &value, sizeof(value));
  const auto file =
      safetensors_file::open(directory.write("odd", file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                                            R"("b":{"dtype":"F32","shape":[],"data_offsets":[1,5]}})",
                                                            data)));
  EXPECT_EQ(to_f32(file.at("b")), std::vector<float>{2.5F});
}

TEST(safetensors, finds_tensors_by_their_whole_name) {
  const temporary_directory directory;
  const auto path = directory.path() / "file";
  const std::vector<float> one = {1};
  const tensor_view written[] = {view_of("layer.1", tensor_type::f32, {1}, one),
                                 view_of("layer.10", tensor_type::f32, {1}, one)};
  write_safetensors(path, written);
  const auto file = safetensors_file::open(path);
  EXPECT_EQ(file.find("layer.10"), &file.tensors()[1]);
  EXPECT_EQ(file.find("layer"), nullptr);
  EXPECT_EQ(file.find("layer.2"), nullptr);
  const fault missing = fault_of([&] { (void)file.at("layer.2"); });
  EXPECT_EQ(missing.where(), path.string());
  EXPECT_EQ(missing.reason(), "tensor \"layer.2\" is missing");
}

TEST(safetensors, views_outlive_a_move_of_the_file) {
  const temporary_directory directory;
  const std::vector<float> numbers = {1, 2, 3};
  const tensor_view written[] = {view_of("x", tensor_type::f32, {3}, numbers)};
  write_safetensors(directory.path() / "file", written);
  auto first = safetensors_file::open(directory.path() / "file");
  const tensor_view& view = first.at("x");
  const safetensors_file second = std::move(first);
  EXPECT_EQ(second.find("x"), &view);
  EXPECT_EQ(view.name, "x");
  EXPECT_EQ(to_f32(view), numbers);
}

TEST(safetensors, converts_every_half_to_the_number_that_it_stands_for) {
  std::vector<std::uint16_t> all(1 << 16);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  const auto converted = to_f32(view_of("all", tensor_type::f16, {1 << 16}, all));
  for (std::size_t i = 0; i < all.size(); ++i) {
    const int exponent = static_cast<int>(i >> 10U & 31U), fraction = static_cast<int>(i & 1023U);
    float expected = 0;
    if (exponent == 31) {
      expected = fraction == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
    } else if (exponent == 0) {
      expected = std::ldexp(static_cast<float>(fraction), -24);
    } else {
      expected = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    }
    EXPECT_EQ(std::signbit(converted[i]), i >= 1U << 15U) << i;
    EXPECT_TRUE(std::isnan(expected) ? std::isnan(converted[i]) : std::abs(converted[i]) == expected) << i;
  }
}

TEST(safetensors, converts_bf16_exactly) {
  const std::vector<std::uint16_t> halves = {0x3f80, 0xc020, 0x0000, 0x0001, 0x7f80};
  EXPECT_EQ(to_f32(view_of("x", tensor_type::bf16, {5}, halves)),
            (std::vector<float>{1, -2.5F, 0, 0x1p-133F, std::numeric_limits<float>::infinity()}));
}

TEST(safetensors, does_not_convert_integers) {
  const std::vector<std::int32_t> numbers = {1, 2};
  const fault refused = fault_of([&] { to_f32(view_of("ids", tensor_type::i32, {2, 1}, numbers)); });
  EXPECT_EQ(refused.reason(), "tensor \"ids\", I32 (2, 1): F32, F16 or BF16 is expected");
}

TEST(safetensors, refuses_damaged_headers) {
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"x":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  const std::string f32 = R"("F32")", data = "01234567";
  const std::string y = R"("y":{"dtype":"F32","shape":[1],"data_offsets":)";
  const struct {
    std::string header, message;
  } cases[] = {
      {"", "damaged header: not JSON at byte 9 of the file"},
      {"{\"x\": nope}", "damaged header: not JSON at byte 16 of the file"},
      {"{\"\xff\": {}}", "damaged header: not JSON at byte 11 of the file"},
      {"{} {}", "damaged header: not JSON at byte 12 of the file"},
      {"[]", "damaged header: not a JSON object"},
      {std::string(1000, '['), "damaged header: nested too deep"},
      {R"({"x":{"dtype":"F32","shape":[[1e999]]}})", "damaged header: nested too deep"},
      {R"({"x":1e999})", "damaged header: a number is out of range"},
      {R"({"__metadata__":{"a":1}})", "damaged header: __metadata__ is not a map of strings"},
      {R"({"__metadata__":"a"})", "damaged header: __metadata__ is not a map of strings"},
      {R"({"x":{},"x":{}})", "damaged header: \"x\" is named twice"},
      {R"({"x":{"dtype":"F32","dtype":"I32"}})", "damaged header: \"dtype\" is named twice"},

      {R"({"x":3})", "tensor \"x\": its entry in the header is not an object"},
      {R"({"x":{}})", "tensor \"x\": its dtype is missing or not a string"},
      {entry("32", "[2]", "[0,8]"), "tensor \"x\": its dtype is missing or not a string"},
      {entry("\"F31\"", "[2]", "[0,8]"), "tensor \"x\": unknown dtype \"F31\""},
      {R"({"x":{"dtype":"F32"}})", "tensor \"x\": its shape is missing or not a list"},
      {entry(f32, "2", "[0,8]"), "tensor \"x\": its shape is missing or not a list"},
      {entry(f32, "[-2]", "[0,8]"), "tensor \"x\": its shape holds something other than sizes"},
      {entry(f32, "[2.0]", "[0,8]"), "tensor \"x\": its shape holds something other than sizes"},
      {entry(f32, "[18446744073709551615]", "[0,8]"), "tensor \"x\": its shape holds something other than sizes"},
      {entry(f32, "[2]", "[0,8,9]"), "tensor \"x\": its data_offsets are missing or not a list of two"},
      {entry(f32, "[2]", "8"), "tensor \"x\": its data_offsets are missing or not a list of two"},
      {entry(f32, "[2]", "[8,0]"), "tensor \"x\": its data_offsets are not an ascending pair of byte positions"},
      {entry(f32, "[2]", "[-8,0]"), "tensor \"x\": its data_offsets are not an ascending pair of byte positions"},
      {entry(f32, "[3]", "[0,12]"),
       "tensor \"x\": its data ends at byte 12 but the file has 8 bytes of data: truncated?"},
      {entry(f32, "[4611686018427387904,4]", "[0,8]"),
       "tensor \"x\": its shape (4611686018427387904, 4) overflows or does not fill whole bytes"},
      {entry("\"F4\"", "[15]", "[0,8]"), "tensor \"x\": its shape (15) overflows or does not fill whole bytes"},
      {entry(f32, "[3]", "[0,8]"), "tensor \"x\": F32 of shape (3) takes 12 bytes, its data_offsets give it 8"},

      {entry(f32, "[1]", "[4,8]"), "tensor \"x\": 4 bytes before its data belong to no tensor"},
      {entry(f32, "[1]", "[0,4]"), "4 bytes after the last tensor belong to no tensor"},
      {R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)" + y + "[4,8]}}",
       "tensor \"y\": its data overlaps another tensor's"},
      {"{}", "8 bytes after the last tensor belong to no tensor"},
  };
  for (const auto& [header, message] : cases) EXPECT_EQ(refusal(file_of(header, data)), message) << header;
}

TEST(safetensors, refuses_lengths_that_no_file_can_have) {
  EXPECT_EQ(refusal(""), "not a safetensors file: 0 bytes have no room for a header");
  EXPECT_EQ(refusal("1234567"), "not a safetensors file: 7 bytes have no room for a header");
  std::string longer = file_of("{}", "");
  longer[0] = 3;
  EXPECT_EQ(refusal(longer), "its header has 3 bytes but the file only 10: truncated?");
  EXPECT_EQ(refusal(std::string(16, '\xff')),
            "not a safetensors file: a header of 18446744073709551615 bytes, 100000000 are allowed");
}

TEST(safetensors, refuses_a_file_that_ends_anywhere_too_early) {
  const temporary_directory directory;
  const std::vector<float> numbers = {1, 2, 3};
  const tensor_view written[] = {view_of("x", tensor_type::f32, {3}, numbers)};
  write_safetensors(directory.path() / "file", written);
  const std::string whole = read_file(directory.path() / "file");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_NE(refusal(whole.substr(0, length)), "nothing was refused") << length;
  }
}

TEST(safetensors, refuses_what_is_no_file) {
  const temporary_directory directory;
  const auto reason = [](const std::filesystem::path& path) {
    return fault_of([&] { safetensors_file::open(path); }).reason();
  };
  EXPECT_EQ(reason(directory.path() / "absent"), "cannot be opened: No such file or directory");
  EXPECT_EQ(reason(directory.path()), "not a file");
  ASSERT_EQ(::mkfifo((directory.path() / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(reason(directory.path() / "pipe"), "not a file");
}

TEST(safetensors, tames_names_in_messages) {
  EXPECT_EQ(refusal(file_of(R"({"\u001b[2J\u00e9":0})", "")),
            "tensor \"\\u001b[2J\\u00e9\": its entry in the header is not an object");
  EXPECT_LT(refusal(file_of("{\"" + std::string(100'000, 'x') + "\":0}", "")).size(), 300U);
}

TEST(safetensors, replaces_a_file_as_a_whole) {
  const temporary_directory directory;
  const auto path = directory.write("file", "something older and longer than what replaces it" + std::string(500, '.'));
  const std::vector<float> numbers = {1, 2, 3};
  const tensor_view written[] = {view_of("x", tensor_type::f32, {3}, numbers)};
  write_safetensors(path, written);
  EXPECT_EQ(to_f32(safetensors_file::open(path).at("x")), numbers);
}

TEST(safetensors, a_failed_write_leaves_the_older_file_and_nothing_else) {
  const temporary_directory directory;
  const auto path = directory.write("file", "older");
  const std::vector<float> numbers(100'000, 1.0F);
  const tensor_view written[] = {view_of("x", tensor_type::f32, {100'000}, numbers)};

  // A limit on the size of files stands for a disk that runs full.
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto signal_before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limited = before;
  limited.rlim_cur = 100'000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limited), 0);
  const fault refused = fault_of([&] { write_safetensors(path, written); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, signal_before);

  EXPECT_EQ(refused.code(), fault_code::out_of_memory);
  EXPECT_EQ(refused.where(), path.string());
  EXPECT_EQ(refused.reason(), "cannot write 400104 bytes: File too large");
  EXPECT_EQ(read_file(path), "older");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory.path()), {}), 1);
}

TEST(safetensors, refuses_to_write_where_it_cannot) {
  const temporary_directory directory;
  const fault absent = fault_of([&] { write_safetensors(directory.path() / "absent" / "file", {}); });
  EXPECT_EQ(absent.code(), fault_code::bad_input);
  EXPECT_EQ(absent.reason(), "cannot write 40 bytes: No such file or directory");
  const fault pipe = fault_of([&] {
    ASSERT_EQ(::mkfifo((directory.path() / "pipe").c_str(), 0600), 0);
    write_safetensors(directory.path() / "pipe", {});
  });
  EXPECT_EQ(pipe.reason(), "is no regular file, so it cannot be replaced");
}

TEST(safetensors, refuses_to_write_what_it_would_not_read) {
  const temporary_directory directory;
  const auto path = directory.path() / "file";
  const std::vector<float> numbers = {1, 2, 3};
  const tensor_view twice[] = {view_of("x", tensor_type::f32, {3}, numbers),
                               view_of("x", tensor_type::f32, {3}, numbers)};
  EXPECT_EQ(fault_of([&] { write_safetensors(path, twice); }).reason(), "tensor \"x\" twice");
  const tensor_view misshapen[] = {view_of("x", tensor_type::f32, {2, 2}, numbers)};
  EXPECT_EQ(fault_of([&] { write_safetensors(path, misshapen); }).reason(),
            "tensor \"x\": 12 bytes do not fit F32 of shape (2, 2)");
  const tensor_view reserved[] = {view_of("__metadata__", tensor_type::f32, {3}, numbers)};
  EXPECT_EQ(fault_of([&] { write_safetensors(path, reserved); }).reason(), "tensor \"__metadata__\" twice");
  EXPECT_FALSE(std::filesystem::exists(path));
}

// One thing that happened to a file: (what, where, to which byte).
using damage = std::tuple<std::uint8_t, std::uint16_t, char>;

void apply(const damage& change, std::string& bytes) {
  const auto& [kind, position, replacement] = change;
  if (bytes.empty()) return;
  std::size_t at = position % bytes.size();
  switch (kind % 6) {
    case 0: bytes[at] = replacement; return;
    case 1: bytes.insert(at, 1, replacement); return;
    case 2: bytes.erase(at, 1); return;
    case 3: bytes.resize(at); return;
    case 4: bytes[at % 8] = replacement; return;  // the header's length
    default:                                      // another digit in a shape or an offset
      at = bytes.find_first_of("0123456789", at);
      if (at != std::string::npos) bytes[at] = static_cast<char>('0' + static_cast<unsigned char>(replacement) % 10);
  }
}

RC_GTEST_PROP(safetensors, loads_or_refuses_a_damaged_file, (const std::vector<damage>& changes)) {
  const std::string valid = file_of(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],)"
                                    R"("data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},)"
                                    R"("c":{"dtype":"U8","shape":[1,1,1],"data_offsets":[32,33]}})",
                                    std::string(33, '\x3f'));
  const temporary_directory directory;
  for (std::size_t i = 0; i < changes.size(); ++i) {
    // Each change is tried alone and together with the next one.
    for (const bool both : {false, true}) {
      std::string bytes = valid;
      apply(changes[i], bytes);
      if (both) apply(changes[(i + 1) % changes.size()], bytes);
      const auto path = directory.write("file", bytes);
      try {
        const auto file = safetensors_file::open(path);
        std::uint64_t header_bytes = 0;
        std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
        std::string expected = bytes.substr(sizeof(header_bytes) + header_bytes), actual;
        for (const tensor_view& tensor : file.tensors()) {
          actual.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
        }
        // Every byte of the data belongs to one tensor; their order is that of the names.
        std::ranges::sort(expected);
        std::ranges::sort(actual);
        RC_ASSERT(actual == expected);
      } catch (const fault&) {
      }
    }
  }
}

}  // namespace
}  // namespace baton
