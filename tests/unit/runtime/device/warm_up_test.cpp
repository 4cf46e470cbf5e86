#include "runtime/device/warm_up.hpp"

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#include "runtime/model/checkpoint.hpp"
#include "tests/support/source_folder.hpp"

namespace baton {
namespace {

class warming_up : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam() && cuda::device_count() == 0) GTEST_SKIP() << "no GPU here: warming up has NOT been tried on one";
    kernels = GetParam() ? cuda::make_cuda_backend({}) : cpu::make_cpu_backend({.threads = 1});
    weights = std::make_unique<model_weights>(
        *kernels, checkpoint::open(source_folder() / "tests/fixtures/models/llama_head_dim_128"));
  }
  [[nodiscard]] device_context device_with(std::size_t arena_bytes) const {
    return {*kernels, *weights, {"n", "d", arena_bytes, 200, 128}};
  }

  std::unique_ptr<backend> kernels;
  std::unique_ptr<model_weights> weights;
};

TEST_P(warming_up, leaves_the_device_as_it_was) {
  auto device = device_with(16 << 20);
  EXPECT_TRUE(rehearse(device));
  EXPECT_GT(device.memory().peak_bytes(), 0u);
  EXPECT_EQ(device.memory().largest_free_bytes(), device.memory().bytes());
}

TEST_P(warming_up, is_left_out_where_there_is_no_room) {
  auto device = device_with(4096);
  EXPECT_FALSE(rehearse(device));
  EXPECT_EQ(device.memory().largest_free_bytes(), device.memory().bytes());
}

INSTANTIATE_TEST_SUITE_P(devices, warming_up, testing::Bool(),
                         [](const auto& tested) { return tested.param ? "cuda" : "cpu"; });

}  // namespace
}  // namespace baton
