#include "runtime/plan/plan_costs.hpp"

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_backend.hpp"
#include "runtime/plan/gpu_sizes.hpp"

namespace baton {
namespace {

TEST(plan_costs, count_each_device_by_its_own_kinds_sizes) {
  model_config model;
  model.layers = 2;
  model.hidden = 256;
  model.ffn = 512;
  model.heads = 4;
  model.kv_heads = 2;
  model.head_dim = 64;
  model.vocabulary = 1000;
  plan_request request;
  request.document_tokens = 8000;
  request.query_tokens = 10;
  request.has_retaining_heads = true;
  request.options.ranks = 2;
  const std::vector<device_view> devices{{"n", "cpu0", "cpu"}, {"n", "cuda0", "cuda", 128}};
  const auto plan = make_job_plan(request, devices);
  EXPECT_EQ(plan.kernel_class, "mixed");

  const auto cpu = cpu::make_cpu_backend({.threads = 1});
  const gpu_sizes gpu;
  const cost_basis on_cpu{cpu.get(), &model, 1000, 10};
  const cost_basis on_gpu{&gpu, &model, 2000, 20};
  const auto mixed =
      costs_of(plan, [&](const std::string&, const std::string& device) { return device == "cpu0" ? on_cpu : on_gpu; });
  const auto all_cpu = costs_of(plan, on_cpu);
  const auto all_gpu = costs_of(plan, on_gpu);
  ASSERT_EQ(mixed.devices.size(), 2u);
  EXPECT_EQ(mixed.devices[0].total_bytes(), all_cpu.devices[0].total_bytes());
  EXPECT_EQ(mixed.devices[1].total_bytes(), all_gpu.devices[1].total_bytes());
  EXPECT_NE(all_cpu.devices[1].total_bytes(), all_gpu.devices[1].total_bytes());
  EXPECT_EQ(mixed.relay_log_bytes, all_cpu.relay_log_bytes);
  EXPECT_EQ(mixed.prefill.bytes, all_gpu.prefill.bytes);
}

}  // namespace
}  // namespace baton
