#include <filesystem>
#include <fstream>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_backend.hpp"
#include "tests/end_to_end/baton_process.hpp"
#include "tests/end_to_end/samples.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

/// A CPU device and a GPU share a job, in one process and in a process each.
class mixed_devices : public testing::TestWithParam<const char*> {};

TEST_P(mixed_devices, answer_together_what_full_attention_answers) {
  if (cuda::device_count() == 0) GTEST_SKIP() << "no GPU here: jobs over CPU and GPU devices have NOT been run";
  std::filesystem::current_path(source);
  const temporary_directory folder;
  const auto config = (folder.path() / "mixed.yaml").string();
  std::ofstream(config) << fmt::format(
      "model: {{directory: {}, prompt: needle}}\nprocesses: {}\n"
      "nodes: [{{devices: [{{name: slow, threads: 2}}, {{name: fast, kind: cuda}}]}}]\n",
      (source / "models/needle").string(), GetParam());
  const auto out = (folder.path() / "out.json").string();
  for (const auto& s : samples_of("archive-8k")) {
    const auto result = run_baton({"run", "--config", config, "--document", s.document, "--question", s.question,
                                   "--strategy", "apb", "--ranks", "4", "--json", out, "--quiet"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const auto told = json_of(out);
    EXPECT_EQ(stripped(told.at("answer")), s.answer) << s.question;
    EXPECT_EQ(told.at("plan").at("kernel_class"), "mixed");
    EXPECT_EQ(told.at("plan").at("shards").at(0).at("device"), "slow");
    EXPECT_EQ(told.at("plan").at("shards").at(3).at("device"), "fast");
  }
}

INSTANTIATE_TEST_SUITE_P(processes, mixed_devices, testing::Values("one", "per_device"));

}  // namespace
}  // namespace baton
