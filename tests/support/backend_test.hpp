#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/backend.hpp"
#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#include "tests/support/kernel_buffer.hpp"
#include "tests/support/kernel_test.hpp"

namespace baton {

enum class tested_device : std::uint8_t { cpu_f32, cpu_bf16, cuda };

inline std::unique_ptr<backend> make_tested(tested_device device) {
  if (device == tested_device::cuda) return cuda::make_cuda_backend({});
  return cpu::make_cpu_backend(
      {.threads = 2, .activation = device == tested_device::cpu_f32 ? element_type::f32 : element_type::bf16});
}

inline std::string name_of_device(const ::testing::TestParamInfo<tested_device>& info) {
  switch (info.param) {
    case tested_device::cpu_f32: return "cpu_f32";
    case tested_device::cpu_bf16: return "cpu_bf16";
    case tested_device::cuda: break;
  }
  return "cuda";
}

/// A test of a whole backend, through its interface alone, on every kind of device. Without a GPU its tests are skipped and say so.
/// Buffers are copied to device memory by `put`, and all of them back by `fetch`.
class backend_test : public ::testing::TestWithParam<tested_device> {
 protected:
  void SetUp() override {
    if (GetParam() == tested_device::cuda && cuda::device_count() == 0) {
      GTEST_SKIP() << (cuda::built_in() ? "no GPU here: the CUDA kernels have NOT been tested"
                                        : "built without CUDA: the CUDA kernels have NOT been tested");
    }
    device = make_tested(GetParam());
    queue = device->make_stream();
  }
  void TearDown() override {
    placed_.clear();
    queue.reset();
    device.reset();
  }

  [[nodiscard]] element_type type() const { return device->activation_type(); }
  [[nodiscard]] bool on_gpu() const { return GetParam() == tested_device::cuda; }

  matrix put(kernel_buffer& buffer) {
    matrix view = buffer.view();
    view.data = place(view.data, buffer.bytes().size());
    return view;
  }
  head_matrix put(kernel_buffer& buffer, int heads) {
    return as_heads(put(buffer), 0, heads, static_cast<int>(buffer.view().columns) / heads);
  }
  template <class Number>
  Number* put(std::vector<Number>& numbers) {
    return static_cast<Number*>(place(numbers.data(), numbers.size() * sizeof(Number)));
  }
  /// Device memory of so many bytes that holds NaN.
  std::byte* room(std::size_t bytes) {
    scratch_.push_back(std::make_unique<std::vector<std::byte>>(bytes, std::byte{0xff}));
    return static_cast<std::byte*>(place(scratch_.back()->data(), bytes));
  }
  /// What was put comes back as the device has left it, and the device's copies are gone.
  void fetch() {
    for (const auto& p : placed_) device->download(*queue, p.host, p.memory->data(), p.bytes);
    device->synchronize(*queue);
    placed_.clear();
    scratch_.clear();
  }

  std::unique_ptr<backend> device;
  std::unique_ptr<stream> queue;

 private:
  struct placed {
    void* host;
    std::size_t bytes;
    std::unique_ptr<device_memory> memory;
  };

  void* place(void* host, std::size_t bytes) {
    placed_.push_back({host, bytes, device->allocate(bytes)});
    device->upload(*queue, placed_.back().memory->data(), host, bytes);
    device->synchronize(*queue);
    return placed_.back().memory->data();
  }

  std::vector<placed> placed_;
  std::vector<std::unique_ptr<std::vector<std::byte>>> scratch_;
};

#define BATON_BACKEND_SUITE(suite)                                                                              \
  class suite : public ::baton::backend_test {};                                                                \
  INSTANTIATE_TEST_SUITE_P(devices, suite,                                                                      \
                           ::testing::Values(::baton::tested_device::cpu_f32, ::baton::tested_device::cpu_bf16, \
                                             ::baton::tested_device::cuda),                                     \
                           ::baton::name_of_device)

}  // namespace baton
