#include "kernels/backend.hpp"

#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "tests/support/backend_test.hpp"
#include "tests/support/kernel_reference.hpp"
#include "tests/support/reference_arithmetic.hpp"
#include "tests/support/reference_selection.hpp"

/// Every function of the backend against its reference, on each kind of device. Gaps of 8 numbers leave rows that vectors can read,
/// other gaps do not.
namespace baton {
namespace {

BATON_BACKEND_SUITE(backends);

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr std::array<std::int64_t, 9> widths{1, 3, 8, 16, 33, 64, 257, 2048, 9000};

TEST_P(backends, move_memory_and_tell_how_far_they_are) {
  std::vector<int> sent(5000);
  for (std::size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<int>(i);
  std::vector<int> received(sent.size());
  const auto memory = device->allocate(sent.size() * sizeof(int));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory->data()) % 64, 0u);
  const auto pinned = device->allocate_host(sent.size() * sizeof(int));
  const auto before = device->record(*queue);
  std::memcpy(pinned->data(), sent.data(), pinned->bytes());
  device->upload(*queue, memory->data(), pinned->data(), pinned->bytes());
  std::atomic<bool> called = false;
  device->when_done(*queue, [&] { called = true; });
  device->download(*queue, received.data(), memory->data(), pinned->bytes());
  const auto after = device->record(*queue);
  after->wait();
  EXPECT_TRUE(after->reached());
  EXPECT_GE(after->seconds_since(*before), 0.0);
  device->synchronize(*queue);
  EXPECT_EQ(received, sent);
  for (int i = 0; i < 1000 && !called; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(called);
  const auto other = device->make_stream();
  device->wait_for(*other, *after);
  device->synchronize(*other);
  EXPECT_EQ(device->allocate(0)->bytes(), 0u);
}

TEST_P(backends, say_how_much_memory_they_could_not_get) {
  try {
    (void)device->allocate(std::size_t{1} << 60);
    FAIL() << "there are no machines with so much memory";
  } catch (const fault& refused) {
    EXPECT_EQ(refused.code(), fault_code::out_of_memory);
    EXPECT_NE(refused.reason().find("1152921504606846976"), std::string::npos) << refused.what();
  }
}

TEST_P(backends, embed_rows_of_the_table) {
  for (const std::int64_t width : widths) {
    for (const std::int64_t gap : {8, 5}) {
      kernel_buffer table(type(), 11, width, gap);
      table.fill_random(1);
      std::vector<std::int32_t> ids{10, 0, 3, 3, 7};
      kernel_buffer out(type(), 5, width, gap);
      device->embed(*queue, put(table), put(ids), put(out));
      fetch();
      for (std::int64_t row = 0; row < 5; ++row) EXPECT_EQ(out.row(row), table.row(ids[static_cast<std::size_t>(row)]));
      EXPECT_TRUE(out.gaps_untouched());
    }
  }
}

TEST_P(backends, normalise_by_the_root_mean_square) {
  for (const std::int64_t width : widths) {
    for (const std::int64_t gap : {0, 8, 3}) {
      kernel_buffer x(type(), 3, width, gap);
      x.fill_random(2, 3);
      kernel_buffer weight(element_type::f32, 1, width);
      weight.fill_random(3);
      const std::vector<double> wide = weight.row(0);
      const std::vector<float> narrow(wide.begin(), wide.end());
      std::vector<std::vector<double>> exact;
      for (std::int64_t row = 0; row < 3; ++row) exact.push_back(reference::rms_normed(x.row(row), narrow, 1e-5));
      kernel_buffer out(type(), 3, width, gap);
      const matrix in = put(x);
      const auto* const factors = static_cast<const float*>(put(weight).data);
      device->rms_norm(*queue, in, factors, 1e-5f, put(out));
      device->rms_norm(*queue, in, factors, 1e-5f, in);
      fetch();
      for (std::int64_t row = 0; row < 3; ++row) {
        expect_close(out, row, 0, exact[static_cast<std::size_t>(row)]);
        EXPECT_EQ(x.row(row), out.row(row)) << "in place";
      }
      EXPECT_TRUE(out.gaps_untouched());
    }
  }
}

TEST_P(backends, gate_with_silu) {
  for (const std::int64_t width : widths) {
    kernel_buffer gate_up(type(), 3, 2 * width, width % 2 == 0 ? 8 : 3);
    gate_up.fill_random(4, 4);
    gate_up.set(0, 0, -1e30);
    gate_up.set(1, 0, -100);
    kernel_buffer out(type(), 3, width, 8);
    kernel_buffer silu = kernel_buffer(type(), 3, 2 * width, 1);
    for (std::int64_t row = 0; row < 3; ++row) {
      for (std::int64_t i = 0; i < 2 * width; ++i) silu.set(row, i, gate_up.at(row, i));
    }
    const auto exact_silu = [](double x) { return x < -700 ? 0 : reference::silu(x); };
    device->swiglu(*queue, put(gate_up), put(out));
    device->silu(*queue, put(silu));
    fetch();
    for (std::int64_t row = 0; row < 3; ++row) {
      std::vector<double> gated;
      std::vector<double> plain;
      for (std::int64_t i = 0; i < width; ++i)
        gated.push_back(exact_silu(gate_up.at(row, i)) * gate_up.at(row, width + i));
      for (std::int64_t i = 0; i < 2 * width; ++i) plain.push_back(exact_silu(gate_up.at(row, i)));
      expect_close(out, row, 0, gated);
      expect_close(silu, row, 0, plain);
    }
    EXPECT_TRUE(out.gaps_untouched());
    EXPECT_TRUE(silu.gaps_untouched());
  }
}

TEST_P(backends, copy_between_all_types_and_strides) {
  for (const std::int64_t width : widths) {
    for (const element_type from_type : {element_type::f32, element_type::bf16}) {
      for (const element_type to_type : {element_type::f32, element_type::bf16}) {
        for (const std::int64_t gap : {0, 3, 8}) {
          kernel_buffer from(from_type, 4, width, gap);
          from.fill_random(6);
          kernel_buffer to(to_type, 4, width, gap);
          kernel_buffer exact(to_type, 4, width);
          for (std::int64_t row = 0; row < 4; ++row) {
            for (std::int64_t i = 0; i < width; ++i) exact.set(row, i, from.at(row, i));
          }
          device->copy(*queue, put(from), put(to));
          fetch();
          for (std::int64_t row = 0; row < 4; ++row) ASSERT_EQ(to.row(row), exact.row(row));
          EXPECT_TRUE(to.gaps_untouched());
        }
      }
    }
  }
}

TEST_P(backends, turn_heads_to_their_positions) {
  std::vector<std::int32_t> positions{5, 0, 99, 98, 1};
  for (const int dim : {2, 6, 32, 34, 64, 128, 130}) {
    for (const std::int64_t gap : {8, 7}) {
      const int heads = 3;
      std::vector<float> frequencies;
      for (int i = 0; i < dim / 2; ++i) {
        frequencies.push_back(1 / std::pow(10000.0f, static_cast<float>(2 * i) / static_cast<float>(dim)));
      }
      kernel_buffer cosines(element_type::f32, 100, dim / 2, 3);
      kernel_buffer sines(element_type::f32, 100, dim / 2, 3);
      kernel_buffer x(type(), 5, std::int64_t{heads} * dim, gap);
      x.fill_random(1);
      std::vector<std::vector<double>> exact;
      for (std::int64_t token = 0; token < 5; ++token) {
        for (int head = 0; head < heads; ++head) {
          exact.push_back(reference::rotated(x.part(token, std::int64_t{head} * dim, dim),
                                             positions[static_cast<std::size_t>(token)], frequencies));
        }
      }
      const rope_table table{put(cosines), put(sines)};
      device->fill_rope_table(*queue, frequencies, 1, table);
      device->rotate(*queue, put(x, heads), put(positions), table);
      fetch();
      for (std::int64_t token = 0; token < 5; ++token) {
        for (int head = 0; head < heads; ++head) {
          expect_close(x, token, std::int64_t{head} * dim, exact[static_cast<std::size_t>(token * heads + head)], 1e-6);
        }
      }
      EXPECT_TRUE(x.gaps_untouched());
      EXPECT_TRUE(cosines.gaps_untouched());
    }
  }
}

TEST_P(backends, store_turned_keys_and_values_as_turning_and_copying_would) {
  std::vector<std::int32_t> positions{5, 0, 99, 98, 1, 7};
  std::vector<std::int32_t> first_row{2};
  for (const int dim : {2, 6, 64, 128, 130}) {
    for (const std::int64_t skip : {0, 2, 6}) {
      for (const bool row_on_device : {false, true}) {
        const int heads = 4;
        const int kv_heads = 2;
        const std::int64_t tokens = 6;
        std::vector<float> frequencies;
        for (int i = 0; i < dim / 2; ++i) frequencies.push_back(1 / static_cast<float>(1 + i));
        kernel_buffer cosines(element_type::f32, 100, dim / 2);
        kernel_buffer sines(element_type::f32, 100, dim / 2);
        kernel_buffer rows(type(), tokens, std::int64_t{heads + 2 * kv_heads} * dim, 8);
        kernel_buffer plain(type(), tokens, std::int64_t{heads + 2 * kv_heads} * dim, 8);
        rows.fill_random(3);
        plain.fill_random(3);
        kernel_buffer keys(type(), 9, std::int64_t{kv_heads} * dim, dim % 8 == 0 ? 8 : 3);
        kernel_buffer values(type(), 9, std::int64_t{kv_heads} * dim, 5);
        keys.fill(-3);
        values.fill(-4);
        const rope_table table{put(cosines), put(sines)};
        device->fill_rope_table(*queue, frequencies, 1, table);
        const std::int32_t* const where = put(positions);
        const auto part = [&](const matrix& whole, int first, int count) {
          return as_heads(whole, std::int64_t{first} * dim, count, dim);
        };
        device->rotate(*queue, part(put(plain), 0, heads + kv_heads), where, table);
        const matrix fused = put(rows);
        device->rotate_and_store(*queue, part(fused, 0, heads + kv_heads), part(fused, heads + kv_heads, kv_heads),
                                 where, table, skip,
                                 {.keys = put(keys, kv_heads),
                                  .values = put(values, kv_heads),
                                  .first = row_on_device ? 0 : 2,
                                  .first_at = row_on_device ? put(first_row) : nullptr});
        fetch();
        for (std::int64_t token = 0; token < tokens; ++token) ASSERT_EQ(rows.row(token), plain.row(token)) << token;
        const std::int64_t width = std::int64_t{kv_heads} * dim;
        for (std::int64_t row = 0; row < 9; ++row) {
          const std::int64_t token = row - 2 + skip;
          const bool stored = row >= 2 && token < tokens;
          ASSERT_EQ(keys.row(row), stored ? plain.part(token, std::int64_t{heads} * dim, width)
                                          : std::vector<double>(static_cast<std::size_t>(width), -3))
              << "row " << row << " of dim " << dim << ", skip " << skip;
          ASSERT_EQ(values.row(row), stored ? plain.part(token, std::int64_t{heads + kv_heads} * dim, width)
                                            : std::vector<double>(static_cast<std::size_t>(width), -4));
        }
        EXPECT_TRUE(rows.gaps_untouched());
        EXPECT_TRUE(keys.gaps_untouched());
        EXPECT_TRUE(values.gaps_untouched());
      }
    }
  }
}

TEST_P(backends, launch_again_what_was_captured_with_what_stands_in_memory_then) {
  kernel_buffer table(type(), 11, 64, 8);
  table.fill_random(1);
  kernel_buffer out(type(), 2, 64, 8);
  out.fill(0);
  std::vector<std::int32_t> ids{10, 4};
  const matrix from = put(table);
  std::int32_t* const which = put(ids);
  const matrix to = put(out);
  const auto graph = device->capture(*queue, [&] { device->embed(*queue, from, which, to); });
  EXPECT_EQ(graph == nullptr, device->computes_on_host());
  if (!graph) return fetch();
  const std::vector<std::int32_t> others{3, 7};
  device->upload(*queue, which, others.data(), 2 * sizeof(std::int32_t));
  device->synchronize(*queue);
  device->launch(*queue, *graph);
  fetch();
  EXPECT_EQ(out.row(0), table.row(3));
  EXPECT_EQ(out.row(1), table.row(7));
  EXPECT_THROW((void)device->capture(*queue, [] { throw fault(fault_code::internal, "in the middle"); }), fault);
  device->synchronize(*queue);  // the stream is as before
}

TEST_P(backends, hold_cosine_and_sine_of_the_fp32_angle_at_far_positions) {
  const std::vector<float> frequencies{1.0f, 0.5f, 0.1234567f, 0.01f, 1e-4f};
  kernel_buffer cosines(element_type::f32, 140'003, 5, 1);
  kernel_buffer sines(element_type::f32, 140'003, 5, 1);
  device->fill_rope_table(*queue, frequencies, 1.25f, {put(cosines), put(sines)});
  fetch();
  for (std::int64_t position = 0; position < 140'003; position += position < 1000 ? 1 : 997) {
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
      const auto angle = static_cast<double>(static_cast<float>(position) * frequencies[i]);
      const auto column = static_cast<std::int64_t>(i);
      ASSERT_NEAR(cosines.at(position, column), 1.25 * std::cos(angle), 1.6e-7) << position << ' ' << column;
      ASSERT_NEAR(sines.at(position, column), 1.25 * std::sin(angle), 1.6e-7) << position << ' ' << column;
    }
  }
}

struct linear_sizes {
  std::int64_t rows;
  std::int64_t inputs;
  std::int64_t outputs;
  std::int64_t gap;
};

host_matrix host(kernel_buffer& weights) {
  const matrix view = weights.view();
  return {view.data, view.type == element_type::f32 ? host_type::f32 : host_type::bf16, view.rows, view.columns};
}

TEST_P(backends, multiply_add_a_bias_and_accumulate) {
  for (const linear_sizes& s : {linear_sizes{1, 1, 1, 3},
                                {1, 64, 300, 8},
                                {1, 4096, 2200, 8},
                                {1, 2056, 40, 8},
                                {1, 14336, 70, 8},
                                {1, 16392, 9, 8},
                                {1, 8, 3000, 8},
                                {2, 4096, 17, 8},
                                {3, 256, 1000, 0},
                                {4, 72, 8, 8},
                                {5, 31, 7, 3},
                                {37, 64, 257, 8},
                                {64, 1024, 8, 8},
                                {256, 80, 256, 8},
                                {290, 77, 513, 3},
                                {33, 1001, 130, 5},
                                {129, 520, 264, 8}}) {
    kernel_buffer x(type(), s.rows, s.inputs, s.gap);
    kernel_buffer weights(type(), s.outputs, s.inputs);
    kernel_buffer bias(element_type::f32, 1, s.outputs);
    x.fill_random(1);
    weights.fill_random(2);
    bias.fill_random(4);
    std::vector<std::vector<double>> exact;
    for (std::int64_t row = 0; row < s.rows; ++row) {
      const auto numbers = x.row(row);
      exact.emplace_back();
      for (std::int64_t output = 0; output < s.outputs; ++output) {
        exact.back().push_back(reference::dot(numbers, weights.row(output)));
      }
    }
    const auto packed = device->pack(std::array{host(weights)}, {});
    EXPECT_EQ(packed->bytes(), device->packed_bytes(s.outputs, s.inputs));
    for (const element_type out_type : {type(), element_type::f32}) {
      for (const bool accumulate : {false, true}) {
        for (const bool with_bias : {false, true}) {
          SCOPED_TRACE(testing::Message()
                       << s.rows << " x " << s.inputs << " x " << s.outputs << ", accumulate " << accumulate
                       << ", bias " << with_bias << ", fp32 " << (out_type == element_type::f32));
          kernel_buffer out(out_type, s.rows, s.outputs, s.gap);
          kernel_buffer before(out_type, s.rows, s.outputs);
          out.fill_random(3);
          before.fill_random(3);
          const float* const bias_at = with_bias ? static_cast<const float*>(put(bias).data) : nullptr;
          device->linear(*queue, put(x), *packed, bias_at, put(out), accumulate);
          fetch();
          for (std::int64_t row = 0; row < s.rows; ++row) {
            for (std::int64_t column = 0; column < s.outputs; ++column) {
              double expected = exact[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)];
              if (with_bias) expected += bias.at(0, column);
              // cuBLASLt was seen to round the product before it adds it.
              const double allowed =
                  on_gpu() && accumulate && out_type == element_type::bf16 ? std::ldexp(std::abs(expected), -8) : 0;
              if (accumulate) expected += before.at(row, column);
              // What rounding adds up to in fp32 grows with the root of the number of terms.
              const double fp32_error = 1e-4 * std::sqrt(std::max(1.0, static_cast<double>(s.inputs) / 1024));
              ASSERT_NEAR(out.at(row, column), expected, allowed_error(out_type, expected, fp32_error) + allowed)
                  << "row " << row << ", column " << column;
            }
          }
          EXPECT_TRUE(out.gaps_untouched());
        }
      }
    }
  }
}

TEST_P(backends, pack_parts_of_any_type_under_one_another) {
  const std::int64_t inputs = 41;
  std::vector<std::uint16_t> halves;
  kernel_buffer of_halves(type(), 30, inputs);
  for (std::int64_t i = 0; i < 30 * inputs; ++i) {
    const auto exponent = static_cast<int>(i % 21);
    const auto fraction = static_cast<int>(i * 37 % 1024) & ~15;  // what bf16 holds too
    const float magnitude = exponent == 0 ? 0.0f : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    halves.push_back(static_cast<std::uint16_t>((i % 2) << 15 | exponent << 10 | (exponent == 0 ? 0 : fraction)));
    of_halves.set(i / inputs, i % inputs, i % 2 == 0 ? magnitude : -magnitude);
  }
  kernel_buffer exact(element_type::f32, 300, inputs);
  kernel_buffer brief(element_type::bf16, 2100, inputs);
  exact.fill_random(5);
  brief.fill_random(6);
  kernel_buffer rounded(type(), 300, inputs);
  for (std::int64_t row = 0; row < 300; ++row) {
    for (std::int64_t i = 0; i < inputs; ++i) rounded.set(row, i, exact.at(row, i));
  }
  std::size_t heard = 0;
  const auto packed =
      device->pack(std::array{host_matrix{halves.data(), host_type::f16, 30, inputs}, host(exact), host(brief)},
                   [&](std::span<const std::byte> bytes) { heard += bytes.size(); });
  EXPECT_EQ(packed->outputs(), 2430);
  EXPECT_EQ(heard, halves.size() * 2 + exact.bytes().size() + brief.bytes().size());
  kernel_buffer x(type(), 2, inputs);
  x.fill_random(7);
  kernel_buffer out(element_type::f32, 2, 2430);
  device->linear(*queue, put(x), *packed, nullptr, put(out), false);
  fetch();
  for (std::int64_t row = 0; row < 2; ++row) {
    for (std::int64_t i = 0; i < 2430; ++i) {
      const auto weights = i < 30 ? of_halves.row(i) : i < 330 ? rounded.row(i - 30) : brief.row(i - 330);
      ASSERT_NEAR(out.at(row, i), reference::dot(x.row(row), weights), 1e-3) << i;
    }
  }
}

// ---- attention ----

struct attention_sizes {
  std::int64_t queries;
  int heads;
  int kv_heads;
  int dim;
  std::int64_t keys;
  std::int64_t first_query = -1;  ///< causal
  std::int64_t gap = 8;
};

/// Random queries, keys and values as they stand in a fused projection.
struct attention_inputs {
  attention_inputs(element_type type, const attention_sizes& of, double deviation = 1)
      : s(of),
        q(type, s.queries, std::int64_t{s.heads} * s.dim, s.gap),
        keys(type, s.keys, std::int64_t{s.kv_heads} * s.dim, s.gap),
        values(type, s.keys, std::int64_t{s.kv_heads} * s.dim, s.gap) {
    q.fill_random(1, deviation);
    keys.fill_random(2, deviation);
    values.fill_random(3);
  }
  [[nodiscard]] attention_mask mask() const {
    return {.causal = s.first_query >= 0, .keys = s.keys, .first_query = std::max<std::int64_t>(s.first_query, 0)};
  }
  /// `first_key`, `end_key`: of the keys only these.
  [[nodiscard]] reference::attention_result_of_one exact(std::int64_t query, int head, double scale) const {
    const int kv_head = head / (s.heads / s.kv_heads);
    const std::int64_t seen = s.first_query >= 0 ? std::min(s.keys, s.first_query + query + 1) : s.keys;
    std::vector<reference::row> seen_keys;
    std::vector<reference::row> seen_values;
    for (std::int64_t key = 0; key < seen; ++key) {
      seen_keys.push_back(keys.part(key, std::int64_t{kv_head} * s.dim, s.dim));
      seen_values.push_back(values.part(key, std::int64_t{kv_head} * s.dim, s.dim));
    }
    return reference::attention_of(q.part(query, std::int64_t{head} * s.dim, s.dim), seen_keys, seen_values, scale);
  }

  attention_sizes s;
  kernel_buffer q;
  kernel_buffer keys;
  kernel_buffer values;
};

void expect_attention(const attention_inputs& in, const kernel_buffer& out, const kernel_buffer& lse, double scale,
                      double error, double lse_error, std::int64_t step) {
  for (std::int64_t query = 0; query < in.s.queries; query += step) {
    for (int head = 0; head < in.s.heads; ++head) {
      const auto exact = in.exact(query, head, scale);
      const auto got = out.part(query, std::int64_t{head} * in.s.dim, in.s.dim);
      for (std::size_t i = 0; i < got.size(); ++i) {
        ASSERT_NEAR(got[i], exact.out[i], error) << "query " << query << ", head " << head << ", number " << i;
      }
      if (exact.log_sum_exp == -infinity) {
        ASSERT_EQ(lse.at(query, head), -infinity);
      } else {
        ASSERT_NEAR(lse.at(query, head), exact.log_sum_exp, lse_error * (1 + std::abs(exact.log_sum_exp)))
            << "query " << query << ", head " << head;
      }
    }
  }
}

TEST_P(backends, attend_to_blocks_of_all_sizes) {
  constexpr float scale = 0.2f;
  for (const attention_sizes& s : {attention_sizes{1, 1, 1, 8, 1},
                                   {3, 4, 2, 16, 5},
                                   {40, 3, 1, 80, 130},
                                   {65, 2, 2, 32, 512},
                                   {17, 4, 4, 64, 513},
                                   {20, 2, 1, 24, 1100, -1, 3},
                                   {33, 2, 2, 16, 40, 7},
                                   {70, 2, 1, 40, 70, 0, 5},
                                   {100, 2, 1, 96, 130, 30},
                                   {130, 2, 1, 256, 160, 30},
                                   // What cuDNN takes where there is one, and sizes that are no multiple of its tiles.
                                   {300, 4, 1, 128, 700},
                                   {300, 4, 1, 128, 300, 0},
                                   {260, 4, 2, 64, 901, 641},
                                   {257, 8, 2, 128, 1030, 773},
                                   {129, 4, 4, 128, 256},
                                   {512, 4, 1, 128, 1024, 512}}) {
    SCOPED_TRACE(testing::Message() << s.queries << " queries from " << s.first_query << ", " << s.keys << " keys, dim "
                                    << s.dim);
    attention_inputs in(type(), s);
    kernel_buffer out(type(), s.queries, std::int64_t{s.heads} * s.dim, 8);
    kernel_buffer lse(element_type::f32, s.queries, s.heads, 3);
    kv_panel panel{room(device->panel_bytes(s.keys, s.kv_heads, s.dim)), s.keys, s.kv_heads, s.dim, {}, {}};
    const head_matrix keys = put(in.keys, s.kv_heads);
    const head_matrix values = put(in.values, s.kv_heads);
    const std::int64_t tile = device->panel_tile_tokens();
    const std::int64_t cut = s.keys / 2 / tile * tile;  // in two pieces where tiles allow it
    if (cut > 0) device->pack_panel(*queue, keys.slice(0, cut), values.slice(0, cut), panel, 0);
    device->pack_panel(*queue, keys.slice(cut, s.keys - cut), values.slice(cut, s.keys - cut), panel, cut);
    const head_matrix q = put(in.q, s.heads);
    const head_matrix result = put(out, s.heads);
    device->prepare_attend(q, panel, in.mask(), result);
    device->attend(*queue, q, panel, in.mask(), scale, result, put(lse), attention_result::replace);
    fetch();
    const bool exactly = type() == element_type::f32;
    expect_attention(in, out, lse, static_cast<double>(scale), exactly ? 1e-5 : 2e-2, exactly ? 1e-5 : 5e-5,
                     s.queries > 100 ? 7 : 1);
    if (HasFatalFailure()) return;
    EXPECT_TRUE(out.gaps_untouched());
    EXPECT_TRUE(lse.gaps_untouched());
  }
}

TEST_P(backends, merge_attention_over_two_halves_into_the_whole) {
  constexpr float scale = 0.2f;
  for (const attention_sizes& s : {attention_sizes{70, 4, 2, 32, 1000}, {300, 4, 1, 128, 900}, {160, 2, 2, 64, 700}}) {
    for (const std::int64_t cut : {std::int64_t{1}, std::int64_t{300}, s.keys - 1}) {
      attention_inputs in(type(), s);
      kernel_buffer out(type(), s.queries, std::int64_t{s.heads} * s.dim, 8);
      kernel_buffer lse(element_type::f32, s.queries, s.heads, 3);
      const head_matrix keys = put(in.keys, s.kv_heads);
      const head_matrix values = put(in.values, s.kv_heads);
      const head_matrix q = put(in.q, s.heads);
      const head_matrix result = put(out, s.heads);
      const matrix sums = put(lse);
      const auto half = [&](std::int64_t first, std::int64_t end, attention_result how) {
        kv_panel panel{
            room(device->panel_bytes(end - first, s.kv_heads, s.dim)), end - first, s.kv_heads, s.dim, {}, {}};
        device->pack_panel(*queue, keys.slice(first, end - first), values.slice(first, end - first), panel, 0);
        device->attend(*queue, q, panel, {.keys = end - first}, scale, result, sums, how);
        device->attend(*queue, q, panel, {.keys = 0}, scale, result, sums, attention_result::merge);  // nothing
      };
      half(0, cut, attention_result::replace);
      half(cut, s.keys, attention_result::merge);
      fetch();
      const bool exactly = type() == element_type::f32;
      expect_attention(in, out, lse, static_cast<double>(scale), exactly ? 1e-5 : 2e-2, exactly ? 1e-5 : 5e-5, 13);
      if (HasFatalFailure()) return;
      EXPECT_TRUE(out.gaps_untouched());
    }
  }
}

TEST_P(backends, give_zero_and_minus_infinity_without_keys) {
  attention_inputs in(type(), {300, 2, 1, 64, 1});
  kernel_buffer out(type(), 300, 128);
  kernel_buffer lse(element_type::f32, 300, 2);
  out.fill(7);
  const kv_panel panel{nullptr, 0, 1, 64, {}, {}};
  device->attend(*queue, put(in.q, 2), panel, {}, 0.3f, put(out, 2), put(lse), attention_result::replace);
  fetch();
  for (std::int64_t query = 0; query < 300; ++query) {
    ASSERT_EQ(out.row(query), std::vector<double>(128, 0.0));
    ASSERT_EQ(lse.row(query), std::vector<double>(2, -infinity));
  }
}

TEST_P(backends, stay_finite_with_scores_that_leave_one_key) {
  for (const attention_sizes& s : {attention_sizes{70, 1, 1, 64, 700, 630}, {200, 2, 1, 128, 700, 500}}) {
    attention_inputs in(type(), s, 40);  // scores of some ten thousand
    kernel_buffer out(type(), s.queries, std::int64_t{s.heads} * s.dim, 8);
    kernel_buffer lse(element_type::f32, s.queries, s.heads);
    kv_panel panel{room(device->panel_bytes(s.keys, s.kv_heads, s.dim)), s.keys, s.kv_heads, s.dim, {}, {}};
    device->pack_panel(*queue, put(in.keys, s.kv_heads), put(in.values, s.kv_heads), panel, 0);
    device->attend(*queue, put(in.q, s.heads), panel, in.mask(), 0.3f, put(out, s.heads), put(lse),
                   attention_result::replace);
    fetch();
    expect_attention(in, out, lse, static_cast<double>(0.3f), 0.06, 1e-5, 3);
  }
}

TEST_P(backends, attend_with_few_queries_to_many_keys) {
  for (const attention_sizes& s : {attention_sizes{1, 4, 2, 64, 1000},
                                   {1, 1, 1, 1, 5},
                                   {1, 3, 1, 20, 63},
                                   {2, 5, 5, 32, 64},
                                   {3, 2, 1, 72, 65},
                                   {1, 8, 2, 128, 5000},
                                   {1, 2, 1, 33, 1024, -1, 5},
                                   {17, 4, 2, 16, 1025},
                                   {2, 6, 2, 8, 2500},
                                   {70, 4, 1, 128, 900},
                                   {5, 4, 2, 12, 5, 0},
                                   {7, 3, 1, 32, 1030, 1023},
                                   {35, 2, 1, 8, 40, 5},
                                   {64, 8, 2, 128, 600, 536}}) {
    SCOPED_TRACE(testing::Message() << s.queries << " queries from " << s.first_query << ", " << s.keys << " keys, dim "
                                    << s.dim);
    attention_inputs in(type(), s);
    kernel_buffer out(element_type::f32, s.queries, std::int64_t{s.heads} * s.dim, 1);
    kernel_buffer lse(element_type::f32, s.queries, s.heads, 4);
    const float scale = 1 / std::sqrt(static_cast<float>(s.dim));
    std::byte* const workspace = room(device->decode_attention_workspace_bytes(s.keys, s.heads, s.dim));
    device->attend_few(*queue, put(in.q, s.heads), put(in.keys, s.kv_heads), put(in.values, s.kv_heads), in.mask(),
                       scale, put(out, s.heads), put(lse), workspace);
    fetch();
    const auto expect_right = [&] {
      expect_attention(in, out, lse, static_cast<double>(scale), on_gpu() ? 1e-4 : 3e-5, 1e-5, 1);
      EXPECT_TRUE(out.gaps_untouched());
      EXPECT_TRUE(lse.gaps_untouched());
    };
    expect_right();
    if (HasFatalFailure()) return;
    {
      // The same with keys that may be read while the launch before this one still writes the queries.
      std::vector<std::int32_t> rows(static_cast<std::size_t>(s.queries));
      std::iota(rows.begin(), rows.end(), 0);
      kernel_buffer written(type(), s.queries, std::int64_t{s.heads} * s.dim, 8);
      out.fill(0);
      lse.fill(0);
      attention_mask mask = in.mask();
      mask.settled = true;
      const matrix from = put(in.q);
      const matrix to = put(written);
      const auto keys = put(in.keys, s.kv_heads);
      const auto values = put(in.values, s.kv_heads);
      const auto partial = put(out, s.heads);
      const matrix sums = put(lse);
      std::byte* const splits = room(device->decode_attention_workspace_bytes(s.keys, s.heads, s.dim));
      device->embed(*queue, from, put(rows), to);
      device->attend_few(*queue, as_heads(to, 0, s.heads, s.dim), keys, values, mask, scale, partial, sums, splits);
      fetch();
      expect_right();
      if (HasFatalFailure()) return;
    }
    if (!in.mask().causal || s.first_query < 0 || s.first_query + s.queries > s.keys) continue;
    // The same with the number of keys in device memory, among more that are not to be read.
    std::vector<std::int32_t> first_query{static_cast<std::int32_t>(s.first_query)};
    out.fill(0);
    lse.fill(0);
    device->attend_few(*queue, put(in.q, s.heads), put(in.keys, s.kv_heads), put(in.values, s.kv_heads),
                       {.causal = true, .keys = s.keys, .first_query_at = put(first_query)}, scale, put(out, s.heads),
                       put(lse), room(device->decode_attention_workspace_bytes(s.keys, s.heads, s.dim)));
    fetch();
    expect_right();
    if (HasFatalFailure()) return;
  }
}

TEST_P(backends, give_zero_to_few_queries_without_keys) {
  attention_inputs in(type(), {3, 4, 2, 24, 2});
  kernel_buffer out(element_type::f32, 3, 96);
  kernel_buffer lse(element_type::f32, 3, 4);
  std::byte* const workspace = room(device->decode_attention_workspace_bytes(2, 4, 24));
  device->attend_few(*queue, put(in.q, 4), put(in.keys, 2), put(in.values, 2), {true, 2, -2}, 0.2f, put(out, 4),
                     put(lse), workspace);
  fetch();
  EXPECT_EQ(out.row(0), std::vector<double>(96, 0.0));
  EXPECT_EQ(lse.row(1), std::vector<double>(4, -infinity));
  EXPECT_NE(lse.at(2, 0), -infinity);
}

TEST_P(backends, merge_parts_and_do_not_read_those_that_saw_no_keys) {
  for (const int count : {1, 3, 20, 200}) {
    std::vector<kernel_buffer> parts;
    std::vector<kernel_buffer> sums;
    for (int i = 0; i < count; ++i) {
      parts.emplace_back(element_type::f32, 2, 4 * 20, 1);
      sums.emplace_back(element_type::f32, 2, 4, 2);
      parts.back().fill_random(static_cast<unsigned>(i), 2);
      sums.back().fill_random(static_cast<unsigned>(i + 100), 3);
      if (i % 3 == 1) {
        parts.back().fill(std::nan(""));
        sums.back().fill(-infinity);
      }
    }
    std::vector<head_matrix> views;
    std::vector<matrix> sum_views;
    for (int i = 0; i < count; ++i) {
      views.push_back(put(parts[static_cast<std::size_t>(i)], 4));
      sum_views.push_back(put(sums[static_cast<std::size_t>(i)]));
    }
    kernel_buffer out(type(), 2, 4 * 20, 3);
    device->merge_attention(*queue, views, sum_views, put(out, 4));
    fetch();
    for (std::int64_t query = 0; query < 2; ++query) {
      for (int head = 0; head < 4; ++head) {
        double total = 0;
        std::vector<double> exact(20);
        for (int i = 0; i < count; ++i) {
          if (i % 3 == 1) continue;
          const double weight = std::exp(sums[static_cast<std::size_t>(i)].at(query, head));
          total += weight;
          for (std::size_t n = 0; n < 20; ++n) {
            exact[n] += weight * parts[static_cast<std::size_t>(i)].at(query, head * 20 + static_cast<std::int64_t>(n));
          }
        }
        for (double& number : exact) number /= total;
        expect_close(out, query, std::int64_t{head} * 20, exact, 5e-6);
      }
    }
    EXPECT_TRUE(out.gaps_untouched());
  }
  kernel_buffer empty(element_type::f32, 1, 18);
  kernel_buffer empty_sums(element_type::f32, 1, 2);
  empty.fill(std::nan(""));
  empty_sums.fill(-infinity);
  kernel_buffer out(type(), 1, 18);
  out.fill(5);
  const std::vector<head_matrix> views{put(empty, 2)};
  const std::vector<matrix> sum_views{put(empty_sums)};
  device->merge_attention(*queue, views, sum_views, put(out, 2));
  fetch();
  EXPECT_EQ(out.row(0), std::vector<double>(18, 0.0));
}

// ---- compressor ----

TEST_P(backends, average_queries_and_score_keys) {
  for (const int dim : {1, 8, 20, 64, 128, 130}) {
    for (const std::int64_t gap : {8, 3}) {
      const int heads = 6;
      const int kv_heads = 3;
      kernel_buffer q(type(), 37, std::int64_t{heads} * dim, gap);
      kernel_buffer keys(type(), 90, std::int64_t{kv_heads} * dim, gap);
      q.fill_random(1);
      keys.fill_random(2);
      kernel_buffer mean(element_type::f32, kv_heads, dim, 2);
      kernel_buffer scores(element_type::f32, 90, kv_heads, 2);
      const matrix mean_view = put(mean);
      device->mean_query(*queue, put(q, heads), mean_view);
      device->score_keys(*queue, put(keys, kv_heads), mean_view, put(scores));
      fetch();
      for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
        std::vector<double> exact(static_cast<std::size_t>(dim));
        for (std::int64_t token = 0; token < 37; ++token) {
          for (int head = 2 * kv_head; head < 2 * kv_head + 2; ++head) {
            const auto numbers = q.part(token, std::int64_t{head} * dim, dim);
            for (std::size_t i = 0; i < numbers.size(); ++i) exact[i] += numbers[i] / 74;
          }
        }
        expect_close(mean, kv_head, 0, exact);
        for (std::int64_t token = 0; token < 90; ++token) {
          expect_close(scores, token, kv_head,
                       {reference::dot(keys.part(token, std::int64_t{kv_head} * dim, dim), mean.row(kv_head))}, 5e-6);
        }
      }
      EXPECT_TRUE(mean.gaps_untouched());
      EXPECT_TRUE(scores.gaps_untouched());
    }
  }
}

TEST_P(backends, score_recent_and_random_and_pool) {
  kernel_buffer recent(element_type::f32, 70, 3, 2);
  kernel_buffer random(element_type::f32, 40'000, 2, 1);
  device->score_recent(*queue, put(recent));
  device->score_random(*queue, 17, 5, 1000, put(random));
  fetch();
  for (std::int64_t token = 0; token < 70; ++token) {
    EXPECT_EQ(recent.row(token), std::vector<double>(3, static_cast<double>(token)));
  }
  for (std::int64_t token = 0; token < 40'000; token += 7) {
    for (int head = 0; head < 2; ++head) {
      ASSERT_EQ(random.at(token, head),
                static_cast<double>(reference::random_score(17, 5, head, static_cast<int>(1000 + token))));
    }
  }
  EXPECT_TRUE(recent.gaps_untouched());
  EXPECT_TRUE(random.gaps_untouched());
  for (const std::int64_t tokens : {1, 2, 3, 4, 5, 6, 11, 1000}) {
    kernel_buffer scores(element_type::f32, tokens, 3, 2);
    scores.fill_random(static_cast<unsigned>(tokens));
    if (tokens > 5) scores.set(2, 1, std::nan(""));
    kernel_buffer out(element_type::f32, tokens, 3, 1);
    device->max_pool(*queue, put(scores), put(out));
    fetch();
    for (std::int64_t head = 0; head < 3; ++head) {
      std::vector<float> column;
      for (std::int64_t token = 0; token < tokens; ++token) {
        const auto score = static_cast<float>(scores.at(token, head));
        column.push_back(std::isnan(score) ? -std::numeric_limits<float>::infinity() : score);
      }
      const auto exact = reference::max_pooled(column);
      for (std::int64_t token = 0; token < tokens; ++token) {
        ASSERT_EQ(out.at(token, head), static_cast<double>(exact[static_cast<std::size_t>(token)]));
      }
    }
    EXPECT_TRUE(out.gaps_untouched());
  }
}

TEST_P(backends, select_the_best_and_of_equal_scores_the_lower_index) {
  std::mt19937 generator(5);
  for (int round = 0; round < 60; ++round) {
    const auto tokens = static_cast<std::int64_t>(1 + generator() % (round % 10 == 0 ? 20'000 : 3000));
    const auto kinds = 1 + generator() % 50;  // few different scores make many ties
    std::vector<std::vector<float>> heads(3);
    kernel_buffer scores(element_type::f32, tokens, 3, static_cast<std::int64_t>(generator() % 3));
    for (std::int64_t token = 0; token < tokens; ++token) {
      for (std::int64_t head = 0; head < 3; ++head) {
        const auto value = generator() % kinds;
        float score = value == 0 ? -std::numeric_limits<float>::infinity() : (static_cast<float>(value) - 7) * 0.25f;
        if (value == 7 && generator() % 2 == 0) score = -0.0f;
        if (round % 4 == 3) score = std::normal_distribution<float>()(generator);
        heads[static_cast<std::size_t>(head)].push_back(score);
        scores.set(token, head, static_cast<double>(score));
      }
    }
    const auto eligible_from = static_cast<std::int64_t>(generator()) % (tokens + 1);
    const auto count = static_cast<std::int64_t>(generator()) % (tokens - eligible_from + 1);
    std::vector<std::int32_t> indices(static_cast<std::size_t>(3 * count + 1), -1);
    std::byte* const workspace = room(device->select_workspace_bytes(tokens, 3));
    device->select_top(*queue, put(scores), eligible_from, count, put(indices), workspace);
    fetch();
    EXPECT_EQ(indices.back(), -1) << "behind the last";
    for (std::size_t head = 0; head < 3; ++head) {
      const auto first = indices.begin() + static_cast<std::ptrdiff_t>(head) * count;
      ASSERT_EQ(std::vector<int>(first, first + count),
                reference::best_tokens(heads[head], static_cast<int>(eligible_from), static_cast<int>(count)))
          << "round " << round;
    }
  }
}

TEST_P(backends, take_a_nan_last) {
  const float nan = std::nanf("");
  kernel_buffer scores(element_type::f32, 6, 1);
  const std::array numbers{nan, 1.0f, -nan, -std::numeric_limits<float>::infinity(), nan, 2.0f};
  for (std::int64_t i = 0; i < 6; ++i) scores.set(i, 0, static_cast<double>(numbers[static_cast<std::size_t>(i)]));
  std::vector<std::int32_t> indices(4);
  std::byte* const workspace = room(device->select_workspace_bytes(6, 1));
  device->select_top(*queue, put(scores), 0, 4, put(indices), workspace);
  fetch();
  EXPECT_EQ(indices, (std::vector<std::int32_t>{0, 1, 3, 5}));
}

TEST_P(backends, gather_each_heads_own_tokens) {
  for (const int dim : {1, 7, 64, 128}) {
    for (const std::int64_t gap : {4, 8}) {
      kernel_buffer x(type(), 10, 3 * std::int64_t{dim}, gap);
      x.fill_random(4);
      std::vector<std::int32_t> indices{0, 3, 5, 9, 1, 2, 3, 4, 6, 7, 8, 9};
      kernel_buffer out(type(), 4, 3 * std::int64_t{dim}, gap);
      device->gather(*queue, put(x, 3), put(indices), put(out, 3));
      fetch();
      for (std::int64_t unit = 0; unit < 4; ++unit) {
        for (std::int64_t head = 0; head < 3; ++head) {
          EXPECT_EQ(out.part(unit, head * dim, dim),
                    x.part(indices[static_cast<std::size_t>(head * 4 + unit)], head * dim, dim));
        }
      }
      EXPECT_TRUE(out.gaps_untouched());
    }
  }
}

// ---- sampling ----

class sampled_backends : public backend_test {
 protected:
  int greedy(std::vector<float> logits) {
    const auto columns = static_cast<std::int64_t>(logits.size());
    std::vector<std::int32_t> token{-1};
    device->sample_greedy(*queue, {put(logits), element_type::f32, 1, columns, columns}, put(token));
    fetch();
    return token.front();
  }
  int top_p(std::vector<float> logits, float temperature, float share, float uniform) {
    const auto columns = static_cast<std::int64_t>(logits.size());
    std::vector<std::int32_t> token{-1};
    std::byte* const workspace = room(device->sample_workspace_bytes(columns));
    device->sample_top_p(*queue, {put(logits), element_type::f32, 1, columns, columns}, temperature, share, uniform,
                         put(token), workspace);
    fetch();
    return token.front();
  }
};

INSTANTIATE_TEST_SUITE_P(devices, sampled_backends, ::testing::Values(tested_device::cpu_bf16, tested_device::cuda),
                         name_of_device);

TEST_P(sampled_backends, take_the_largest_logit_and_of_equal_ones_the_lower_id) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::nanf("");
  EXPECT_EQ(greedy({1, 3, 2}), 1);
  EXPECT_EQ(greedy({1, 3, 3, 3}), 1);
  EXPECT_EQ(greedy({5}), 0);
  EXPECT_EQ(greedy({-inf, -inf, -7}), 2);
  EXPECT_EQ(greedy({-inf, -inf}), 0);
  EXPECT_EQ(greedy({-0.0f, 0.0f}), 0);
  EXPECT_EQ(greedy({nan, -5, nan, -4, nan}), 3);
  EXPECT_EQ(greedy({nan, -inf}), 1);
  std::vector<float> many(128'256, -1.0f);
  many[70'001] = 4;
  many[70'002] = 4;
  EXPECT_EQ(greedy(many), 70'001);
}

TEST_P(sampled_backends, equal_the_inverted_distribution_of_the_nucleus) {
  std::mt19937 generator(1);
  std::uniform_real_distribution<float> uniform(0, 1);
  for (unsigned round = 0; round < 200; ++round) {
    std::vector<float> logits(round == 0 ? 128'256 : 1 + generator() % 2000);
    std::normal_distribution<float> normal(0, 3);
    for (float& logit : logits) logit = round % 7 == 3 ? std::round(normal(generator)) : normal(generator);
    const float temperature = 0.2f + 2 * uniform(generator);
    const float share = round % 5 == 0 ? 1.0f : 0.05f + 0.95f * uniform(generator);
    const float draw = uniform(generator);
    EXPECT_EQ(top_p(logits, temperature, share, draw),
              reference::nucleus_sample(logits, static_cast<double>(temperature), static_cast<double>(share),
                                        static_cast<double>(draw)))
        << "round " << round;
  }
}

TEST_P(sampled_backends, order_equal_logits_by_id_and_give_nothing_to_minus_infinity) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::nanf("");
  const float last = std::nextafter(1.0f, 0.0f);
  const std::vector<float> logits(8, 1.5f);
  for (int id = 0; id < 8; ++id) {
    EXPECT_EQ(top_p(logits, 1, 1, static_cast<float>(id) / 8), id) << "where its share begins";
    EXPECT_EQ(top_p(logits, 1, 1, (static_cast<float>(id) + 0.99f) / 8), id) << "where it ends";
  }
  EXPECT_EQ(top_p(logits, 1, 0.3f, 0.99f), 2) << "three of eight make 0.3";
  EXPECT_EQ(top_p({-inf, nan, 1, nan, -inf}, 1, 1, last), 2);
  EXPECT_EQ(top_p({nan, 1, nan, 1, nan}, 5, 1, last), 3);
  EXPECT_EQ(top_p({-inf, -inf}, 1, 1, last), 0);
  EXPECT_EQ(top_p({1, 2, 3}, 1e-6f, 1, last), 2);
  EXPECT_EQ(top_p({1, 2, 3}, 1, 1e-6f, last), 2);
}

TEST_P(backends, do_nothing_for_no_tokens) {
  const matrix none{nullptr, type(), 0, 8, 8};
  const matrix none_wide{nullptr, type(), 0, 16, 16};
  const matrix no_scores{nullptr, element_type::f32, 0, 2, 2};
  const head_matrix no_heads{nullptr, type(), 0, 2, 8, 16};
  const head_matrix no_out{nullptr, element_type::f32, 0, 2, 8, 16};
  EXPECT_NO_THROW(device->embed(*queue, none, nullptr, none));
  EXPECT_NO_THROW(device->rms_norm(*queue, none, nullptr, 1e-5f, none));
  EXPECT_NO_THROW(device->swiglu(*queue, none_wide, none));
  EXPECT_NO_THROW(device->silu(*queue, none));
  EXPECT_NO_THROW(device->copy(*queue, none, none));
  EXPECT_NO_THROW(device->max_pool(*queue, no_scores, no_scores));
  EXPECT_NO_THROW(device->select_top(*queue, no_scores, 0, 0, nullptr, nullptr));
  EXPECT_NO_THROW(device->gather(*queue, no_heads, nullptr, no_heads));
  EXPECT_NO_THROW(device->attend_few(*queue, no_heads, no_heads, no_heads, {}, 1.0f, no_out, no_scores, nullptr));
  EXPECT_NO_THROW(device->merge_attention(*queue, {}, {}, no_heads));
  device->synchronize(*queue);
}

TEST_P(backends, refuse_shapes_that_do_not_fit) {
  const matrix x{nullptr, type(), 2, 8, 8};
  const matrix narrow{nullptr, type(), 2, 7, 7};
  const matrix low{nullptr, type(), 1, 8, 8};
  EXPECT_THROW(device->rms_norm(*queue, x, nullptr, 1e-5f, narrow), fault);
  EXPECT_THROW(device->swiglu(*queue, x, narrow), fault);
  EXPECT_THROW(device->copy(*queue, x, low), fault);
  const matrix scores{nullptr, element_type::f32, 4, 1, 1};
  EXPECT_THROW(device->select_top(*queue, scores, 2, 3, nullptr, nullptr), fault);
  EXPECT_THROW((void)device->pack({}, {}), fault);
}

}  // namespace
}  // namespace baton
