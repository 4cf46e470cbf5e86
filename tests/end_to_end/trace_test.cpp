#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/end_to_end/baton_process.hpp"
#include "tests/end_to_end/samples.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr int ranks = 4;
constexpr int layers = 4;  // of models/needle

/// A complete event.
struct slice {
  std::string name;
  std::string stage;
  int layer = 0;
  double begin_us = 0;
  double end_us = 0;
};

/// A trace as a viewer reads it.
struct trace {
  std::map<int, std::string> tracks;         ///< by thread
  std::map<int, int> rank_of;                ///< by thread
  std::map<int, std::vector<slice>> slices;  ///< by rank, in the file's order
  std::map<std::int64_t, json> starts, ends;
  std::vector<std::int64_t> bytes_in_flight;                ///< after each change
  std::map<std::string, std::vector<std::int64_t>> memory;  ///< by counter
  std::vector<double> times_us;
};

trace read_trace(const std::filesystem::path& path) {
  trace t;
  const auto file = json::parse(std::ifstream(path));
  for (const auto& event : file.at("traceEvents")) {
    const std::string kind = event.at("ph");
    if (kind == "M") {
      if (event.at("name") == "thread_name") t.tracks[event.at("tid")] = event.at("args").at("name");
      if (event.at("name") == "thread_sort_index") t.rank_of[event.at("tid")] = event.at("args").at("sort_index");
      continue;
    }
    t.times_us.push_back(event.at("ts"));
    if (kind == "X") {
      const double begin = event.at("ts");
      t.slices[t.rank_of.at(event.at("tid"))].push_back({event.at("name"), event.at("cat"),
                                                         event.at("args").at("layer"), begin,
                                                         begin + event.at("dur").get<double>()});
    } else if (kind == "C") {
      auto& counter = event.at("name") == "blocks in flight" ? t.bytes_in_flight : t.memory[event.at("name")];
      counter.push_back(event.at("args").at("bytes"));
    } else {
      auto& side = kind == "s" ? t.starts : t.ends;
      EXPECT_TRUE(side.emplace(event.at("id"), event).second) << "a flow has one start and one end";
    }
  }
  return t;
}

const slice* slice_around(const trace& t, const json& event) {
  const double at = event.at("ts");
  for (const auto& s : t.slices.at(t.rank_of.at(event.at("tid")))) {
    if (s.begin_us <= at && at < s.end_us) return &s;
  }
  return nullptr;
}

struct traced_run : testing::Test {
  temporary_directory folder;

  process_result run(const std::string& trace_file, const std::vector<std::string>& more = {}) const {
    std::filesystem::current_path(source);
    std::vector<std::string> arguments{"run",
                                       "--config",
                                       "configs/two-devices.yaml",
                                       "--document",
                                       "models/needle/documents/archive-2k.txt",
                                       "--question",
                                       "Which account number does the Oslo lighthouse have?",
                                       "--ranks",
                                       std::to_string(ranks),
                                       "--quiet",
                                       "--trace",
                                       trace_file};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_baton(arguments);
  }
};

TEST_F(traced_run, every_rank_has_a_track_of_all_its_work_and_every_block_an_arrow) {
  const auto path = folder.path() / "trace.json";
  const auto result = run(path.string(), {"--compare", "full"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto t = read_trace(path);

  // The first of two strategies alone.
  ASSERT_EQ(t.tracks.size(), static_cast<std::size_t>(ranks));
  for (const auto& [thread, name] : t.tracks) {
    const int rank = t.rank_of.at(thread);
    EXPECT_EQ(name, "rank " + std::to_string(rank) + (rank < ranks / 2 ? " (local/cpu0)" : " (local/cpu1)"));
  }
  EXPECT_TRUE(std::ranges::is_sorted(t.times_us));
  ASSERT_FALSE(t.bytes_in_flight.empty());
  EXPECT_GT(std::ranges::max(t.bytes_in_flight), 0);
  EXPECT_GE(std::ranges::min(t.bytes_in_flight), 0);
  EXPECT_EQ(t.bytes_in_flight.back(), 0);
  ASSERT_EQ(t.memory.size(), 2U);
  for (const auto& [device, lent] : t.memory) {
    // A device's ranks take their memory, and when their prefill ends they keep their KV alone.
    EXPECT_TRUE(device == "memory of local/cpu0" || device == "memory of local/cpu1") << device;
    EXPECT_GT(std::ranges::max(lent), lent.front()) << device;
    EXPECT_LT(lent.back(), std::ranges::max(lent)) << device;
    EXPECT_GT(std::ranges::min(lent), 0) << device;
  }

  for (int rank = 0; rank < ranks; ++rank) {
    std::set<std::pair<int, std::string>> done;
    std::set<std::string> answering;
    const slice* last = nullptr;
    for (const auto& s : t.slices.at(rank)) {
      EXPECT_LT(s.begin_us, s.end_us);
      // Sums of numbers with three decimals: equal but for the last bits.
      if (last) {
        EXPECT_GE(s.begin_us, last->end_us - 1e-4) << "rank " << rank << ": " << last->name << ", " << s.name;
      }
      last = &s;
      if (s.stage == "prefill") done.emplace(s.layer, s.name);
      if (s.stage != "prefill") answering.insert(s.name);
    }
    for (int layer = 0; layer < layers; ++layer) {
      for (const char* phase : {"project", "exchange", "attend", "feed_forward"})
        EXPECT_TRUE(done.contains({layer, phase})) << "rank " << rank << ", layer " << layer << ", " << phase;
      // The last rank has nobody to pass anything on to.
      EXPECT_EQ(done.contains({layer, "compress"}), rank + 1 < ranks) << "rank " << rank << ", layer " << layer;
    }
    for (const char* phase : {"project", "exchange", "attend", "feed_forward"})
      EXPECT_TRUE(answering.contains(phase)) << "rank " << rank << ", " << phase;
  }

  ASSERT_EQ(t.starts.size(), t.ends.size());
  std::set<std::tuple<int, int, int>> passed;
  for (const auto& [id, start] : t.starts) {
    ASSERT_TRUE(t.ends.contains(id));
    const auto& end = t.ends.at(id);
    const auto& about = start.at("args");
    EXPECT_EQ(end.at("args"), about);
    EXPECT_EQ(end.at("cat"), start.at("cat"));
    EXPECT_EQ(end.at("bp"), "e");
    EXPECT_EQ(t.rank_of.at(start.at("tid")), about.at("source"));
    EXPECT_EQ(t.rank_of.at(end.at("tid")), about.at("target"));
    EXPECT_LT(start.at("ts").get<double>(), end.at("ts").get<double>());
    const auto* leaves = slice_around(t, start);
    const auto* comes = slice_around(t, end);
    ASSERT_TRUE(leaves && comes) << start;
    EXPECT_EQ(leaves->name, "exchange");
    EXPECT_EQ(comes->name, "exchange");
    if (start.at("cat") == "prefill") {
      EXPECT_EQ(leaves->layer, about.at("layer"));
      EXPECT_EQ(comes->layer, about.at("layer"));
      EXPECT_TRUE(passed.emplace(about.at("layer"), about.at("source"), about.at("target")).second);
    }
  }
  std::set<std::tuple<int, int, int>> relayed;
  for (int layer = 0; layer < layers; ++layer) {
    for (int from = 0; from < ranks; ++from) {
      for (int to = from + 1; to < ranks; ++to) relayed.emplace(layer, from, to);
    }
  }
  EXPECT_EQ(passed, relayed);
}

TEST_F(traced_run, a_trace_that_cannot_be_kept_is_refused_before_the_work) {
  const auto result = run("/nowhere/trace.json");
  EXPECT_EQ(result.exit_code, 2) << result.out;
  EXPECT_THAT(result.err, HasSubstr("--trace /nowhere/trace.json"));
}

TEST_F(traced_run, over_a_link_of_20_ms_ranks_attend_to_their_own_block_while_passing_blocks_travel) {
  constexpr double delay_us = 20'000;
  std::ofstream(folder.path() / "slow.yaml") << config_text("processes.yaml", "links: {delay: 20ms}");
  std::filesystem::current_path(source);
  const auto s = samples_of("archive-8k").at(0);
  const auto path = folder.path() / "trace.json";
  const auto result =
      run_baton({"run", "--config", (folder.path() / "slow.yaml").string(), "--document", s.document, "--question",
                 s.question, "--ranks", std::to_string(ranks), "--quiet", "--trace", path.string()});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(stripped(result.out), s.answer + "\n");
  const auto t = read_trace(path);
  std::map<std::pair<int, int>, double> taken_at;  ///< by rank and layer: its last block
  for (const auto& [id, start] : t.starts) {
    if (start.at("cat") != "prefill") continue;
    const double sent = start.at("ts");
    const double taken = t.ends.at(id).at("ts");
    EXPECT_GE(taken - sent, delay_us) << start;
    const auto& about = start.at("args");
    auto& last = taken_at[{about.at("target").get<int>(), about.at("layer").get<int>()}];
    last = std::max(last, taken);
  }
  ASSERT_EQ(taken_at.size(), static_cast<std::size_t>((ranks - 1) * layers));
  // A strategy that waits for its blocks before it attends to anything has no such slice.
  for (const auto& [place, last] : taken_at) {
    const auto& slices = t.slices.at(place.first);
    EXPECT_TRUE(std::ranges::any_of(slices,
                                    [&](const slice& one) {
                                      return one.stage == "prefill" && one.name == "attend" &&
                                             one.layer == place.second && one.end_us <= last;
                                    }))
        << "rank " << place.first << ", layer " << place.second;
  }
}

}  // namespace
}  // namespace baton
