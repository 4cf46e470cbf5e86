#include "runtime/bench/bench_engine.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/fault.hpp"
#include "runtime/bench/calibration.hpp"
#include "runtime/bench/kernel_bench.hpp"
#include "runtime/bench/prefill_report.hpp"
#include "runtime/device/model_weights.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

model_shape tiny_shape() {
  model_shape shape;
  auto& c = shape.config;
  c.family = "llama";
  c.layers = 3;
  c.hidden = 64;
  c.ffn = 96;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 16;
  c.vocabulary = 100;
  c.rms_eps = 1e-6;
  c.rope_theta = 10'000;
  c.max_positions = 1 << 20;
  shape.retaining_width = 16;
  return shape;
}

job_plan plan_of(const std::string& strategy, int ranks, std::int64_t tokens, std::span<const device_view> views) {
  plan_request request;
  request.document_tokens = tokens;
  request.query_tokens = 5;
  request.has_retaining_heads = true;
  request.options.strategy = strategy;
  request.options.ranks = ranks;
  request.options.max_new_tokens = 1;
  request.options.chunk_tokens = 64;
  if (strategy == "apb") {
    request.options.anchor_tokens = 16;
    request.options.passing_tokens = 8;
  }
  return make_job_plan(request, views);
}

class bench_engine_test : public ::testing::Test {
 protected:
  const std::unique_ptr<backend> first = cpu::make_cpu_backend({.threads = 1});
  const std::unique_ptr<backend> second = cpu::make_cpu_backend({.threads = 1});

  const std::vector<device_view> views{{"n", "a", ""}, {"n", "b", ""}};
  const model_weights weights{*first, checkpoint::of_shape(tiny_shape())};
  const std::vector<bench_device> devices{{"n", "a", first.get(), &weights}, {"n", "b", second.get(), &weights}};
  const std::vector<std::int32_t> query = generated_tokens(5, 100, 2);
};

TEST_F(bench_engine_test, runs_every_strategy_on_the_devices_that_its_plan_names) {
  const std::vector plans{plan_of("full", 1, 300, views), plan_of("star", 3, 300, views),
                          plan_of("apb", 4, 300, views)};
  bench_engine engine(devices, plans);
  const auto document = generated_tokens(300, 100, 1);
  for (int again = 0; again < 2; ++again) {
    for (const auto& plan : plans) {
      const auto run = engine.run(plan, document, query);
      ASSERT_EQ(run.ranks.size(), plan.shards.size());
      double busiest = 0;
      for (const auto& rank : run.ranks) {
        EXPECT_GT(rank.timings.compute_s, 0);
        busiest = std::max(busiest, rank.timings.compute_s);
      }
      EXPECT_GE(run.prefill_s, busiest);
      const bool passes = plan.strategy == "apb";
      EXPECT_EQ(run.ranks.back().counts.blocks_received, passes ? 3 * 3 : 0);
    }
  }
}

TEST_F(bench_engine_test, lockstep_moves_the_same_blocks_and_times_every_layer_of_every_rank) {
  const std::vector one_device{views.front()};
  const std::vector plans{plan_of("apb", 4, 300, one_device), plan_of("star", 2, 300, one_device),
                          plan_of("full", 1, 300, one_device)};
  bench_engine engine(std::span<const bench_device>(devices).first(1), plans);
  const auto document = generated_tokens(300, 100, 1);
  for (const auto& plan : plans) {
    const auto run = engine.run(plan, document, query);
    const auto lockstep = engine.run_in_lockstep(plan, document, query);
    ASSERT_EQ(lockstep.layers.size(), plan.shards.size());
    for (std::size_t h = 0; h < plan.shards.size(); ++h) {
      EXPECT_EQ(lockstep.ranks[h].counts.bytes_received, run.ranks[h].counts.bytes_received);
      EXPECT_EQ(lockstep.ranks[h].counts.bytes_sent, run.ranks[h].counts.bytes_sent);
      ASSERT_EQ(lockstep.layers[h].size(), 3U);
      for (const auto& layer : lockstep.layers[h]) {
        EXPECT_GT(layer.until_sent_s, 0);
        EXPECT_GT(layer.local_s, 0);
        EXPECT_EQ(layer.rest_s > 0, plan.strategy == "apb" && h > 0);
      }
    }
  }
}

TEST_F(bench_engine_test, what_ends_a_pass_is_thrown) {
  const std::vector plans{plan_of("apb", 2, 300, views)};
  bench_engine engine(devices, plans);
  auto document = generated_tokens(300, 100, 1);
  document[7] = 100;
  EXPECT_THROW(engine.run(plans[0], document, query), fault);
  EXPECT_THROW(engine.run_in_lockstep(plan_of("apb", 2, 300, std::vector{views[0]}), document, query), fault);
}

TEST_F(bench_engine_test, a_report_compares_with_the_first_row_of_a_length_and_says_what_is_projected) {
  prefill_report report;
  report.model = "m";
  report.kernel_class = "c";
  report.speed = {1e9, 1e9};
  for (const char* strategy : {"full", "apb"}) {
    prefill_row row;
    row.plan = plan_of(strategy, strategy == std::string("full") ? 1 : 4, 300, views);
    row.device_work = strategy == std::string("full") ? 4e9 : 1e9;
    row.seconds = strategy == std::string("full") ? std::vector<double>{8, 9, 10} : std::vector<double>{4, 3, 2};
    row.phase_s.resize(3);
    row.exposed_wait_s = {0, 0, 0};
    row.busy_max_over_mean = {1, 1, 1};
    report.rows.push_back(row);
  }
  EXPECT_DOUBLE_EQ(report.ratio(report.rows[1]), 3);
  EXPECT_DOUBLE_EQ(report.counted_ratio(report.rows[1]), 4);
  EXPECT_DOUBLE_EQ(report.share_of_ceiling(report.rows[1]), 1 / 3.0);
  EXPECT_EQ(table(report).find("PROJECTED"), std::string::npos);
  const auto json = to_json(report);
  EXPECT_EQ(json["rows"][1]["median_s"], 3.0);
  EXPECT_EQ(json["rows"][1]["block_tokens"], (std::vector<int>{75, 75, 75, 75}));
  const auto svg = svg_plot(report);
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
  EXPECT_NE(svg.find(">apb 4</text>"), std::string::npos);
  report.rows[0].projected = report.rows[1].projected = true;
  const auto text = table(report);
  EXPECT_NE(text.find("PROJECTED"), std::string::npos);
  for (std::size_t at = 0; at < text.size();) {
    const auto end = text.find('\n', at);
    EXPECT_LE(end - at, 80U) << text.substr(at, end - at);
    at = end + 1;
  }
}

TEST(calibration, gives_rates_that_are_kept_and_found_under_their_key_alone) {
  const auto kernels = cpu::make_cpu_backend({.threads = 1});
  auto shape = tiny_shape();
  const auto rates = calibrate(*kernels, shape.config, shape.retaining_width, 512, 0.01);
  EXPECT_GT(rates.token_s, 0);
  EXPECT_GT(rates.causal_pair_s, 0);
  EXPECT_GT(rates.dense_pair_s, 0);
  EXPECT_EQ(rates.chunk_tokens, 512);
  ASSERT_GE(rates.chunks[0].rows, 32);
  for (std::size_t i = 0; i < rates.chunks.size() && rates.chunks[i].rows > 0; ++i) {
    EXPECT_GT(rates.chunks[i].tokens_s, 0);
    EXPECT_GT(rates.chunks[i].key_s, 0);
    EXPECT_GE(rates.chunks[i].attend_s, 0);
  }
  const temporary_directory folder;
  const auto file = folder.path() / "deep" / "rates.json";
  const auto key = rates_key(kernels->kernel_class(), "threads 1", shape.config, 16, 512);
  EXPECT_FALSE(find_rates(file, key));
  keep_rates(file, "another", {1, 2, 3, 4});
  keep_rates(file, key, rates);
  EXPECT_EQ(find_rates(file, key), rates);
  EXPECT_EQ(find_rates(file, "another"), (device_rates{1, 2, 3, 4}));
  EXPECT_FALSE(find_rates(file, rates_key(kernels->kernel_class(), "threads 2", shape.config, 16, 512)));
  // What another version of this wrote, or nobody.
  const std::string four = R"("token_s": 1, "scored_token_s": 2, "causal_pair_s": 3, "dense_pair_s": 4)";
  const std::string all = four + R"(, "passed_unit_s": 0, "compressor_s": 0, "chunk_tokens": 512)";
  const std::string chunk = R"({"rows": 32, "tokens_s": 1, "attend_s": 0, "key_s": 1})";
  const std::string many = chunk + "," + chunk + "," + chunk + "," + chunk + "," + chunk;
  for (const auto& broken :
       {std::string(R"("token_s": "x")"), four, all, all + R"(, "chunks": [{"rows": 32}])",
        all + R"(, "chunks": [)" + chunk + "," + chunk + "]", all + R"(, "chunks": [)" + many + "]"}) {
    folder.write("broken.json", "{\"a\": {" + broken + "}}");
    EXPECT_FALSE(find_rates(folder.path() / "broken.json", "a")) << broken;
  }
  folder.write("whole.json", "{\"a\": {" + all + R"(, "chunks": [)" + chunk + "]}}");
  EXPECT_TRUE(find_rates(folder.path() / "whole.json", "a"));
}

TEST(kernel_bench, times_every_kernel_and_shows_it_on_80_columns) {
  const auto kernels = cpu::make_cpu_backend({.threads = 2});
  const kernel_sizes sizes{
      .rows = 32, .tokens = 16, .chunk_tokens = 8, .keys = 64, .weights_bytes = 1, .scored_tokens = 64};
  kernel_report report{kernels->kernel_class(), 2, {1e9, 1e9}, time_kernels(*kernels, 1, sizes)};
  std::vector<std::string> names;
  for (const auto& k : report.kernels) {
    names.push_back(k.name);
    EXPECT_GT(k.median_s, 0) << k.name;
    EXPECT_GT(k.share(report.speed), 0) << k.name;
  }
  for (const char* name : {"linear", "attend", "attend_few", "rms_norm", "swiglu", "rotate", "embed", "merge_attention",
                           "score_keys", "max_pool", "select_top", "gather"}) {
    EXPECT_NE(std::ranges::find(names, name), names.end()) << name;
  }
  const auto text = table(report);
  for (std::size_t at = 0; at < text.size();) {
    const auto end = text.find('\n', at);
    EXPECT_LE(end - at, 80U);
    at = end + 1;
  }
  EXPECT_EQ(to_json(report)["kernels"].size(), report.kernels.size());

  const std::vector<std::string> wanted{"swiglu", "gather"};
  std::vector<std::string> timed;
  for (const auto& k : time_kernels(*kernels, 1, sizes, wanted)) timed.push_back(k.name + " " + k.sizes);
  EXPECT_EQ(timed, (std::vector<std::string>{"swiglu 16 x 4096", "swiglu 8 x 4096", "gather 8 of 64 tokens"}));
  EXPECT_TRUE(time_kernels(*kernels, 1, sizes, std::vector<std::string>{"nothing"}).empty());
}

}  // namespace
}  // namespace baton
