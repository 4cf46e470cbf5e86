#include <cstdint>
#include <iostream>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cuda/cuda_backend.hpp"
#include "runtime/decode/decode_pass.hpp"
#include "runtime/prefill/prefill_pass.hpp"
#include "tests/cuda/driver_calls.hpp"
#include "tests/support/source_folder.hpp"
#include "tests/support/test_engine.hpp"

/// The layer loop neither waits for the device nor takes memory: counted at the driver, so that libraries count too.
namespace baton {
namespace {

constexpr int answer_tokens = 8;

std::ostream& operator<<(std::ostream& to, const driver_calls& calls) {
  return to << "waits for a device " << calls.device_waits << ", a stream " << calls.stream_waits << ", an event "
            << calls.event_waits << "; memory of the device " << calls.device_memory << ", pinned "
            << calls.host_memory;
}

/// Without a GPU these tests are skipped and say so.
class gpu_layers : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (cuda::device_count() == 0)
      GTEST_SKIP() << "no GPU here: that the layer loop waits for nothing has NOT been counted";
  }
};

struct stage_calls {
  driver_calls prefill;  ///< in all steps but each pass's last, which waits until all is done
  driver_calls answer;
};

stage_calls calls_of_a_job(test_engine& engine, int ranks) {
  std::mt19937 random(5);
  const auto draw = [&](int count) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
    for (auto& id : ids) id = static_cast<std::int32_t>(random() % static_cast<unsigned>(engine.config().vocabulary));
    return ids;
  };
  job_options options;
  options.strategy = ranks == 1 ? "full" : "apb";
  options.ranks = ranks;
  options.chunk_tokens = 512;
  options.max_new_tokens = answer_tokens;
  stage_calls calls;
  driver_calls before;
  engine.watch.before = [&] { before = driver_calls_so_far(); };
  engine.watch.after = [&](const pass& stepped, bool finished) {
    const bool is_prefill = dynamic_cast<const prefill_pass*>(&stepped) != nullptr;
    if (is_prefill && finished) return;
    (is_prefill ? calls.prefill : calls.answer) += driver_calls_so_far() - before;
  };
  const auto answer = engine.run(options, draw(4100), draw(20), 2);
  EXPECT_EQ(answer.ids.size(), static_cast<std::size_t>(answer_tokens));
  engine.watch = {};
  return calls;
}

TEST_P(gpu_layers, neither_wait_for_the_device_nor_take_its_memory) {
  const int ranks = GetParam();
  test_engine engine(source_folder() / "models/needle", {.on_gpu = true});
  const auto loaded = driver_calls_so_far();
  ASSERT_GT(loaded.device_memory, 0) << "the counter does not see what loading takes: it counts nothing";
  ASSERT_GT(loaded.stream_waits, 0) << "the counter does not see that loading waits: it counts nothing";
  const auto first = calls_of_a_job(engine, ranks);
  std::cout << "first job, prefill: " << first.prefill << "\nfirst job, answer:  " << first.answer << '\n';
  const auto second = calls_of_a_job(engine, ranks);
  std::cout << "second job, prefill: " << second.prefill << "\nsecond job, answer:  " << second.answer << '\n';

  for (const auto& calls : {first.prefill, first.answer, second.prefill, second.answer})
    EXPECT_EQ(calls.device_waits, 0);
  // What follows is left to libraries when they are used for the first time. Pinned memory is taken where blocks are the first
  // of their size, or many are on their way.
  EXPECT_EQ(second.prefill.device_memory, 0);
  EXPECT_EQ(second.prefill.stream_waits, 0);
  EXPECT_EQ(second.prefill.event_waits, 0);
  EXPECT_EQ(second.answer.device_memory, 0);
  EXPECT_EQ(second.answer.event_waits, 0);
  // For each token its input is uploaded and its choice is read, however many layers there are.
  EXPECT_LE(second.answer.stream_waits, ranks * (2 * answer_tokens + 2));
}

INSTANTIATE_TEST_SUITE_P(ranks, gpu_layers, testing::Values(1, 8));

}  // namespace
}  // namespace baton
