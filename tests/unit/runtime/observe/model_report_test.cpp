#include "runtime/observe/model_report.hpp"

#include <algorithm>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/places.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;
namespace fs = std::filesystem;

const fs::path source = BATON_SOURCE_DIR;
const fs::path needle = source / "models/needle";
const fs::path fixtures = source / "tests/fixtures/models";

/// A copy of the demo model that may be spoilt.
struct spoilt_model {
  spoilt_model() {
    for (const auto& entry : fs::directory_iterator(needle)) {
      if (entry.is_regular_file()) fs::copy_file(entry.path(), folder.path() / entry.path().filename());
    }
    config = json::parse(std::ifstream(folder.path() / "config.json"));
  }
  model_report inspect(int ranks = 8) {
    folder.write("config.json", config.dump());
    return inspect_model({.directory = folder.path(), .ranks = ranks});
  }
  temporary_directory folder;
  json config;
};

std::vector<std::string> reasons_of(const model_report& report) {
  std::vector<std::string> reasons;
  for (const auto& why : report.refusals) reasons.push_back(why.reason());
  return reasons;
}

TEST(model_report, tells_of_the_demo_model_what_is_known_of_it) {
  const auto report = inspect_model({.directory = needle, .document_tokens = 4000, .ranks = 4});
  EXPECT_TRUE(report.can_run());
  EXPECT_EQ(report.config.family, "llama");
  EXPECT_THAT(report.models, HasSubstr("Yi"));
  EXPECT_EQ(report.files, 1U);
  std::int64_t numbers = 0;
  for (const auto& [name, count] : report.types) numbers += count;
  EXPECT_EQ(report.parameters, numbers);
  EXPECT_EQ(report.retaining_width, 256);
  EXPECT_EQ(report.tokenizer_tokens, 3072);
  EXPECT_THAT(report.prompts, testing::ElementsAre("needle"));
  EXPECT_EQ(report.prompt, "needle");
  EXPECT_EQ(report.document_tokens, 4000);
  EXPECT_EQ(report.ranks, 4);
  EXPECT_EQ(report.strategy, "apb");
  const auto text = describe(report);
  for (const char* part : {"llama: Llama 2", "4 of width 256", "131,072 positions", "RoPE base 10000000000, no scaling",
                           "KV of a token    2.0 KiB in bf16, 4.0 KiB in fp32", "yes, of width 256", "3,072 tokens",
                           "4,000 document", "gpu, bf16 (estimate)", "Baton can run it."}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(model_report, parameters_are_counted_as_the_files_hold_them) {
  for (const auto& entry : fs::directory_iterator(fixtures)) {
    const auto report = inspect_model({.directory = entry.path(), .document_tokens = 100, .ranks = 2});
    EXPECT_TRUE(report.can_run()) << describe(report);
    std::int64_t numbers = 0;
    for (const auto& [name, count] : report.types) numbers += count;
    EXPECT_EQ(report.parameters, numbers) << entry.path();
    EXPECT_EQ(report.tokenizer_tokens, 0);
    EXPECT_THAT(report.tokenizer_problem, HasSubstr("tokenizer.json"));
  }
}

TEST(model_report, memory_is_that_of_the_plans_formulas) {
  const auto report = inspect_model({.directory = needle, .document_tokens = 4096, .ranks = 4});
  ASSERT_EQ(report.memory.size(), 3U);
  const auto &bf16 = report.memory[0], &fp32 = report.memory[1], &gpu = report.memory[2];
  // 4 layers, 2 KV heads of 64, keys and values of 1024 tokens.
  EXPECT_EQ(bf16.cost.kv_bytes, std::int64_t{4} * 2 * 64 * 2 * 1024 * 2);
  EXPECT_EQ(fp32.cost.kv_bytes, 2 * bf16.cost.kv_bytes);
  EXPECT_EQ(gpu.cost.kv_bytes, bf16.cost.kv_bytes);
  EXPECT_GT(fp32.cost.weights_bytes, bf16.cost.weights_bytes);
  // Tied embeddings stand there twice, as a table and as the output head.
  const std::int64_t embedding = 3072 * 256, heads = 4 * (256 * 512 + 2 * 256);
  EXPECT_GE(gpu.cost.weights_bytes, 2 * (report.parameters + embedding + heads));
  EXPECT_LE(gpu.cost.weights_bytes, 2 * (report.parameters + embedding + heads) + 64 * 1024);
  EXPECT_TRUE(gpu.is_estimate);
  EXPECT_FALSE(bf16.is_estimate);
  for (const auto& m : report.memory) {
    EXPECT_GT(m.cost.workspace_bytes, 0);
    EXPECT_GT(m.cost.fixed_bytes, 0);
  }
  EXPECT_EQ(inspect_model({.directory = needle, .ranks = 1}).strategy, "full");
}

TEST(model_report, tells_all_reasons_with_file_and_key) {
  spoilt_model model;
  model.config.update({{"hidden_act", "gelu"},
                       {"num_local_experts", 8},
                       {"rope_scaling", {{"rope_type", "longrope"}, {"factor", 2}}},
                       {"quantization_config", {{"quant_method", "gptq"}}}});
  const auto report = model.inspect();
  EXPECT_FALSE(report.can_run());
  EXPECT_EQ(reasons_of(report),
            (std::vector<std::string>{
                "num_local_experts: mixtures of experts are not supported",
                "quantization_config: quantized weights are not supported (\"gptq\"); F32, F16 and BF16 are",
                "hidden_act: \"gelu\" is not supported, \"silu\" is",
                "rope_scaling.rope_type: \"longrope\" is not supported; default, linear, llama3 and yarn are"}));
  EXPECT_TRUE(report.memory.empty());
  const auto text = describe(report);
  EXPECT_THAT(text, HasSubstr("Baton cannot run it:\n  " + (model.folder.path() / "config.json").string() +
                              ": num_local_experts: mixtures"));
  EXPECT_THAT(text, HasSubstr("longrope"));
  EXPECT_THAT(text, Not(HasSubstr("can run it.")));
  EXPECT_EQ(to_json(report).at("refusals").size(), 4U);
}

TEST(model_report, a_foreign_family_is_still_described) {
  spoilt_model model;
  model.config["model_type"] = "mistral\x1b[2J";
  const auto report = model.inspect();
  EXPECT_EQ(report.config.layers, 4);
  EXPECT_GT(report.parameters, 2'000'000);
  const auto text = describe(report);
  EXPECT_THAT(text, HasSubstr("family           mistral\\x1b[2J\n"));
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
}

TEST(model_report, memory_is_told_where_only_the_weights_are_missing) {
  spoilt_model model;
  fs::remove(model.folder.path() / "model.safetensors");
  const auto report = model.inspect();
  EXPECT_EQ(reasons_of(report), std::vector<std::string>{"cannot be opened: No such file or directory"});
  EXPECT_EQ(report.memory.size(), 3U);
  EXPECT_THAT(describe(report), HasSubstr("according to config.json"));
}

TEST(model_report, a_job_that_cannot_be_and_a_folder_without_a_model_are_refused) {
  const auto refusal = [](const report_request& request) -> std::string {
    try {
      inspect_model(request);
    } catch (const fault& why) {
      EXPECT_EQ(why.code(), fault_code::bad_input);
      return why.what();
    }
    return "nothing was refused";
  };
  EXPECT_THAT(refusal({.directory = needle, .document_tokens = 200'000}), HasSubstr("exceed the 131072 positions"));
  EXPECT_THAT(refusal({.directory = needle, .document_tokens = 0}), HasSubstr("document"));
  EXPECT_THAT(refusal({.directory = needle, .ranks = 0}), HasSubstr("ranks"));
  EXPECT_THAT(refusal({.directory = needle, .ranks = 100'000}), HasSubstr("ranks"));
  EXPECT_EQ(refusal({.directory = source / "docs"}), (source / "docs/config.json").string() + ": no such file");
}

TEST(model_report, json_has_every_field) {
  const auto report = to_json(inspect_model({.directory = fixtures / "qwen2_untied_yarn", .document_tokens = 100}));
  EXPECT_EQ(report.at("family"), "qwen2");
  EXPECT_EQ(report.at("can_run"), true);
  EXPECT_EQ(report.at("weights").at("files"), 3);
  EXPECT_EQ(report.at("weights").at("types").size(), 1U);
  EXPECT_EQ(report.at("context"), 256);
  EXPECT_EQ(report.at("rope").at("scaling"), "yarn");
  EXPECT_EQ(report.at("rope").at("factor"), 4);
  EXPECT_EQ(report.at("qkv_bias"), true);
  EXPECT_EQ(report.at("kv_bytes_per_token").at("bf16"), 2 * 2 * 2 * 16 * 2);
  EXPECT_EQ(report.at("memory").size(), 3U);
  EXPECT_EQ(report.at("memory")[2].at("device"), "gpu");
  EXPECT_EQ(report.at("job").at("ranks"), 8);
}

}  // namespace
}  // namespace baton
