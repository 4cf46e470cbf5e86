#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/end_to_end/baton_process.hpp"
#include "tests/support/places.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const std::filesystem::path source = BATON_SOURCE_DIR;
const std::string needle = (source / "models/needle").string();

TEST(inspect, tells_of_a_model_and_ends_with_0) {
  const temporary_directory folder;
  const auto file = (folder.path() / "report.json").string();
  const auto result = run_baton({"inspect", needle, "--document-tokens", "8192", "--ranks", "4", "--json", file});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  EXPECT_THAT(result.out, HasSubstr("memory of the largest of 4 ranks (apb)"));
  EXPECT_THAT(result.out, HasSubstr("Baton can run it."));
  const auto report = json::parse(std::ifstream(file));
  EXPECT_EQ(report.at("can_run"), true);
  EXPECT_EQ(report.at("job").at("document_tokens"), 8192);
  EXPECT_EQ(report.at("retaining_width"), 256);
}

TEST(inspect, a_model_that_cannot_be_run_ends_with_2_and_all_reasons) {
  const temporary_directory folder;
  folder.write("config.json", R"({"model_type": "mixtral", "num_local_experts": 8, "sliding_window": null})");
  const auto result = run_baton({"inspect", folder.path().string()});
  EXPECT_EQ(result.exit_code, 2);
  const auto config = (folder.path() / "config.json").string();
  EXPECT_THAT(result.out, HasSubstr(config + ": model_type: \"mixtral\" is not supported"));
  EXPECT_THAT(result.out, HasSubstr(config + ": num_local_experts: mixtures of experts are not supported"));
  EXPECT_THAT(result.out, HasSubstr(config + ": hidden_size: missing"));
  EXPECT_THAT(result.out, HasSubstr("model.safetensors: cannot be opened"));
}

TEST(inspect, mistakes_end_with_2_and_a_line_on_standard_error) {
  const auto absent = run_baton({"inspect", "/nowhere"});
  EXPECT_EQ(absent.exit_code, 2);
  EXPECT_EQ(absent.err, "baton: /nowhere/config.json: no such file\n");
  const auto too_long = run_baton({"inspect", needle, "--document-tokens", "1000000"});
  EXPECT_EQ(too_long.exit_code, 2);
  EXPECT_THAT(too_long.err, HasSubstr("exceed the 131072 positions"));
  EXPECT_EQ(run_baton({"inspect"}).exit_code, 2);
  EXPECT_EQ(run_baton({"inspect", needle, "--json", "/nowhere/x.json"}).exit_code, 2);
}

}  // namespace
}  // namespace baton
