#include "kernels/cpu/sampling.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "tests/support/kernel_reference.hpp"

namespace baton {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
const float nan = std::nanf("");

matrix row_of(std::vector<float>& logits) {
  const auto columns = static_cast<std::int64_t>(logits.size());
  return {logits.data(), element_type::f32, 1, columns, columns};
}

int greedy(std::vector<float> logits) {
  cpu::thread_pool pool(1);
  std::int32_t token = -1;
  cpu::sample_greedy(pool, row_of(logits), &token);
  return token;
}

int top_p(std::vector<float> logits, float temperature, float top_p, float uniform, int threads = 1) {
  cpu::thread_pool pool(threads);
  std::vector<std::byte> workspace(cpu::sample_workspace_bytes(static_cast<std::int64_t>(logits.size())));
  std::int32_t token = -1;
  cpu::sample_top_p(pool, row_of(logits), temperature, top_p, uniform, &token, workspace.data());
  return token;
}

std::vector<float> random_logits(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(generator);
  return logits;
}

TEST(sample_greedy, takes_the_largest_logit_and_of_equal_ones_the_lower_id) {
  EXPECT_EQ(greedy({1, 3, 2}), 1);
  EXPECT_EQ(greedy({1, 3, 3, 3}), 1);
  EXPECT_EQ(greedy({5}), 0);
  EXPECT_EQ(greedy({-infinity, -infinity, -7}), 2);
  EXPECT_EQ(greedy({-infinity, -infinity}), 0);
  EXPECT_EQ(greedy({-0.0f, 0.0f}), 0);
}

TEST(sample_greedy, passes_over_a_nan) {
  EXPECT_EQ(greedy({nan, -5, nan, -4, nan}), 3);
  EXPECT_EQ(greedy({nan, -infinity}), 1);
}

TEST(sample_top_p, equals_the_inverted_distribution_of_the_nucleus) {
  std::mt19937 generator(1);
  std::uniform_real_distribution<float> uniform(0, 1);
  for (unsigned round = 0; round < 300; ++round) {
    const std::size_t vocabulary = 1 + generator() % 2000;
    const std::vector<float> logits = random_logits(vocabulary, round);
    const float temperature = 0.2f + 2 * uniform(generator);
    const float share = round % 5 == 0 ? 1.0f : 0.05f + 0.95f * uniform(generator);
    const float draw = uniform(generator);
    EXPECT_EQ(top_p(logits, temperature, share, draw),
              reference::nucleus_sample(logits, static_cast<double>(temperature), static_cast<double>(share),
                                        static_cast<double>(draw)))
        << "round " << round;
  }
}

TEST(sample_top_p, follows_the_softmax_over_many_draws) {
  const std::vector<float> logits{0.5f, 2, -1, 1, -infinity, 2};
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit) / 0.7);
  std::vector<int> drawn(logits.size());
  const int draws = 10'000;
  for (int draw = 0; draw < draws; ++draw) {
    const float uniform = (static_cast<float>(draw) + 0.5f) / static_cast<float>(draws);
    ++drawn[static_cast<std::size_t>(top_p(logits, 0.7f, 1, uniform))];
  }
  for (std::size_t id = 0; id < logits.size(); ++id) {
    EXPECT_NEAR(drawn[id], draws * std::exp(static_cast<double>(logits[id]) / 0.7) / total, 1.01) << "id " << id;
  }
}

TEST(sample_top_p, never_leaves_the_smallest_set_that_is_probable_enough) {
  // Probabilities 0.4, 0.3, 0.2, 0.1 of the ids 2, 0, 3, 1.
  const std::vector<float> logits{std::log(0.3f), std::log(0.1f), std::log(0.4f), std::log(0.2f)};
  for (const auto& [share, allowed] : {std::pair{0.35f, std::set{2}}, std::pair{0.69f, std::set{2, 0}},
                                       std::pair{0.75f, std::set{2, 0, 3}}, std::pair{1.0f, std::set{2, 0, 3, 1}}}) {
    std::set<int> drawn;
    for (int draw = 0; draw < 200; ++draw) drawn.insert(top_p(logits, 1, share, static_cast<float>(draw) / 200));
    EXPECT_EQ(drawn, allowed) << "top_p " << share;
  }
}

TEST(sample_top_p, orders_equal_logits_by_id) {
  const std::vector<float> logits(8, 1.5f);
  for (int id = 0; id < 8; ++id) {
    EXPECT_EQ(top_p(logits, 1, 1, static_cast<float>(id) / 8), id) << "where its share begins";
    EXPECT_EQ(top_p(logits, 1, 1, (static_cast<float>(id) + 0.99f) / 8), id) << "where it ends";
  }
  EXPECT_EQ(top_p(logits, 1, 0.3f, 0.99f), 2) << "three of eight make 0.3";
}

TEST(sample_top_p, is_greedy_at_the_limits) {
  const std::vector<float> logits = random_logits(1000, 9);
  const float last = std::nextafter(1.0f, 0.0f);
  EXPECT_EQ(top_p(logits, 1, 1e-6f, last), greedy(logits));
  EXPECT_EQ(top_p(logits, 1e-6f, 1, last), greedy(logits));
  EXPECT_EQ(top_p(logits, 1, 1, 0), greedy(logits));
}

TEST(sample_top_p, gives_no_probability_to_minus_infinity_and_nan) {
  const float last = std::nextafter(1.0f, 0.0f);
  EXPECT_EQ(top_p({-infinity, nan, 1, nan, -infinity}, 1, 1, last), 2);
  EXPECT_EQ(top_p({nan, 1, nan, 1, nan}, 5, 1, last), 3);
  EXPECT_EQ(top_p({-infinity, -infinity}, 1, 1, last), 0);
}

TEST(sample_top_p, gives_the_same_token_with_any_number_of_threads) {
  const std::vector<float> logits = random_logits(50'000, 10);
  EXPECT_EQ(top_p(logits, 1.3f, 0.95f, 0.8f, 3), top_p(logits, 1.3f, 0.95f, 0.8f, 1));
}

TEST(sample_top_p, refuses_settings_that_mean_nothing) {
  EXPECT_THROW(top_p({1, 2}, 0, 1, 0), fault);
  EXPECT_THROW(top_p({1, 2}, 1, 0, 0), fault);
  EXPECT_THROW(top_p({1, 2}, 1, 1.5f, 0), fault);
  EXPECT_THROW(top_p({1, 2}, 1, 1, 1), fault);
  EXPECT_THROW(top_p({}, 1, 1, 0), fault);
}

}  // namespace
}  // namespace baton
