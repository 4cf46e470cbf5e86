#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace baton {

/// `baton bench prefill` and `baton bench kernels` as typed; what was not given stays empty.
struct bench_options {
  enum class kind : std::uint8_t { none, prefill, kernels };
  kind what = kind::none;
  std::optional<std::filesystem::path> config;
  std::optional<std::filesystem::path> model;
  std::optional<std::filesystem::path> shape;
  std::vector<std::string> strategies{"full", "star", "apb"};
  std::vector<std::string> lengths{"8K", "32K"};
  std::vector<int> ranks{1, 4, 8};
  std::vector<std::string> blocks{"even"};
  bool calibrate = false;
  std::optional<int> virtual_ranks;
  std::optional<std::string> compressor;
  std::optional<std::string> precision;
  std::optional<int> threads;
  std::int64_t query_tokens = 64;
  std::optional<std::int64_t> chunk_tokens;
  int repeats = 3;
  double link_gbit_per_s = 100;
  double link_latency_us = 10;
  std::optional<std::filesystem::path> json;
  std::optional<std::filesystem::path> svg;
  std::vector<std::string> only;  ///< of kernels: these names
  bool quiet = false;
};

/// Adds `bench` with its subcommands; parsing sets `what`.
void add_bench_command(CLI::App& app, bench_options& options);

/// "8K", "1M", "5000": tokens. Throws fault(bad_input).
std::int64_t parse_tokens(const std::string& text);

}  // namespace baton
