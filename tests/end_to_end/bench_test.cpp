#include <array>
#include <cstdio>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/end_to_end/baton_process.hpp"
#include "tests/end_to_end/samples.hpp"
#include "tests/support/places.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

const std::string shape_text =
    "model_type: llama\nnum_hidden_layers: 2\nhidden_size: 64\nintermediate_size: 96\nnum_attention_heads: 4\n"
    "num_key_value_heads: 2\nvocab_size: 100\nmax_position_embeddings: 65536\nretaining_width: 16\n";

/// A bench of a tiny shape, with a cache of its own.
class bench : public ::testing::Test {
 protected:
  process_result run(std::vector<std::string> options) {
    options.insert(options.begin(),
                   {"bench", "prefill", "--shape", shape.string(), "--repeats", "2", "--threads", "1"});
    return run_baton(options, {}, {"XDG_CACHE_HOME=" + folder.path().string()});
  }

  const temporary_directory folder;
  const std::filesystem::path shape = folder.write("shape.yaml", shape_text);
};

TEST_F(bench, prefill_compares_strategies_in_turns_and_writes_json_and_a_plot) {
  const auto done = run(
      {"--lengths", "512,1K", "--ranks", "1,4", "--json", folder.path() / "r.json", "--svg", folder.path() / "r.svg"});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  const auto json = json_of(folder.path() / "r.json");
  ASSERT_EQ(json["rows"].size(), 6U);  // per length: full 1, star 4, apb 4
  for (const auto& row : json["rows"]) {
    EXPECT_EQ(row["repetitions"].size(), 2U);
    EXPECT_GT(row["median_s"], 0);
    EXPECT_EQ(row["bytes_received"] > 0, row["strategy"] == "apb");
    EXPECT_FALSE(row["projected"]);
    EXPECT_GT(row["predicted_s"], 0);
  }
  EXPECT_EQ(json["rows"][0]["ratio"], 1.0);
  EXPECT_GT(json["rows"][5]["counted_ratio"], 0);
  EXPECT_NE(text_of(folder.path() / "r.svg").find(">star 4</text>"), std::string::npos);
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "baton" / "rates.json"));
}

TEST_F(bench, prefill_projects_virtual_ranks_with_even_and_balanced_blocks_and_says_so) {
  const auto done =
      run({"--lengths", "1K", "--virtual-ranks", "4", "--blocks", "even,balanced", "--json", folder.path() / "r.json"});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_NE(done.out.find("PROJECTED"), std::string::npos);
  const auto rows = json_of(folder.path() / "r.json")["rows"];
  ASSERT_EQ(rows.size(), 4U);  // full, star even, apb even, apb balanced
  EXPECT_EQ(rows[3]["blocks"], "balanced");
  std::int64_t sum = 0;
  for (const auto& tokens : rows[3]["block_tokens"]) sum += tokens.get<std::int64_t>();
  EXPECT_EQ(sum, 1024);
  for (const auto& row : rows) EXPECT_TRUE(row["projected"]);
}

TEST_F(bench, prefill_refuses_what_it_cannot_measure_with_the_option) {
  EXPECT_EQ(run({"--lengths", "2X"}).exit_code, 2);
  const auto unknown = run({"--strategies", "fastest"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_NE(unknown.err.find("fastest"), std::string::npos);
  EXPECT_EQ(run({"--blocks", "odd"}).exit_code, 2);
  EXPECT_EQ(run({"--lengths", "128K"}).exit_code, 2);  // the shape has 65536 positions
  EXPECT_EQ(run_baton({"bench", "prefill"}).exit_code, 2);
}

TEST(completions, bash_finds_commands_options_and_leaves_files_to_the_shell) {
  const auto complete = [](const std::string& words, int at) {
    const std::string command = "bash -c 'source <(" + std::string(BATON_BINARY) + " completions bash); COMP_WORDS=(" +
                                words + "); COMP_CWORD=" + std::to_string(at) + "; _baton; echo \"${COMPREPLY[*]}\"'";
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(popen(command.c_str(), "r"), pclose);
    std::string text;
    std::array<char, 4096> piece{};
    while (std::fgets(piece.data(), piece.size(), pipe.get()) != nullptr) text += piece.data();
    return text;
  };
  EXPECT_EQ(complete("baton ins", 1), "inspect\n");
  EXPECT_EQ(complete("baton bench k", 2), "kernels\n");
  EXPECT_EQ(complete("baton bench prefill --virt", 3), "--virtual-ranks\n");
  EXPECT_EQ(complete("baton run --config con", 3), "\n");
  EXPECT_EQ(complete("baton run --log-level d", 3), "debug\n");
  EXPECT_EQ(complete("baton node --log-j", 2), "--log-json\n");
  EXPECT_EQ(complete("baton submit --strategy \"\"", 3), "full star apb\n");
  EXPECT_EQ(complete("baton completions f", 2), "fish\n");
}

/// The names that a help text lists under "Subcommands:" and the groups after it.
std::vector<std::string> commands_in(const std::string& help) {
  std::vector<std::string> names;
  std::istringstream lines(help);
  bool below = false;
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line[0] != ' ') below = line.rfind("Subcommands", 0) == 0 || line.rfind("A cluster", 0) == 0;
    if (below && line.rfind("  ", 0) == 0 && line.size() > 2 && line[2] != ' ')
      names.push_back(line.substr(2, line.find(' ', 2) - 2));
  }
  return names;
}

/// Every command's help has examples whose options are those of the command.
void expect_examples(const std::vector<std::string>& command, std::size_t& commands) {
  auto words = command;
  words.emplace_back("--help");
  const auto help = run_baton(words);
  EXPECT_EQ(help.exit_code, 0) << help.err;
  const auto below = commands_in(help.out);
  for (const auto& name : below) {
    auto path = command;
    path.push_back(name);
    expect_examples(path, commands);
  }
  if (command.empty() || !below.empty()) return;
  ++commands;
  const auto at = help.out.find("\nExamples:\n");
  ASSERT_NE(at, std::string::npos) << help.out;
  const auto options = help.out.substr(0, at);
  std::string path = "baton";
  for (const auto& word : command) path += " " + word;
  EXPECT_NE(help.out.find(path, at), std::string::npos) << help.out;
  std::istringstream lines(help.out.substr(at));
  for (std::string line; std::getline(lines, line);) {
    const auto begins = line.find(path);
    if (begins == std::string::npos) continue;
    std::istringstream typed(line.substr(begins));
    for (std::string word; typed >> word;) {
      if (word.rfind("--", 0) != 0) continue;
      if (word.back() == ')') word.pop_back();
      EXPECT_NE(options.find("  " + word + " "), std::string::npos) << path << " has no " << word;
    }
  }
}

TEST(help, of_every_command_has_examples_with_options_that_it_has) {
  std::size_t commands = 0;
  expect_examples({}, commands);
  EXPECT_EQ(commands, 18U);
}

}  // namespace
}  // namespace baton
