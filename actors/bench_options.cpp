#include "actors/bench_options.hpp"

#include <charconv>

#include <CLI/CLI.hpp>

#include "kernels/fault.hpp"

namespace baton {
namespace {

constexpr auto prefill_examples = R"(
Examples:
  baton bench prefill --shape configs/shapes/small.yaml --lengths 4K,8K,16K
  baton bench prefill --model models/needle --strategies full,apb --lengths 32K --ranks 8 --svg build/prefill.svg
  baton bench prefill --shape configs/shapes/small.yaml --virtual-ranks 8 --link-gbit-per-s 200)";

constexpr auto kernels_examples = R"(
Examples:
  baton bench kernels
  baton bench kernels --threads 1 --json build/kernels.json
  baton bench kernels --only attend,swiglu)";

void add_device_options(CLI::App& app, bench_options& o) {
  app.add_option("--config", o.config, "YAML file whose devices are used; without one, a CPU device with all cores")
      ->type_name("FILE");
  app.add_option("--precision", o.precision, "bf16, or fp32 to verify")->type_name("P");
  app.add_option("--threads", o.threads, "of each CPU device")->type_name("N");
  app.add_option("--json", o.json, "writes everything there")->type_name("FILE");
  app.add_flag("--quiet", o.quiet, "no progress on standard error");
}

}  // namespace

void add_bench_command(CLI::App& app, bench_options& o) {
  auto* bench = app.add_subcommand("bench", "measure prefill or kernels on this machine");
  bench->require_subcommand(1);
  bench->footer("\nExamples:\n  baton bench prefill --model models/needle --lengths 8K\n  baton bench kernels");
  auto* prefill = bench->add_subcommand(
      "prefill", "prefill generated documents by several strategies, in turns, beside the machine's ceiling");
  auto* model = prefill->add_option("--model", o.model, "checkpoint directory")->type_name("DIR");
  prefill->add_option("--shape", o.shape, "a model's sizes; its weights are drawn (configs/shapes)")
      ->type_name("FILE")
      ->excludes(model);
  prefill->add_option("--strategies", o.strategies, "which; the others are compared with the first")
      ->delimiter(',')
      ->type_name("S,…");
  prefill->add_option("--lengths", o.lengths, "document tokens, such as 8K or 1M")->delimiter(',')->type_name("N,…");
  prefill
      ->add_option("--ranks", o.ranks, "shares of the document; with 1, a strategy that splits is full, and left out")
      ->delimiter(',')
      ->type_name("H,…");
  prefill->add_option("--blocks", o.blocks, "even, balanced (lengths that should finish together), or both")
      ->delimiter(',')
      ->type_name("B,…");
  prefill->add_flag("--calibrate", o.calibrate, "measure what the cost model knows of the device anew");
  prefill
      ->add_option("--virtual-ranks", o.virtual_ranks,
                   "time so many ranks alone on the first device, and project a cluster that has a device for each")
      ->type_name("H");
  prefill->add_option("--link-gbit-per-s", o.link_gbit_per_s, "of the projected cluster; 100")->type_name("G");
  prefill->add_option("--link-latency-us", o.link_latency_us, "of the projected cluster; 10")->type_name("U");
  prefill->add_option("--compressor", o.compressor, "auto, retaining_heads, query_key, recent or random")
      ->type_name("C");
  prefill->add_option("--query-tokens", o.query_tokens, "of the question; 64")->type_name("N");
  prefill->add_option("--chunk-tokens", o.chunk_tokens, "token-wise work goes in chunks of this many")->type_name("N");
  prefill->add_option("--repeats", o.repeats, "of everything, in turns, after one run to warm up; 3")->type_name("N");
  prefill->add_option("--svg", o.svg, "draws a plot there")->type_name("FILE");
  add_device_options(*prefill, o);
  prefill->footer(prefill_examples);
  prefill->callback([&o] { o.what = bench_options::kind::prefill; });

  auto* kernels = bench->add_subcommand(
      "kernels", "time every kernel beside the fastest matmul, or the fastest copy, of the same device");
  kernels->add_option("--only", o.only, "these kernels, by the names of the table")->delimiter(',')->type_name("K,…");
  add_device_options(*kernels, o);
  kernels->footer(kernels_examples);
  kernels->callback([&o] { o.what = bench_options::kind::kernels; });
}

std::int64_t parse_tokens(const std::string& text) {
  std::int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  const std::string unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  const std::int64_t size = unit.empty() ? 1 : unit == "K" ? 1024 : unit == "M" ? 1 << 20 : 0;
  if (error != std::errc() || size == 0 || count < 1 || count > (std::int64_t{1} << 31) / size) {
    throw fault(fault_code::bad_input, "'" + text + "' is no number of tokens; such as 8K, 1M or 5000", "--lengths");
  }
  return count * size;
}

}  // namespace baton
