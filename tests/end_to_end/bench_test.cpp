#include <array>
#include <cstdio>
#include <memory>
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
}

}  // namespace
}  // namespace baton
