#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/end_to_end/baton_process.hpp"
#include "tests/end_to_end/samples.hpp"
#include "tests/end_to_end/service_cluster.hpp"

namespace baton {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

std::vector<json> lines_of(const std::string& text) {
  std::vector<json> all;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!json::accept(line)) {
      ADD_FAILURE() << "no JSON: " << line;
      continue;
    }
    all.push_back(json::parse(line));
  }
  return all;
}

std::set<std::string> processes_in(const std::vector<json>& lines) {
  std::set<std::string> all;
  for (const auto& line : lines) all.insert(line.at("process"));
  return all;
}

process_result run_with(const std::string& config, const std::vector<std::string>& options) {
  std::filesystem::current_path(source);
  const auto s = samples_of("archive-2k").at(1);
  std::vector<std::string> words{"run", "--config", config, "--document", s.document, "--question", s.question};
  words.insert(words.end(), options.begin(), options.end());
  return run_baton(words);
}

TEST(log_of_a_run, is_json_of_all_its_processes_where_that_is_asked_for) {
  const auto result = run_with(many_processes, {"--log-json", "--log-level", "debug"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto lines = lines_of(result.err);
  for (const auto& line : lines) {
    EXPECT_THAT(line.at("time").get<std::string>(), MatchesRegex("20[0-9-]+T[0-9:]+[.][0-9]{3}Z"));
    EXPECT_THAT(line.at("level").get<std::string>(), testing::AnyOf("debug", "info")) << line;
    EXPECT_FALSE(line.at("message").get<std::string>().empty());
  }
  const auto processes = processes_in(lines);
  for (const std::string name : {"run", "node west", "node east", "worker west/cpu0", "worker east/cpu1"})
    EXPECT_THAT(processes, Contains(name));
  const auto prefilled = std::ranges::find_if(lines, [](const json& line) { return line.contains("prefill_s"); });
  ASSERT_NE(prefilled, lines.end());
  EXPECT_EQ(prefilled->at("job"), 1);
  EXPECT_EQ(prefilled->at("process"), "run");
  EXPECT_GT(prefilled->at("prefill_s"), 0.0);
  EXPECT_THAT(result.out, HasSubstr(samples_of("archive-2k").at(1).answer));
  EXPECT_THAT(result.out, HasSubstr("prefill"));
}

TEST(log_of_a_run, says_nothing_below_its_level_and_still_answers) {
  const auto result = run_with(quickstart, {"--log-level", "warning"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  EXPECT_THAT(result.out, HasSubstr("answer:\n"));
  EXPECT_THAT(result.out, HasSubstr("decode"));
}

TEST(log_of_a_run, of_debug_says_more_than_the_usual_one) {
  const auto usual = run_with(quickstart, {});
  const auto more = run_with(quickstart, {"--log-level", "debug"});
  EXPECT_THAT(usual.err, Not(HasSubstr("baton: ")));
  EXPECT_THAT(more.err, HasSubstr("baton: job 1 is accepted: "));
  EXPECT_THAT(more.err, HasSubstr("baton: job 1 has finished"));
}

TEST(log_of_a_run, of_trace_has_every_message_of_the_coordinator) {
  const auto result = run_with(quickstart, {"--log-level", "trace"});
  EXPECT_THAT(result.err, testing::ContainsRegex("baton: [0-9]+ bytes to worker [0-9]+"));
}

TEST(log_of_a_run, tells_a_refusal_with_its_place_unless_it_is_off) {
  const std::vector<std::string> wrong{"run", "--config", quickstart, "--tokens", "/nowhere.json"};
  auto told = wrong;
  told.emplace_back("--log-json");
  const auto result = run_baton(told);
  EXPECT_EQ(result.exit_code, 2);
  const auto lines = lines_of(result.err);
  ASSERT_EQ(lines.size(), 1u) << result.err;
  EXPECT_EQ(lines[0].at("level"), "error");
  EXPECT_EQ(lines[0].at("process"), "run");
  EXPECT_EQ(lines[0].at("code"), "bad input");
  EXPECT_THAT(lines[0].at("where").get<std::string>(), HasSubstr("/nowhere.json"));

  auto silent = wrong;
  silent.insert(silent.end(), {"--log-level", "off"});
  const auto nothing = run_baton(silent);
  EXPECT_EQ(nothing.exit_code, 2);
  EXPECT_EQ(nothing.err, "");
}

TEST(log_of_a_run, of_a_level_that_there_is_not_is_refused_with_those_there_are) {
  for (const std::string command : {"run", "coordinator", "submit"}) {
    const auto result = run_baton({command, "--config", quickstart, "--log-level", "loud"});
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.err, HasSubstr("'loud' is unknown; trace, debug, info, warning, error or off"));
  }
}

TEST(log_of_a_cluster, says_who_came_what_became_of_jobs_and_about_what) {
  service_cluster cluster;
  cluster.logs_with({"--log-json"});
  cluster.start_all();
  const auto s = samples_of("archive-2k").at(1);
  const auto answer = cluster.ask("submit", {"--document", s.document, "--question", s.question, "--quiet"});
  ASSERT_EQ(answer.exit_code, 0) << answer.err;

  const auto coordinator = lines_of(cluster.coordinator_said());
  EXPECT_EQ(processes_in(coordinator), std::set<std::string>{"coordinator"});
  const auto says = [&](const std::string& message, const std::string& field, const json& value) {
    return std::ranges::any_of(coordinator, [&](const json& line) {
      return line.at("message").get<std::string>().find(message) != std::string::npos && line.contains(field) &&
             line.at(field) == value;
    });
  };
  EXPECT_TRUE(says("the relay of node west is there", "node", "west"));
  EXPECT_TRUE(says("the worker of east/cpu0 is there", "device", "cpu0"));
  EXPECT_TRUE(says("is accepted", "job", 1));
  EXPECT_TRUE(says("has finished", "job", 1));
  EXPECT_EQ(processes_in(lines_of(cluster.node_said("west"))),
            (std::set<std::string>{"node west", "worker west/cpu0"}));
}

}  // namespace
}  // namespace baton
