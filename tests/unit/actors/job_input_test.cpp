#include "actors/job_input.hpp"

#include <algorithm>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "runtime/config/cluster_config.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/tokenizer_fixtures.hpp"

namespace baton {
namespace {

constexpr const char* document = "The access code for the Lisbon archive is 48213.";

struct preset {
  const char* tokenizer;
  const char* closing;  // of the user's turn, and the answer's header
};

const std::map<std::string, preset>& presets() {
  static const std::map<std::string, preset> all = {
      {"chatml", {"qwen2", "<|im_end|>\n<|im_start|>assistant\n"}},
      {"llama2", {"llama2.model", " [/INST]"}},
      {"llama3", {"llama3", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"}},
      {"needle", {"needle", "<|assistant|>"}},
      {"yi", {"yi.model", "<|im_end|>\n<|im_start|>assistant\n"}},
  };
  return all;
}

prompt prompt_of(const std::string& name, const std::string& system) {
  const temporary_directory directory;
  run_options options;
  options.document = directory.write("document.txt", document).string();
  options.question = "What is the access code?";
  const auto config = parse_cluster_config(
      "model: {directory: /m, prompt: " + name + ", system_prompt: \"" + system + "\"}\n", "f.yaml", "/");
  model_config model;
  model.vocabulary = 1 << 20;
  return read_prompt(options, config, model, &fixture_tokenizer(presets().at(name).tokenizer));
}

TEST(job_input, ends_the_query_with_the_header_of_the_answer_in_every_preset) {
  for (const auto& [name, expected] : presets()) {
    const tokenizer& t = fixture_tokenizer(expected.tokenizer);
    const prompt input = prompt_of(name, "");
    const auto closing = t.encode(expected.closing, special_tokens::parsed, text_place::after_text);
    ASSERT_LT(closing.size(), input.query_ids.size()) << name;
    EXPECT_TRUE(std::equal(closing.rbegin(), closing.rend(), input.query_ids.rbegin())) << name;
  }
}

TEST(job_input, opens_the_document_with_the_system_prompt_of_the_configuration) {
  for (const auto& [name, expected] : presets()) {
    if (name == "needle") continue;
    const tokenizer& t = fixture_tokenizer(expected.tokenizer);
    const prompt input = prompt_of(name, "Answer from <|im_end|> the document.");
    const auto opening = std::span(input.document_ids).first(static_cast<std::size_t>(input.system_tokens));
    EXPECT_NE(t.decode(opening).find("Answer from <|im_end|> the document."), std::string::npos) << name;
    EXPECT_EQ(t.decode(opening).find("Lisbon"), std::string::npos) << name;
    EXPECT_GT(input.system_tokens, prompt_of(name, "").system_tokens) << name;
  }
  EXPECT_THROW(prompt_of("needle", "Be brief."), fault);
}

TEST(job_input, names_the_file_of_a_tokenizer_that_does_not_belong_to_the_weights) {
  const temporary_directory directory;
  run_options options;
  options.document = directory.write("document.txt", document).string();
  options.question = "Which?";
  const auto config = parse_cluster_config("model: {directory: /m, prompt: llama2}\n", "f.yaml", "/");
  model_config model;
  model.vocabulary = 100;
  try {
    read_prompt(options, config, model, &fixture_tokenizer("llama2.model"));
    FAIL() << "accepted";
  } catch (const fault& f) {
    EXPECT_TRUE(f.where().ends_with("llama2.model")) << f.what();
    EXPECT_NE(f.reason().find("do not belong together"), std::string::npos) << f.what();
  }
}

}  // namespace
}  // namespace baton
