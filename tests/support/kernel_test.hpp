#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "kernels/cpu/thread_pool.hpp"
#include "kernels/tensor.hpp"
#include "tests/support/kernel_buffer.hpp"

namespace baton {

struct kernel_case {
  std::int64_t target = 0;  ///< an instruction set, as Highway numbers them
  element_type activations = element_type::f32;
};

/// A test that runs once for every instruction set that is compiled and that this machine has, and for both types of activations.
/// A suite is a class of its own, instantiated with BATON_KERNEL_SUITE.
class kernel_test : public ::testing::TestWithParam<kernel_case> {
 protected:
  void SetUp() override { use(GetParam().target); }
  void TearDown() override { use(0); }

  [[nodiscard]] static element_type type() { return GetParam().activations; }

  cpu::thread_pool pool{2};

 private:
  static void use(std::int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().DeInit();
  }
};

inline std::vector<kernel_case> kernel_cases() {
  std::vector<kernel_case> cases;
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    cases.push_back({target, element_type::f32});
    cases.push_back({target, element_type::bf16});
  }
  return cases;
}

inline std::string name_of_case(const ::testing::TestParamInfo<kernel_case>& info) {
  return std::string(hwy::TargetName(info.param.target)) +
         (info.param.activations == element_type::f32 ? "_f32" : "_bf16");
}

#define BATON_KERNEL_SUITE(suite)               \
  class suite : public ::baton::kernel_test {}; \
  INSTANTIATE_TEST_SUITE_P(kernels, suite, ::testing::ValuesIn(::baton::kernel_cases()), ::baton::name_of_case)

/// Compares numbers [first, first + exact.size()) of a row.
inline void expect_close(const kernel_buffer& got, std::int64_t row, std::int64_t first,
                         const std::vector<double>& exact, double fp32_error = 2e-6) {
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const std::int64_t column = first + static_cast<std::int64_t>(i);
    ASSERT_NEAR(got.at(row, column), exact[i], allowed_error(got.type(), exact[i], fp32_error))
        << "row " << row << ", column " << column;
  }
}

/// compute(pool) returns a result's bytes.
template <class Compute>
void expect_same_bits_with_any_threads(Compute compute) {
  cpu::thread_pool one(1);
  const auto expected = compute(one);
  for (const int threads : {2, 3}) {
    cpu::thread_pool more(threads);
    EXPECT_TRUE(compute(more) == expected) << "with " << threads << " threads";
  }
}

}  // namespace baton
