#include "runtime/transport/tcp_records.hpp"

#include <algorithm>
#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "tests/support/message_inbox.hpp"

namespace baton {
namespace {

struct stream_kind {
  std::string name;
  std::optional<secret_key> key;
};

struct tcp_records : testing::TestWithParam<stream_kind> {
  [[nodiscard]] const std::optional<secret_key>& key() const { return GetParam().key; }

  /// All that the queue has, as one stream.
  [[nodiscard]] std::vector<std::byte> written(sending_queue& queue) const {
    std::vector<std::byte> stream;
    record_writer writer(5, key());
    while (writer.fill(queue)) {
      const auto piece = writer.unwritten()[0].empty() ? writer.unwritten()[1] : writer.unwritten()[0];
      const auto part = piece.first(std::max<std::size_t>(1, piece.size() / 2));
      stream.insert(stream.end(), part.begin(), part.end());
      writer.wrote(part.size());
    }
    return stream;
  }
};

/// Gives the reader the stream in pieces of at most `most` bytes. False: it refused.
bool read(record_reader& reader, std::span<const std::byte> stream, std::size_t most) {
  while (!stream.empty()) {
    const auto into = reader.wanted();
    const auto length = std::min({into.size(), stream.size(), most});
    std::memcpy(into.data(), stream.data(), length);
    stream = stream.subspan(length);
    if (!reader.got(length)) return false;
  }
  return true;
}

TEST_P(tcp_records, messages_of_all_sizes_come_out_as_they_went_in) {
  const std::vector<std::size_t> sizes{
      0,     1,       77,      small_payload_max,  small_payload_max + 1, chunk_bytes_max,
      12345, 777'777, 2 << 20, chunk_bytes_max + 1};
  for (const std::size_t most : {std::size_t{1} << 30, std::size_t{1000}, std::size_t{7}}) {
    sending_queue queue;
    for (std::uint32_t i = 0; i < sizes.size(); ++i) queue.put(direct(i, payload_of(sizes[i], i)));
    queue.put(direct(99, nullptr));
    record_reader reader(key());
    const auto stream = written(queue);
    EXPECT_TRUE(queue.empty());
    ASSERT_TRUE(read(reader, stream, most));
    auto came = reader.take_arrived();
    ASSERT_EQ(came.size(), sizes.size() + 1);
    std::ranges::sort(came, {}, [](const auto& a) { return a.what.key.step; });
    for (std::uint32_t i = 0; i < sizes.size(); ++i) {
      EXPECT_EQ(came[i].what.delivery, i + 1);
      ASSERT_NE(came[i].what.payload, nullptr);
      EXPECT_TRUE(came[i].what.payload->bytes == payload_of(sizes[i], i)->bytes) << sizes[i];
    }
    EXPECT_EQ(came.back().what.payload, nullptr);
  }
}

TEST_P(tcp_records, small_messages_go_between_the_chunks_of_a_large_one) {
  sending_queue queue;
  record_writer writer(5, key());
  record_reader reader(key());
  queue.put(direct(1, payload_of(3 << 20, 1)));
  std::vector<std::uint32_t> order;
  std::uint32_t next = 10;
  while (writer.fill(queue)) {
    for (const auto piece : writer.unwritten()) ASSERT_TRUE(read(reader, piece, piece.size()));
    for (const auto piece : writer.unwritten()) writer.wrote(piece.size());
    for (const auto& came : reader.take_arrived()) order.push_back(came.what.key.step);
    if (next < 14) queue.put(direct(next++, payload_of(10, 1)));
  }
  EXPECT_EQ(order, (std::vector<std::uint32_t>{10, 11, 12, 13, 1}));
}

TEST_P(tcp_records, a_large_message_that_is_under_way_is_not_taken_again) {
  sending_queue queue;
  record_writer writer(5, key());
  queue.put(direct(1, payload_of(3 << 20, 1)));
  ASSERT_TRUE(writer.fill(queue));
  queue.put(direct(1, payload_of(3 << 20, 1)));
  queue.put(direct(2, payload_of(3 << 20, 1)));
  queue.put(direct(2, payload_of(3 << 20, 1)));
  do {
    for (const auto piece : writer.unwritten()) writer.wrote(piece.size());
  } while (writer.fill(queue));
  EXPECT_EQ(writer.take_counts().first, 2);
}

/// A reader that refuses, or waits for more, is right; it must not crash, and must not believe a length without the bytes.
TEST_P(tcp_records, streams_that_were_changed_are_refused_or_lead_to_no_harm) {
  std::mt19937_64 random(4);
  for (int round = 0; round < 300; ++round) {
    sending_queue queue;
    for (std::uint32_t i = 0; i < 4; ++i) queue.put(direct(i, payload_of(random() % 2000, i)));
    queue.put(direct(9, payload_of(small_payload_max + 1 + random() % 300'000, 9)));
    auto stream = written(queue);
    switch (round % 4) {
      case 0: stream[random() % stream.size()] ^= static_cast<std::byte>(1 + random() % 255); break;
      case 1: stream.erase(stream.begin() + static_cast<std::ptrdiff_t>(random() % 500)); break;
      case 2: stream.insert(stream.begin() + static_cast<std::ptrdiff_t>(random() % 500), std::byte{0xff}); break;
      default:
        for (auto& b : stream) b = static_cast<std::byte>(random());
    }
    record_reader reader(key());
    const bool well = read(reader, stream, 4096);
    if (key()) {
      const auto came = reader.take_arrived();
      EXPECT_LT(came.size(), 5u) << "sealed, and yet nobody noticed";
      for (const auto& m : came)
        EXPECT_TRUE(m.what.payload->bytes == payload_of(m.what.payload->bytes.size(), m.what.key.step)->bytes);
      if (round % 4 == 3) {
        EXPECT_TRUE(!well || came.empty());
      }
    }
  }
}

TEST_P(tcp_records, lengths_beyond_all_bounds_are_refused_at_once) {
  for (const std::uint32_t head : {0xffffffffU, 0x7fffffffU, 0x80000001U, 0U, 76U}) {
    record_reader reader(key());
    std::array<std::byte, 4> bytes;
    for (std::size_t i = 0; i < 4; ++i) bytes[i] = static_cast<std::byte>(head >> (8 * i));
    EXPECT_FALSE(read(reader, bytes, 4)) << head;
  }
}

INSTANTIATE_TEST_SUITE_P(all, tcp_records,
                         testing::Values(stream_kind{"plain", std::nullopt}, stream_kind{"sealed", secret_key{}}),
                         [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace baton
