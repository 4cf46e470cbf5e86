#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/end_to_end/baton_process.hpp"
#include "tests/end_to_end/samples.hpp"
#include "tests/support/reference_weights.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using nlohmann::json;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

/// Every test runs twice: all in one process, and as node agents and workers of their own. The parameter is the file in configs/.
struct run : testing::TestWithParam<const char*> {
  temporary_directory folder;
  const std::string config = config_file(GetParam());
  void SetUp() override { std::filesystem::current_path(source); }

  std::string file(const std::string& name) const { return (folder.path() / name).string(); }

  json answer(const sample& s, std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments{"run",        "--config", config,   "--document",     s.document,
                                       "--question", s.question, "--json", file("out.json"), "--quiet"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto result = run_baton(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    auto told = json_of(file("out.json"));
    // A busy machine may seem silent; a worker that ended did so by a fault of ours.
    for (const auto& replay : told.at("replays"))
      EXPECT_THAT(replay.at("cause").get<std::string>(), HasSubstr("silent")) << result.err;
    return told;
  }
};

TEST_P(run, every_strategy_answers_the_questions_of_the_8k_archive) {
  auto samples = samples_of("archive-8k");
  ASSERT_GE(samples.size(), 4u);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  samples.resize(1);  // the same paths, ten times as slow
#endif
  for (const auto& s : samples) {
    for (const auto& strategy :
         std::vector<std::vector<std::string>>{{"--strategy", "full"},
                                               {"--strategy", "star", "--ranks", "4"},
                                               {"--strategy", "apb", "--ranks", "8"},
                                               {"--strategy", "apb", "--ranks", "4", "--compressor", "query_key"}}) {
      EXPECT_EQ(stripped(answer(s, strategy).at("answer")), s.answer) << s.question << " " << strategy[1];
    }
  }
}

TEST_P(run, full_apb_answers_every_question_of_the_32k_archive_as_full_attention_does) {
  const auto samples = samples_of("archive-32k");
  ASSERT_GE(samples.size(), 8u);
  for (const auto& s : samples) {
    const auto both = answer(s, {"--strategy", "apb", "--ranks", "8", "--compare", "full"});
    EXPECT_EQ(stripped(both.at("answer")), s.answer) << s.question;
    EXPECT_EQ(both.at("answer_ids"), both.at("compare").at("answer_ids")) << s.question;
  }
}

TEST_P(run, the_json_has_every_promised_key) {
  const auto s = samples_of("archive-2k").at(0);
  const auto result = answer(s, {"--ranks", "4", "--compare", "full"});
  for (const char* key : {"answer", "answer_ids", "strategy", "plan", "document_tokens", "query_tokens", "prefill_s",
                          "load_s", "first_token_s", "decode_tokens_per_s", "ranks", "compare"}) {
    EXPECT_TRUE(result.contains(key)) << key;
  }
  ASSERT_EQ(result.at("ranks").size(), 4u);
  for (const char* key : {"rank", "node", "device", "block_tokens", "anchor_tokens", "passing_tokens", "compute_s",
                          "wait_s", "exposed_wait_s", "bytes_sent", "bytes_received"}) {
    EXPECT_TRUE(result.at("ranks").at(3).contains(key)) << key;
  }
  EXPECT_EQ(result.at("document_tokens"), 2048);
  EXPECT_EQ(result.at("compare").at("strategy"), "full");
  EXPECT_EQ(result.at("compare").at("ranks").size(), 1u);
}

TEST_P(run, a_comparison_cuts_the_document_for_the_strategy_that_cuts_it) {
  const auto s = samples_of("archive-2k").at(0);
  const auto both = answer(s, {"--strategy", "full", "--compare", "apb", "--ranks", "4", "--passing-tokens", "64"});
  EXPECT_EQ(both.at("ranks").size(), 1u);
  EXPECT_EQ(both.at("compare").at("strategy"), "apb");
  EXPECT_EQ(both.at("compare").at("ranks").size(), 4u);
  EXPECT_DOUBLE_EQ(both.at("speedup").get<double>(),
                   both.at("compare").at("prefill_s").get<double>() / both.at("prefill_s").get<double>());
}

TEST_P(run, quiet_prints_the_answer_alone_and_piped_output_has_no_escape_codes) {
  const auto s = samples_of("archive-2k").at(0);
  const auto quiet = run_baton(
      {"run", "--config", config, "--document", s.document, "--question", s.question, "--ranks", "2", "--quiet"});
  EXPECT_EQ(quiet.exit_code, 0);
  EXPECT_EQ(stripped(quiet.out), s.answer + "\n");
  EXPECT_EQ(quiet.err, "");
  const auto full =
      run_baton({"run", "--config", config, "--document", s.document, "--question", s.question, "--ranks", "2"});
  EXPECT_THAT(full.out, HasSubstr(s.answer));
  EXPECT_THAT(full.out + full.err, Not(HasSubstr("\x1b")));
}

TEST_P(run, a_document_may_come_from_standard_input) {
  const auto s = samples_of("archive-2k").at(1);
  std::ifstream file(s.document, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto result = run_baton(
      {"run", "--config", config, "--document", "-", "--question", s.question, "--ranks", "2", "--quiet"}, text);
  EXPECT_EQ(stripped(result.out), s.answer + "\n") << result.err;
}

TEST_P(run, devices_threads_and_instruction_sets_give_the_same_answer) {
  const auto s = samples_of("archive-2k").at(2);
  const std::vector<std::string> common{"run",     "--document", s.document, "--question", s.question,
                                        "--ranks", "4",          "--quiet",  "--config"};
  auto two = common;
  two.push_back((source / "configs/two-devices.yaml").string());
  EXPECT_EQ(stripped(run_baton(two).out), s.answer + "\n");
  auto one = common;
  one.push_back(config);
  EXPECT_EQ(stripped(run_baton(one, "", {"ONEDNN_MAX_CPU_ISA=AVX2"}).out), s.answer + "\n");
  auto exact = common;
  exact.push_back((source / "configs/fp32.yaml").string());
  EXPECT_EQ(stripped(run_baton(exact).out), s.answer + "\n");
}

TEST_P(run, tokens_bypass_text_and_the_dump_holds_logits_and_units) {
  const auto model = source / "tests/fixtures/models/llama_tied";
  const auto golden = reference::read_tensors(model / "golden.safetensors");
  const auto& ids = golden.at("input_ids").values;
  const auto cut = static_cast<std::ptrdiff_t>(ids.size()) - 10;
  std::vector<int> document, query;
  for (std::size_t i = 0; i < ids.size(); ++i)
    (static_cast<std::ptrdiff_t>(i) < cut ? document : query).push_back(static_cast<int>(ids[i]));
  std::ofstream(file("tokens.json")) << json{{"document_ids", document}, {"query_ids", query}, {"system_tokens", 2}};
  const auto result = run_baton({"run", "--config", config, "--model", model.string(), "--tokens", file("tokens.json"),
                                 "--strategy", "full", "--precision", "fp32", "--max-new-tokens", "16", "--dump",
                                 file("dump.safetensors"), "--json", file("out.json")});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto& expected = golden.at("logits_f32");
  const auto logits = reference::read_tensors(file("dump.safetensors")).at("first_logits").values;
  ASSERT_EQ(static_cast<int>(logits.size()), expected.shape.back());
  const std::size_t last = expected.values.size() - logits.size();
  for (std::size_t i = 0; i < logits.size(); ++i) EXPECT_NEAR(logits[i], expected.values[last + i], 2e-3);
  EXPECT_EQ(json_of(file("out.json")).at("answer_ids"), json(golden.at("greedy_ids").values).get<std::vector<int>>());

  const auto apb = run_baton({"run", "--config", config, "--model", model.string(), "--tokens", file("tokens.json"),
                              "--ranks", "3", "--anchor-tokens", "20", "--passing-tokens", "7", "--dump",
                              file("dump.safetensors"), "--max-new-tokens", "1"});
  ASSERT_EQ(apb.exit_code, 0) << apb.err;
  const auto dump = reference::read_tensors(file("dump.safetensors"));
  for (const char* name : {"selected.layer0.rank0", "selected.layer1.rank1"}) {
    ASSERT_TRUE(dump.contains(name)) << name;
    EXPECT_EQ(dump.at(name).shape, (std::vector<int>{2, 7}));
  }
  EXPECT_FALSE(dump.contains("selected.layer0.rank2"));
}

TEST_P(run, plan_prints_blocks_and_memory_and_runs_nothing) {
  const auto s = samples_of("archive-8k").at(0);
  const auto result =
      run_baton({"plan", "--config", config, "--document", s.document, "--question", s.question, "--ranks", "4"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (const char* word : {"apb", "retaining_heads", "8,192", "2,047"}) EXPECT_THAT(result.out, HasSubstr(word));
}

TEST_P(run, memory_grows_with_the_document_as_the_plan_says) {
  if (GetParam() != std::string("quickstart.yaml")) GTEST_SKIP() << "the plan's devices are processes of their own";
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers keep memory of their own";
#endif
  std::vector<std::int64_t> planned, resident;
  for (const char* archive : {"archive-2k", "archive-32k"}) {
    const auto s = samples_of(archive).at(0);
    const std::vector<std::string> job{"--config", config, "--document", s.document, "--question", s.question};
    auto plan = job;
    plan.insert(plan.begin(), "plan");
    plan.insert(plan.end(), {"--json", file("plan.json")});
    ASSERT_EQ(run_baton(plan).exit_code, 0);
    planned.push_back(json_of(file("plan.json")).at("costs").at("devices").at(0).at("total_bytes"));
    auto go = job;
    go.insert(go.begin(), {"run", "--quiet"});
    resident.push_back(run_baton(go).peak_bytes);
  }
  // What does not depend on the document, program and libraries, falls out of the difference.
  const double growth = static_cast<double>(resident[1] - resident[0]) / static_cast<double>(planned[1] - planned[0]);
  EXPECT_GT(growth, 0.8);
  EXPECT_LT(growth, 1.15);
}

TEST_P(run, an_interrupt_stops_the_job_within_seconds) {
  std::string text;
  const auto s = samples_of("archive-32k").at(0);
  std::ifstream in(s.document, std::ios::binary);
  const std::string once{std::istreambuf_iterator<char>(in), {}};
  for (int i = 0; i < 3; ++i) text += once;
  baton_process process({"run", "--config", config, "--document", "-", "--question", s.question, "--strategy", "full"},
                        text);
  for (int i = 0; i < 3000 && process.err_so_far().empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const auto begun = std::chrono::steady_clock::now();
  process.send_signal(SIGINT);
  const auto result = process.wait();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("baton: stopped"));
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(60));
}

INSTANTIATE_TEST_SUITE_P(ways, run, testing::Values("quickstart.yaml", "processes.yaml"), [](const auto& param_info) {
  return std::filesystem::path(param_info.param).stem().string();
});

struct mistake {
  std::string title;
  std::vector<std::string> arguments;
  std::string expected;
};
void PrintTo(const mistake& m, std::ostream* out) { *out << m.title; }

class mistakes : public testing::TestWithParam<mistake> {};

TEST_P(mistakes, are_refused_at_once_with_what_is_wrong) {
  std::filesystem::current_path(source);
  temporary_directory folder;
  const auto put = [&](const std::string& name, const std::string& text) {
    std::ofstream(folder.path() / name, std::ios::binary) << text;
  };
  put("empty.txt", "");
  put("binary.txt", "good line\nbad \xff byte");
  put("bad.yaml", "model:\n  directory: models/needle\n  promt: needle\n");
  put("tokens.json", R"({"document_ids": [1, 2, 99999], "query_ids": [1]})");
  put("float.json", R"({"document_ids": [1, 2.5], "query_ids": [1]})");
  put("none.json", R"({"document_ids": [1, 2], "query_ids": []})");
  put("broken.json", "{");
  std::vector<std::string> arguments;
  for (std::string argument : GetParam().arguments) {
    if (const auto at = argument.find("TMP"); at != std::string::npos) argument.replace(at, 3, folder.path().string());
    if (argument == "CONFIG") argument = quickstart;
    if (argument == "DOC") argument = (source / "models/needle/documents/archive-2k.txt").string();
    arguments.push_back(argument);
  }
  const auto result = run_baton(arguments);
  EXPECT_EQ(result.exit_code, 2) << result.out;
  EXPECT_THAT(result.err, HasSubstr(GetParam().expected));
}

INSTANTIATE_TEST_SUITE_P(
    all, mistakes,
    testing::Values(
        mistake{"no_command", {}, "subcommand"},
        mistake{"unknown_option", {"run", "--config", "CONFIG", "--fast"}, "--fast"},
        mistake{"missing_config",
                {"run", "--config", "nowhere.yaml", "--document", "DOC", "--question", "x"},
                "nowhere.yaml"},
        mistake{
            "unknown_key", {"run", "--config", "TMP/bad.yaml", "--document", "DOC", "--question", "x"}, "bad.yaml:3:3"},
        mistake{"check_config", {"check-config", "TMP/bad.yaml"}, "promt"},
        mistake{"missing_document",
                {"run", "--config", "CONFIG", "--document", "nowhere.txt", "--question", "x"},
                "nowhere.txt"},
        mistake{"no_document", {"run", "--config", "CONFIG", "--question", "x"}, "--document"},
        mistake{"no_question", {"run", "--config", "CONFIG", "--document", "DOC"}, "--question"},
        mistake{
            "empty_document", {"run", "--config", "CONFIG", "--document", "TMP/empty.txt", "--question", "x"}, "empty"},
        mistake{"empty_question", {"run", "--config", "CONFIG", "--document", "DOC", "--question", ""}, "question"},
        mistake{"not_utf8",
                {"run", "--config", "CONFIG", "--document", "TMP/binary.txt", "--question", "x"},
                "binary.txt:2:5"},
        mistake{"missing_model",
                {"run", "--config", "CONFIG", "--model", "nowhere", "--document", "DOC", "--question", "x"},
                "nowhere"},
        mistake{"unknown_strategy",
                {"run", "--config", "CONFIG", "--document", "DOC", "--question", "x", "--strategy", "fast"},
                "full, star, apb"},
        mistake{"unknown_compressor",
                {"run", "--config", "CONFIG", "--document", "DOC", "--question", "x", "--compressor", "zip"},
                "retaining_heads"},
        mistake{"unknown_precision",
                {"run", "--config", "CONFIG", "--document", "DOC", "--question", "x", "--precision", "int4"},
                "--precision"},
        mistake{"nothing_to_compress",
                {"run", "--config", "CONFIG", "--document", "DOC", "--question", "x", "--strategy", "star",
                 "--passing-tokens", "5"},
                "--passing-tokens: means nothing to strategy star"},
        mistake{
            "no_ranks", {"run", "--config", "CONFIG", "--document", "DOC", "--question", "x", "--ranks", "0"}, "ranks"},
        mistake{"blocks_do_not_add_up",
                {"run", "--config", "CONFIG", "--document", "DOC", "--question", "x", "--block-tokens", "1,2"},
                "the document has 2048"},
        mistake{"anchor_too_short",
                {"run", "--config", "CONFIG", "--document", "DOC", "--question", "x", "--anchor-tokens", "3"},
                "does not fit the anchor"},
        mistake{"temperature_that_is_no_number",
                {"run", "--config", "CONFIG", "--document", "DOC", "--question", "x", "--temperature", "nan"},
                "temperature"},
        mistake{"passing_too_much",
                {"run", "--config", "CONFIG", "--document", "DOC", "--question", "x", "--passing-tokens", "3000000000"},
                "passing-tokens"},
        mistake{
            "ranks_for_a_strategy_of_one",
            {"run", "--config", "CONFIG", "--document", "DOC", "--question", "x", "--strategy", "full", "--ranks", "8"},
            "runs on one rank"},
        mistake{"id_out_of_range", {"run", "--config", "CONFIG", "--tokens", "TMP/tokens.json"}, "document_ids[2]"},
        mistake{"id_not_whole", {"run", "--config", "CONFIG", "--tokens", "TMP/float.json"}, "document_ids[1]"},
        mistake{"no_ids", {"run", "--config", "CONFIG", "--tokens", "TMP/none.json"}, "'query_ids' is empty"},
        mistake{"broken_json", {"run", "--config", "CONFIG", "--tokens", "TMP/broken.json"}, "broken.json"},
        mistake{"unwritable_result",
                {"run", "--config", "CONFIG", "--document", "DOC", "--question", "x", "--json", "/nowhere/out.json"},
                "--json"}),
    [](const auto& param_info) { return param_info.param.title; });

TEST(configs, every_file_is_accepted_by_check_config) {
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(source / "configs")) {
    if (entry.is_directory()) continue;  // shapes/: models without weights
    const auto result = run_baton({"check-config", entry.path().string()});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    ++files;
  }
  EXPECT_GE(files, 4u);
}

TEST(version, names_the_instruction_set_and_the_libraries) {
  const auto out = run_baton({"version"}).out;
  EXPECT_THAT(out, ContainsRegex("cpu[^\n]*(sse4|avx2|avx512|amx)"));
  EXPECT_THAT(out, HasSubstr("oneDNN"));
}

}  // namespace
}  // namespace baton
